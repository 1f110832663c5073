// How the threads of a grid share rows, for kernels that need a whole row before they write it.
//
// `lanes` threads share a row: up to 32 within one warp, of which a block has several, then a block
// of them. Each reads groups of 16 bytes and keeps up to four; longer rows are read again. All of
// that depends on the length of a row alone, never on their number.
#pragma once
#include "core/integers.h"
#include "gpu/launch.h"
#include "gpu/reduce.cuh"
#include "gpu/vec.cuh"

namespace kvops::gpu {

// Threads of a block that has several rows.
inline constexpr int kSmallBlock = 256;

// Threads at most of a block that has a part of a row.
inline constexpr int kClusterThreads = 512;

struct Shape {
  int64_t rows, d;
  int lanes, per_block, shift;  // threads of a row; rows of a block; log2(lanes) if those are many

  // Which row of its block a thread has.
  __device__ int sub() const { return per_block > 1 ? int(threadIdx.x) >> shift : 0; }
};

// Lanes of rows of so many groups, and how many groups each keeps; 0: none, the row is too long.
// Within a warp as long as four groups each suffice; from there on four each, which on an H200 is
// the fastest at any number of rows.
inline int choose(int64_t groups, Shape& shape) {
  shape.lanes = 1, shape.shift = 0, shape.per_block = 1;
  if (groups <= 128) {
    while (shape.lanes < groups && shape.lanes < 32) shape.lanes *= 2, ++shape.shift;
    shape.per_block = kSmallBlock >> shape.shift;
    return groups <= 32 ? 1 : groups <= 64 ? 2 : 4;
  }
  int64_t lanes = round_up(ceil_div(groups, 4), kLaneStep);
  shape.lanes = lanes > kMaxThreads ? kMaxThreads : int(lanes);
  return lanes > kMaxThreads ? 0 : 4;
}

template <class T>
FlatRows<T> flat(const RowsView<T>& v) {
  return {v.data, v.stride[0]};
}

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

inline Grid grid_of(const gpu::Shape& shape) {
  int64_t blocks = ceil_div(shape.rows, shape.per_block);
  return {.x = blocks < INT32_MAX ? blocks : INT32_MAX, .threads = shape.lanes * shape.per_block};
}

// A grid of clusters of `blocks`, each with one of few rows, whose groups need so many threads in
// all; x is 0 where these are more than a cluster has, or the kernel has no clusters there.
inline Grid cluster_grid(const kvops_tensor& on, const void* kernel, int64_t rows, int64_t threads,
                         int blocks) {
  const int64_t each = round_up(ceil_div(threads, blocks), gpu::kLaneStep);
  if (each > gpu::kClusterThreads || max_cluster(on) < blocks || !is_code_for_90(on, kernel))
    return {.x = 0};
  return {.x = blocks, .y = rows, .threads = int(each), .cluster = blocks};
}

}  // namespace kvops::KVOPS_GPU
