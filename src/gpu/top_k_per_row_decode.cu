// top_k_per_row_decode: rows that begin at column 0, next_n of them for every
// request, with a length each or one for all of a request; the work is
// top_k_per_row's.
#include "gpu/top_k_per_row.h"

namespace kvops::KVOPS_GPU {

kvops_status top_k_per_row_decode(const kvops_top_k_per_row_decode_args& a) {
  return top_k_per_row(
      {"top_k_per_row_decode", a.logits, a.indices, a.workspace, a.order, top_k_rows(a)});
}

int64_t top_k_per_row_decode_bytes(const kvops_top_k_per_row_decode_args& a) {
  return top_k_per_row_bytes(a.logits, a.indices, a.order);
}

}  // namespace kvops::KVOPS_GPU
