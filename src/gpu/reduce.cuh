// Sums and extremes over the threads that share a row. Sums in an order that depends on the number
// of threads only.
#pragma once
#include "core/numeric.h"
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

// The smallest and the largest value, NaN left out: +Inf and -Inf where there is none.
struct Extremes {
  float least, most;
  __device__ void take(float x) { least = fminf(least, x), most = fmaxf(most, x); }
  __device__ void take(const Extremes& e) {
    least = fminf(least, e.least), most = fmaxf(most, e.most);
  }
  __device__ void share(int mask) {
    take(Extremes{shuffle_xor(least, mask), shuffle_xor(most, mask)});
  }
};
__device__ inline Extremes no_extremes() {
  return {bits_float(0x7F800000u), bits_float(0xFF800000u)};
}

// As row_sum.
struct ExtremesScratch {
  Extremes warp[2][kMaxThreads / 32];
};
__device__ inline Extremes row_extremes(Extremes e, int lanes, ExtremesScratch& scratch, int turn) {
  if (lanes < kWarp) {
    for (int mask = lanes / 2; mask; mask /= 2) e.share(mask);
    return e;
  }
#pragma unroll
  for (int mask = kWarp / 2; mask; mask /= 2) e.share(mask);
  if (lanes == kWarp) return e;
  int thread = int(threadIdx.x);
  if (thread % kWarp == 0) scratch.warp[turn][thread / kWarp] = e;
  __syncthreads();
#pragma unroll 4
  for (int i = 0; i < lanes / kWarp; ++i) e.take(scratch.warp[turn][i]);
  return e;
}

}  // namespace kvops::gpu
