// What swap_blocks and swap_blocks_batch have in common on every back end: the checks of their HOST
// tensors, and the merging of neighbours. Copies that continue each other on both sides become one,
// unless its source would overlap its destination: then the order of the parts counts.
#pragma once
#include <cstdint>

#include "kvcache_ops/transfer.h"

namespace kvops {

struct Copy {
  char* to;
  const char* from;
  int64_t bytes;
  int64_t element = 0;  // of the call: the first one, where several have been merged
};

// Bytes from the first element of a tensor to the end of the last one above it.
int64_t bytes_above(const kvops_tensor& t);

// All pairs lie within both tensors; all sizes are >= 0, and no address is 0 where a size is not.
kvops_status check_pairs(const kvops_swap_blocks_args& a);
kvops_status check_copies(const kvops_swap_blocks_batch_args& a);

// Copy i of a call that passed the check.
inline Copy copy_of(const kvops_swap_blocks_args& a, int64_t i) {
  auto* pair = static_cast<const int64_t*>(a.block_mapping.data) + i * a.block_mapping.stride[0];
  int64_t bytes = a.block_size_in_bytes, to = pair[a.block_mapping.stride[1]];
  return {static_cast<char*>(a.dst.data) + to * bytes,
          static_cast<const char*>(a.src.data) + pair[0] * bytes, bytes, i};
}
inline Copy copy_of(const kvops_swap_blocks_batch_args& a, int64_t i) {
  auto at = [i](const kvops_tensor& t) { return static_cast<const int64_t*>(t.data)[i]; };
  return {reinterpret_cast<char*>(at(a.dst_ptrs)), reinterpret_cast<const char*>(at(a.src_ptrs)),
          at(a.sizes), i};
}

inline bool ranges_meet(const char* a, const char* b, int64_t bytes) {
  return a < b + bytes && b < a + bytes;
}

// Calls emit(copy) for copies first to last of the call in their order, merged; empty ones and
// copies of a place onto itself vanish.
template <class Args, class F>
void for_each_merged(const Args& a, int64_t first, int64_t last, F&& emit) {
  Copy run = {nullptr, nullptr, 0};
  for (int64_t i = first; i < last; ++i) {
    Copy next = copy_of(a, i);
    if (!next.bytes || next.to == next.from) continue;
    bool continues = run.to + run.bytes == next.to && run.from + run.bytes == next.from;
    if (run.bytes && continues && !ranges_meet(run.to, run.from, run.bytes + next.bytes)) {
      run.bytes += next.bytes;
      continue;
    }
    if (run.bytes) emit(run);
    run = next;
  }
  if (run.bytes) emit(run);
}
template <class Args, class F>
void for_each_merged(const Args& a, int64_t n, F&& emit) {
  for_each_merged(a, 0, n, emit);
}

}  // namespace kvops
