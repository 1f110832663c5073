// Row-wise top-k before any logit is read: where the rows begin and end, for host and device.
#pragma once
#include "core/view.h"
#include "kvcache_ops/sparse.h"

namespace kvops {

struct TopKRows {
  int64_t columns;
  // Row r ends at ends[r / group * outer + r % group * inner]; where rows of a group share an
  // entry, the last of them ends there, each one before it a column earlier.
  const int32_t *ends, *starts = nullptr;
  int64_t group = 1, outer = 1, inner = 0;
  bool shared = false;

  struct Range {
    int64_t first, count;
  };
  KVOPS_HD Range range(int64_t r) const {
    const int64_t item = group > 1 ? r / group : r, within = r - item * group;
    int64_t end = ends[item * outer + within * inner], first = starts ? starts[r] : 0;
    if (shared) end += within + 1 - group;
    if (end > columns) end = columns;
    if (first < 0) first = 0;
    if (first > columns) first = columns;
    return {first, end > first ? end - first : 0};
  }
};

inline TopKRows top_k_rows(const kvops_top_k_per_row_prefill_args& a) {
  return {a.logits.shape[1], static_cast<const int32_t*>(a.row_ends.data),
          static_cast<const int32_t*>(a.row_starts.data)};
}

inline TopKRows top_k_rows(const kvops_top_k_per_row_decode_args& a) {
  const auto& lengths = a.seq_lens;
  TopKRows rows = {a.logits.shape[1], static_cast<const int32_t*>(lengths.data)};
  const int64_t width = lengths.rank == 2 ? lengths.shape[1] : 1;
  const bool each = lengths.shape[0] * width == a.indices.shape[0];  // a length for each row
  rows.outer = lengths.stride[0];
  if (!each || width > 1) rows.group = a.next_n;
  if (each && width > 1) rows.inner = lengths.stride[1];
  rows.shared = !each;
  return rows;
}

}  // namespace kvops
