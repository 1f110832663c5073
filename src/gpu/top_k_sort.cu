// sort_top_k: a row of positions in descending order of (key, position), for
// BY_VALUE.
//
// A block has a row: pairs of key and position as one integer, sorted by a
// bitonic network in which all comparisons point the same way, so that what a
// row lacks to a power of two need not be there. 4096 pairs are sorted in
// shared memory; longer rows in the workspace, where only the steps between far
// elements go through memory.
#include "gpu/top_k_per_row.h"
#include "gpu/top_k_span.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

using Pair = unsigned long long;  // key, position

constexpr int kTile = 4096, kThreads = 1024;
constexpr int64_t kSlices = 128;  // rows that are sorted in the workspace at a time

struct Sort {
  TopKRows ranges;
  const float* logits;
  int64_t stride, step;
  int32_t* indices;
  int64_t out_stride, rows;
  int k;
  int64_t length;  // of a slice
  Pair* slices;
};

__device__ void order(Pair& a, Pair& b) {
  const Pair x = a, y = b;
  if (x < y) a = y, b = x;
}

// Sizes and distances are powers of two. Each element of the lower half of a run of `size` with its
// mirror image in the upper half.
__device__ void flip(Pair* x, int n, int size) {
  const int half = size / 2, pairs = (n + size - 1) / size * half;
  for (int i = int(threadIdx.x); i < pairs; i += kThreads) {
    const int at = i & (half - 1), run = (i - at) * 2, other = run + size - 1 - at;
    if (other < n) order(x[run + at], x[other]);
  }
  __syncthreads();
}
// Each element with the one `distance` behind it, in runs of two distances.
__device__ void step(Pair* x, int n, int distance) {
  const int pairs = (n + 2 * distance - 1) / (2 * distance) * distance;
  for (int i = int(threadIdx.x); i < pairs; i += kThreads) {
    const int at = i + (i & -distance);
    if (at + distance < n) order(x[at], x[at + distance]);
  }
  __syncthreads();
}

__device__ void sort_tile(Pair* tile, int n) {
  for (int size = 2; size / 2 < n; size *= 2) {
    flip(tile, n, size);
    for (int d = size / 4; d; d /= 2) step(tile, n, d);
  }
}

__device__ void sort_long(Pair* x, int n, Pair* tile) {
  auto tiles = [&](bool merged) {
    for (int base = 0; base < n; base += kTile) {
      const int m = n - base < kTile ? n - base : kTile;
      for (int i = int(threadIdx.x); i < m; i += kThreads) tile[i] = x[base + i];
      __syncthreads();
      if (merged)
        for (int d = kTile / 2; d; d /= 2) step(tile, m, d);
      else
        sort_tile(tile, m);
      for (int i = int(threadIdx.x); i < m; i += kThreads) x[base + i] = tile[i];
      __syncthreads();
    }
  };
  tiles(false);
  for (int size = 2 * kTile; size / 2 < n; size *= 2) {
    flip(x, n, size);
    for (int d = size / 4; d >= kTile; d /= 2) step(x, n, d);
    tiles(true);
  }
}

__global__ void __launch_bounds__(kThreads) sort_kernel(KVOPS_IN_PLACE Sort sort) {
  __shared__ Pair tile[kTile];
  for (int64_t r = blockIdx.x; r < sort.rows; r += gridDim.x) {
    const auto range = sort.ranges.range(r);
    const int n = range.count < sort.k ? int(range.count) : sort.k;
    const float* row = sort.logits + r * sort.stride + range.first * sort.step;
    int32_t* out = sort.indices + r * sort.out_stride;
    Pair* x = n <= kTile ? tile : sort.slices + blockIdx.x * sort.length;
    for (int i = int(threadIdx.x); i < n; i += kThreads) {
      const int32_t position = out[i];
      x[i] = Pair(key_of(row[position * sort.step])) << 32 | uint32_t(position);
    }
    __syncthreads();
    if (n <= kTile) {
      sort_tile(tile, n);
    } else {
      sort_long(x, n, tile);
    }
    for (int i = int(threadIdx.x); i < n; i += kThreads) out[i] = int32_t(uint32_t(x[i]));
    __syncthreads();
  }
}

int64_t slice_length(const kvops_tensor& logits, const kvops_tensor& indices) {
  const int64_t n = logits.shape[1] < indices.shape[1] ? logits.shape[1] : indices.shape[1];
  return n <= kTile ? 0 : n;
}
int64_t slices(const kvops_tensor& indices) {
  return indices.shape[0] < kSlices ? indices.shape[0] : kSlices;
}

}  // namespace

int64_t top_k_per_row_bytes(const kvops_tensor& logits, const kvops_tensor& indices,
                            int64_t order) {
  if (order != KVOPS_TOP_K_BY_VALUE) return 0;
  return slices(indices) * slice_length(logits, indices) * int64_t(sizeof(Pair));
}

kvops_status sort_top_k(const TopK& job) {
  const auto logits = view<const float, 2>(job.logits);
  const auto out = view<int32_t, 2>(job.indices);
  const Sort sort = {job.ranges,
                     logits.data,
                     logits.stride[0],
                     logits.stride[1],
                     out.data,
                     out.stride[0],
                     out.shape[0],
                     int(out.shape[1]),
                     slice_length(job.logits, job.indices),
                     static_cast<Pair*>(job.workspace.data)};
  const int64_t rows = sort.rows < INT32_MAX ? sort.rows : INT32_MAX;
  const Grid grid = {.x = sort.length ? slices(job.indices) : rows, .threads = kThreads};
  return launch(job.op, sort_kernel, grid, job.indices, sort);
}

}  // namespace kvops::KVOPS_GPU
