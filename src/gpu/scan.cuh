// Sums and prefix sums of integers over a warp and over a block.
#pragma once
#include "gpu/device.cuh"

namespace kvops::gpu {

__device__ inline int lane_id() { return int(threadIdx.x) % kWarp; }
__device__ inline int warp_id() { return int(threadIdx.x) / kWarp; }

// The sum of v over the lanes up to this one.
__device__ inline int warp_scan(int v) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int lower = shuffle_up(v, step);
    if (lane_id() >= step) v += lower;
  }
  return v;
}

// The sum over all lanes, in every lane.
__device__ inline int warp_sum(int v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return int(__reduce_add_sync(0xFFFFFFFFu, unsigned(v)));
#else
  return shuffle(warp_scan(v), kWarp - 1);
#endif
}

// One number of every warp of a block.
struct WarpScratch {
  int of[kMaxThreads / 32];
};

// The sum of `total`, the same in all lanes, over the warps below this one. All threads call it; a
// second call with the same scratch needs a barrier between them.
__device__ inline int sum_below(int total, WarpScratch& scratch) {
  if (lane_id() == 0) scratch.of[warp_id()] = total;
  __syncthreads();
  return warp_sum(lane_id() < warp_id() ? scratch.of[lane_id()] : 0);
}

}  // namespace kvops::gpu
