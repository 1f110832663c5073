// cpu_attn_get_scheduler_metadata: the lengths of one step to a plan; see attn_plan.h.
#include "cpu/attn_plan.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

using Args = kvops_cpu_attn_get_scheduler_metadata_args;

int64_t cpu_attn_get_scheduler_metadata_bytes(const Args& a) {
  return plan_bytes(a.seq_lens.shape[0]);
}

kvops_status cpu_attn_get_scheduler_metadata(const Args& a) {
  const int64_t reqs = a.seq_lens.shape[0];
  const AttnShape shape = {reqs,          a.num_heads, a.num_kv_heads, a.head_size,
                           a.query_dtype, a.causal,    a.window_left,  a.window_right};
  const AttnLengths lengths = {static_cast<const int32_t*>(a.query_start_loc.data),
                               static_cast<const int32_t*>(a.seq_lens.data),
                               static_cast<const int32_t*>(a.dynamic_causal.data)};
  if (auto s = lengths.check("cpu_attn_get_scheduler_metadata", reqs)) return s;
  make_plan(shape, a.isa, a.enable_kv_split != 0, lengths,
            static_cast<char*>(a.scheduler_metadata.data));
  return KVOPS_OK;
}

}  // namespace kvops::cpu
