// paged_attention_v2: vLLM's second entry point for the computation of paged_attention_v1, with the
// same bits.
#include "gpu/paged_attention_job.h"

namespace kvops::KVOPS_GPU {

kvops_status paged_attention_v2(const kvops_paged_attention_v2_args& a) {
  return run_paged_attention("paged_attention_v2", a);
}
int64_t paged_attention_v2_bytes(const kvops_paged_attention_v2_args& a) {
  return paged_attention_bytes(a);
}

}  // namespace kvops::KVOPS_GPU
