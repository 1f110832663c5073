// cp_gather_cache: the entries of a batch of requests as rows, bit for bit.
//
// A thread takes some rows; those of one page are one copy where cache and rows are dense.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cp_gather_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/gather-inl.h"

// Everything that is compiled once only.
#include "cpu/isa.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

kvops_status cp_gather_cache(const kvops_cp_gather_cache_args& a) {
  const auto map = gather_map(a, a.cu_seq_lens, true, a.out.shape[0]);
  return gather_planes(map, a.faults, plane_of(a.kv_cache, a.out));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(cp_gather_cache)
}  // namespace kvops::cpu
#endif
