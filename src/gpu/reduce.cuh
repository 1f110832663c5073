// Sums over the threads that share a row, in an order that depends on their number only.
#pragma once
#include "gpu/device.cuh"

namespace kvops::gpu {

// More lanes than 32 come in multiples of this, a multiple of every kWarp of the vendor.
#if defined(__HIP__)
inline constexpr int kLaneStep = 64;
#else
inline constexpr int kLaneStep = 32;
#endif

// Scratch of row_sum for a whole block; two, because a thread may be one row ahead of another.
struct RowScratch {
  float warp[2][kMaxThreads / 32];
};

// Sum of v over `lanes` threads: a power of two up to kWarp, or else all threads of the block, a
// multiple of kWarp. Every thread of the block calls it; `turn` alternates between 0 and 1.
__device__ inline float row_sum(float v, int lanes, RowScratch& scratch, int turn) {
  if (lanes < kWarp) {
    for (int mask = lanes / 2; mask; mask /= 2) v += shuffle_xor(v, mask);
    return v;
  }
#pragma unroll
  for (int mask = kWarp / 2; mask; mask /= 2) v += shuffle_xor(v, mask);
  if (lanes == kWarp) return v;
  int thread = int(threadIdx.x);
  if (thread % kWarp == 0) scratch.warp[turn][thread / kWarp] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll 4
  for (int i = 0; i < lanes / kWarp; ++i) sum += scratch.warp[turn][i];
  return sum;
}

}  // namespace kvops::gpu
