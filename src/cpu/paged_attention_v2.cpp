// paged_attention_v2: vLLM's second entry point for the same computation.
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status paged_attention_v1(const kvops_paged_attention_v1_args& a);
int64_t paged_attention_v1_bytes(const kvops_paged_attention_v1_args& a);

kvops_status paged_attention_v2(const kvops_paged_attention_v2_args& a) {
  return paged_attention_v1(a);
}
int64_t paged_attention_v2_bytes(const kvops_paged_attention_v2_args& a) {
  return paged_attention_v1_bytes(a);
}

}  // namespace kvops::cpu
