// top_k_per_row_prefill: rows with a start and an end of their own; the work is top_k_per_row's.
#include "cpu/top_k_per_row.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status top_k_per_row_prefill(const kvops_top_k_per_row_prefill_args& a) {
  return top_k_per_row({view<const float, 2>(a.logits), view<int32_t, 2>(a.indices),
                        a.workspace.data, a.order, top_k_rows(a)});
}

int64_t top_k_per_row_prefill_bytes(const kvops_top_k_per_row_prefill_args& a) {
  return TopKPlan(a.indices.shape[0], a.logits.shape[1], a.indices.shape[1]).bytes();
}

}  // namespace kvops::cpu
