// top_k_per_row_decode: rows that begin at column 0, next_n of them for every request, with a
// length each or one for all of a request; the work is top_k_per_row's.
#include "cpu/top_k_per_row.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status top_k_per_row_decode(const kvops_top_k_per_row_decode_args& a) {
  TopK job = {view<const float, 2>(a.logits), view<int32_t, 2>(a.indices), a.workspace.data,
              a.order};
  const auto& lengths = a.seq_lens;
  job.ends = static_cast<const int32_t*>(lengths.data);
  job.outer = lengths.stride[0];
  const int64_t width = lengths.rank == 2 ? lengths.shape[1] : 1;
  const bool each = lengths.shape[0] * width == job.rows();  // a length for each row
  if (!each || width > 1) job.group = a.next_n;
  if (each && width > 1) job.inner = lengths.stride[1];
  job.shared = !each;
  return top_k_per_row(job);
}

int64_t top_k_per_row_decode_bytes(const kvops_top_k_per_row_decode_args& a) {
  return TopKPlan(a.indices.shape[0], a.logits.shape[1], a.indices.shape[1]).bytes();
}

}  // namespace kvops::cpu
