// Vertical-slash lists before any vector does: whose lists a row block has, and where its own go.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/view.h"
#include "kvcache_ops/sparse.h"

namespace kvops::cpu {

struct VerticalSlash {
  const int32_t *q_lengths, *kv_lengths;  // [batch]
  TensorView<const int32_t, 3> verticals, slashes;
  const int32_t *vertical_counts = nullptr, *slash_counts = nullptr;  // [heads], or all entries
  TensorView<int32_t, 3> block_count, column_count;
  TensorView<int32_t, 4> block_offset, column_index;
  int64_t* faults;
  int64_t m, n;
  bool causal;

  template <class Args>
  explicit VerticalSlash(const Args& a)
      : q_lengths(static_cast<const int32_t*>(a.q_seq_lens.data)),
        kv_lengths(static_cast<const int32_t*>(a.kv_seq_lens.data)),
        verticals(view<const int32_t, 3>(a.vertical_indexes)),
        slashes(view<const int32_t, 3>(a.slash_indexes)),
        block_count(view<int32_t, 3>(a.block_count)),
        column_count(view<int32_t, 3>(a.column_count)),
        block_offset(view<int32_t, 4>(a.block_offset)),
        column_index(view<int32_t, 4>(a.column_index)),
        faults(present(a.faults) ? static_cast<int64_t*>(a.faults.data) : nullptr),
        m(a.block_size_m),
        n(a.block_size_n),
        causal(a.causal) {}

  int64_t batch() const { return block_count.shape[0]; }
  int64_t heads() const { return block_count.shape[1]; }
  int64_t rows() const { return block_count.shape[2]; }
  int64_t num_verticals(int64_t head) const {
    const int64_t all = verticals.shape[2];
    return vertical_counts ? std::clamp<int64_t>(vertical_counts[head], 0, all) : all;
  }
  int64_t num_slashes(int64_t head) const {
    const int64_t all = slashes.shape[2];
    return slash_counts ? std::clamp<int64_t>(slash_counts[head], 0, all) : all;
  }
};

kvops_status convert_vertical_slash(const VerticalSlash& job);

}  // namespace kvops::cpu
