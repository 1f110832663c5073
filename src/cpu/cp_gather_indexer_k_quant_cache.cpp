// cp_gather_indexer_k_quant_cache: the indexer's codes and scales of a batch as two packed arrays.
//
//   block   codes of slot 0 | 1 | ... | scales of slot 0 | 1 | ...
//
// The rows of one page are two copies. A thread takes some rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cp_gather_indexer_k_quant_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/gather-inl.h"

// Everything that is compiled once only.
#include "cpu/isa.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

kvops_status cp_gather_indexer_k_quant_cache(const kvops_cp_gather_indexer_k_quant_cache_args& a) {
  auto codes = plane_of(a.kv_cache, a.out_k), scales = plane_of(a.kv_cache, a.out_scale);
  codes.slot = codes.bytes, scales.slot = scales.bytes;
  if (!is_empty(a.kv_cache)) scales.from += a.kv_cache.shape[1] * codes.bytes;
  const auto map = gather_map(a, a.cu_seq_lens, true, a.out_k.shape[0]);
  return gather_planes(map, a.faults, codes, scales);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(cp_gather_indexer_k_quant_cache)
}  // namespace kvops::cpu
#endif
