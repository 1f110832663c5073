// Sums and extremes over the threads that share a row: a block, or a cluster of them. The order of
// a sum depends on the length of the row only.
#pragma once
#include "core/numeric.h"
#include "gpu/cluster.cuh"

namespace kvops::gpu {

// More lanes than 32 come in multiples of this, a multiple of every kWarp of the vendor.
#if defined(__HIP__)
inline constexpr int kLaneStep = 64;
#else
inline constexpr int kLaneStep = 32;
#endif

// The sums of K values over the lanes of a warp, halving what is left with each exchange: lane l
// has that of value l * K / kWarp.
template <int K>
__device__ inline float warp_sums(float (&v)[K]) {
  int mask = kWarp / 2;
#pragma unroll
  for (int n = K / 2; n; n /= 2, mask /= 2) {
    bool upper = int(threadIdx.x) & mask;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      float other = shuffle_xor(upper ? v[i] : v[i + n], mask);
      v[i] = (upper ? v[i + n] : v[i]) + other;
    }
  }
#pragma unroll
  for (int rest = kWarp / (2 * K); rest; rest /= 2) v[0] += shuffle_xor(v[0], rest);
  return v[0];
}

// Sums over kWarp groups that follow each other in a row, in their order, whichever threads have
// them.
struct alignas(16) Tiles {
  float sum[4 * kMaxThreads / 32];

  // Which one a thread has after warp_sums<K>(): its warp's groups are `lanes` apart.
  template <int K>
  __device__ static int index(int lane, int lanes) {
    return lane % kWarp * K / kWarp * (lanes / kWarp) + lane / kWarp;
  }
  // Of n tiles; before the barrier, and after it.
  __device__ void fill(int n) {
    if (n % 4 && threadIdx.x < 3) sum[n + int(threadIdx.x)] = 0;
  }
  __device__ float total(int n) const {
    float x[4] = {};
#pragma unroll 4
    for (int i = 0; i < n; i += 4) {
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] += sum[i + j];
    }
    return (x[0] + x[1]) + (x[2] + x[3]);
  }
};

// Scratch of row_sum; two, because a thread may be one row ahead of another.
struct RowScratch {
  Tiles tiles[2];
};

// Sum over `lanes` threads: a power of two up to kWarp, or else all threads of the block, a
// multiple of kWarp. v[i] is of the thread's group i, of 1, 2 or 4. Every thread of the block calls
// it; `turn` alternates between 0 and 1.
template <int K>
__device__ inline float row_sum(float (&v)[K], int lanes, RowScratch& scratch, int turn) {
  if (lanes <= kWarp) {
    float sum = v[0];
#pragma unroll
    for (int i = 1; i < K; ++i) sum += v[i];
    for (int mask = lanes / 2; mask; mask /= 2) sum += shuffle_xor(sum, mask);
    return sum;
  }
  float sum = warp_sums(v);
  auto& tiles = scratch.tiles[turn];
  int lane = int(threadIdx.x), n = K * lanes / kWarp;
  if (lane % (kWarp / K) == 0) tiles.sum[Tiles::index<K>(lane, lanes)] = sum;
  if constexpr (K % 4 != 0) tiles.fill(n);
  __syncthreads();
  return tiles.total(n);
}

// The same sum over all threads of a cluster of `blocks`, up to kWarp / K; `box` is open for
// K * lanes / kWarp floats.
template <int K>
__device__ inline float cluster_sum(float (&v)[K], int lane, int lanes, int blocks, Tiles& tiles,
                                    Mailbox& box) {
  float sum = warp_sums(v);
  int to = lane % (kWarp / K), n = K * lanes / kWarp;
  tiles.fill(n);
  box.wait_for_all();
  if (to < blocks) box.send(&tiles.sum[Tiles::index<K>(lane, lanes)], sum, to);
  if (n % 4) __syncthreads();
  box.receive();
  return tiles.total(n);
}

// The smallest and the largest value, NaN left out: +Inf and -Inf where there is none.
struct alignas(8) Extremes {
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
// As cluster_sum; `box` is open for lanes / kWarp extremes.
__device__ inline Extremes cluster_extremes(Extremes e, int lane, int lanes, int blocks,
                                            Extremes* warps, Mailbox& box) {
#pragma unroll
  for (int mask = kWarp / 2; mask; mask /= 2) e.share(mask);
  box.wait_for_all();
  if (lane % kWarp < blocks) box.send(&warps[lane / kWarp], e, lane % kWarp);
  box.receive();
#pragma unroll 4
  for (int i = 0; i < lanes / kWarp; ++i) e.take(warps[i]);
  return e;
}

}  // namespace kvops::gpu
