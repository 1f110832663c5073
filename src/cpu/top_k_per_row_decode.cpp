// top_k_per_row_decode: rows that begin at column 0, next_n of them for every request, with a
// length each or one for all of a request; the work is top_k_per_row's.
#include "cpu/top_k_per_row.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status top_k_per_row_decode(const kvops_top_k_per_row_decode_args& a) {
  return top_k_per_row({view<const float, 2>(a.logits), view<int32_t, 2>(a.indices),
                        a.workspace.data, a.order, top_k_rows(a)});
}

int64_t top_k_per_row_decode_bytes(const kvops_top_k_per_row_decode_args& a) {
  return TopKPlan(a.indices.shape[0], a.logits.shape[1], a.indices.shape[1]).bytes();
}

}  // namespace kvops::cpu
