// A call of convert_vertical_slash_indexes or of _mergehead, whose lists have lengths of their own.
#pragma once
#include "core/view.h"
#include "kvcache_ops/sparse.h"

namespace kvops {

// Divisor: of positions by the sizes of blocks.
template <class Divisor>
struct VerticalSlashCall {
  const int32_t *q_lengths, *kv_lengths;  // [batch]
  TensorView<const int32_t, 3> verticals, slashes;
  const int32_t *vertical_counts = nullptr, *slash_counts = nullptr;  // [heads], or all entries
  TensorView<int32_t, 3> block_count, column_count;
  TensorView<int32_t, 4> block_offset, column_index;
  int64_t* faults;
  Divisor m, n;
  bool causal;

  template <class Args>
  explicit VerticalSlashCall(const Args& a)
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
        causal(a.causal != 0) {
    if constexpr (requires { a.vertical_indices_count; }) {
      vertical_counts = static_cast<const int32_t*>(a.vertical_indices_count.data);
      slash_counts = static_cast<const int32_t*>(a.slash_indices_count.data);
    }
  }

  int64_t batch() const { return block_count.shape[0]; }
  int64_t heads() const { return block_count.shape[1]; }
  int64_t rows() const { return block_count.shape[2]; }
};

}  // namespace kvops
