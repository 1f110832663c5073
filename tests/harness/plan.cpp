// See plan.h.
#include "plan.h"

#include <algorithm>
#include <cstring>

namespace harness {
namespace {

int64_t packing_of(const kvops_cpu_attention_with_kv_cache_args& a) {
  const int64_t block = a.key_cache.shape[2], size = a.query.shape[2];
  if (block % 32 || size % 32) return KVOPS_CPU_ISA_VEC16;
  return block % 64 == 0 && a.query.dtype != KVOPS_F32 ? KVOPS_CPU_ISA_AMX : KVOPS_CPU_ISA_VEC;
}

struct alignas(64) Line {
  char bytes[64];
};

kvops_cpu_attn_get_scheduler_metadata_args plan_of(
    const kvops_cpu_attention_with_kv_cache_args& a) {
  kvops_cpu_attn_get_scheduler_metadata_args p = {};
  p.struct_size = sizeof p;
  p.seq_lens = a.seq_lens, p.query_start_loc = a.query_start_loc;
  p.dynamic_causal = a.dynamic_causal, p.scheduler_metadata = a.scheduler_metadata;
  p.num_heads = a.query.shape[1], p.num_kv_heads = a.key_cache.shape[1];
  p.head_size = a.query.shape[2], p.query_dtype = a.query.dtype;
  p.isa = packing_of(a), p.causal = a.causal, p.enable_kv_split = 1;
  p.window_left = a.window_left, p.window_right = a.window_right;
  return p;
}

}  // namespace

int64_t plan_bytes(const char* op, const void* args) {
  if (std::strcmp(op, "cpu_attention_with_kv_cache") != 0) return 0;
  auto p = plan_of(*static_cast<const kvops_cpu_attention_with_kv_cache_args*>(args));
  Line somewhere;  // wherever the call has it: only its size is asked
  p.scheduler_metadata.data = &somewhere;
  int64_t bytes = 0;
  return kvops_cpu_attn_get_scheduler_metadata_size(&p, &bytes) ? 0 : bytes;
}

void fill_plan(const char* op, void* args, bool full) {
  if (std::strcmp(op, "cpu_attention_with_kv_cache") != 0) return;
  auto& a = *static_cast<kvops_cpu_attention_with_kv_cache_args*>(args);
  const int64_t reqs = a.seq_lens.shape[0], tokens = a.query.shape[0];
  const int64_t keys = a.block_table.shape[1] * a.key_cache.shape[2];
  auto* starts = static_cast<int32_t*>(a.query_start_loc.data);
  auto* lengths = static_cast<int32_t*>(a.seq_lens.data);
  for (int64_t r = 0; r <= reqs; ++r) starts[r] = int32_t(reqs ? tokens * r / reqs : 0);
  for (int64_t r = 0; r < reqs; ++r) {
    const int64_t queries = starts[r + 1] - starts[r], room = std::max<int64_t>(0, keys - queries);
    lengths[r] = int32_t(full ? keys : queries + (r * 7919 + 37) % (room + 1));
  }
  // Made where plans must lie and copied: they may be read anywhere. What fails here fails again,
  // with its message, in the call that the plan is for.
  std::vector<Line> plan(size_t(a.scheduler_metadata.shape[0]) / sizeof(Line) + 1);
  auto p = plan_of(a);
  p.scheduler_metadata.data = plan.data();
  if (!kvops_cpu_attn_get_scheduler_metadata(&p))
    std::memcpy(a.scheduler_metadata.data, plan.data(), size_t(a.scheduler_metadata.shape[0]));
}

}  // namespace harness
