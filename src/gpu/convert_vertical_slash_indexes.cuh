// Vertical-slash lists: whose lists a row block has, and where its own go; the steps of
// kvcache_ops/sparse.h one by one, for lists that are in no order.
#pragma once
#include "core/vertical_slash.h"
#include "gpu/device.cuh"

namespace kvops::KVOPS_GPU {

using VerticalSlash = VerticalSlashCall<gpu::Splitter>;

namespace {

constexpr int64_t kNone = INT64_MAX;  // after the last vertical

// The lists of one head. Of lists in order the verticals outside [0, keys) are left out.
struct Lists {
  const int32_t *vertical, *slash;
  int64_t verticals, slashes, keys, queries;
};

// Where one row block begins, and what has been found.
struct Block {
  int64_t q, bound;  // its first query row; the keys that its last row sees
  int32_t *blocks, *columns;
  int64_t num_blocks = 0, num_columns = 0;
};

__device__ inline Block block_of(const VerticalSlash& job, const Lists& l, int64_t b, int64_t h,
                                 int64_t r) {
  int64_t q = r * job.m.d, first = job.causal ? l.keys - l.queries : l.keys;
  return {q, q + job.m.d + first, job.block_offset.at(b, h, r), job.column_index.at(b, h, r)};
}

__device__ inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
__device__ inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The steps of the header, for lists out of order, by one thread.
struct Steps {
  const VerticalSlash& job;
  const Lists& l;
  Block& block;
  int64_t iv = 0, is = 0, low = 0, high = 0;

  __device__ bool inside(int64_t v) const { return v >= 0 && v < l.keys; }
  __device__ void skip() {
    while (iv < l.verticals && !inside(l.vertical[iv])) ++iv;
  }
  __device__ int64_t next() {
    skip();
    return iv < l.verticals ? l.vertical[iv++] : kNone;
  }
  __device__ int64_t reach(int64_t slash) const { return larger(block.bound - slash, job.m.d); }
  __device__ void first(int64_t slash) {
    low = high = job.causal ? block.bound : l.keys;
    if (!l.slashes) return;
    if (slash > block.bound) {
      high += job.n.d;
    } else {
      high = reach(slash), low = high - job.m.d;
    }
  }
  __device__ void add() {
    for (int64_t x = low; low >= 0 && x < smaller(high, l.keys); x += job.n.d)
      block.blocks[block.num_blocks++] = int32_t(x);
  }
  __device__ void slash() {
    int64_t e = reach(l.slash[is++]);
    if (e > high + job.m.d) {
      add();
      low = e - job.m.d, high = e;
    } else if (e > high) {
      high += job.m.d;
    }
  }
  __device__ void run() {
    int64_t s = kNone, v = next();
    while (is < l.slashes && s >= block.bound) s = l.slash[is++];
    first(s);
    while (true) {
      if (v < high) {
        if (v < low) block.columns[block.num_columns++] = int32_t(v);
        v = next();
      } else if (is < l.slashes && (job.causal || l.slash[is] >= block.q)) {
        slash();
      } else if (skip(); job.causal || iv == l.verticals) {
        if (!job.causal && v < kNone) block.columns[block.num_columns++] = int32_t(v);
        return add();
      } else {
        add();
        low = l.keys, high = l.keys + job.n.d;
        is = l.slashes;
      }
    }
  }
};

}  // namespace

kvops_status convert_vertical_slash(const char* op, const VerticalSlash& job,
                                    const kvops_tensor& on);

}  // namespace kvops::KVOPS_GPU
