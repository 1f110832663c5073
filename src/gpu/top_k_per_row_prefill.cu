// top_k_per_row_prefill: rows with a start and an end of their own; the work is
// top_k_per_row's.
#include "gpu/top_k_per_row.h"

namespace kvops::KVOPS_GPU {

kvops_status top_k_per_row_prefill(const kvops_top_k_per_row_prefill_args& a) {
  return top_k_per_row(
      {"top_k_per_row_prefill", a.logits, a.indices, a.workspace, a.order, top_k_rows(a)});
}

int64_t top_k_per_row_prefill_bytes(const kvops_top_k_per_row_prefill_args& a) {
  return top_k_per_row_bytes(a.logits, a.indices, a.order);
}

}  // namespace kvops::KVOPS_GPU
