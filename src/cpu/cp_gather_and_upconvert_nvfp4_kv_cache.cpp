// cp_gather_and_upconvert_nvfp4_kv_cache: 352-byte records of a batch as rows of 576 halves.
//
//   512 e2m1 codes, times the e4m3 scale of their 16 | 64 e4m3 rope elements
//
// Products have six significant bits: exact in either half. A thread takes some rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cp_gather_and_upconvert_nvfp4_kv_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_row-inl.h"
#include "cpu/gather-inl.h"
#include "cpu/nvfp4-inl.h"

// Everything that is compiled once only.
#include "cpu/isa.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Args = kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args;

template <class T>
kvops_status upconvert(const Args& a, const GatherMap& map) {
  constexpr int64_t kLatent = 512, kRope = 64, kGroups = kLatent / 16;
  return gather_entries<uint8_t, T>(
      map, a.kv_cache, a.out, a.faults, [&]<bool stream>(const uint8_t* entry, T* row) {
        for (int64_t i = 0; i < 352; i += 64) prefetch(entry + i, kCodesAhead);
        float scales[kGroups];  // as they lie in the record: 8 of groups 0, 4, ..., 8 of 1, 5, ...
        read_row<false>(reinterpret_cast<const f8_e4m3*>(entry + 320), scales, kGroups, 1.0f);
        for (int64_t g = 0; g < kGroups; g += 2) {
          const float* scale = scales + 8 * (g % 4) + g / 4;
          load_codes<stream>(entry + 8 * g, scale[0], scale[8], row + 16 * g);
        }
        read_row<stream>(reinterpret_cast<const f8_e4m3*>(entry + 256), row + kLatent, kRope, 1.0f);
      });
}

}  // namespace

kvops_status cp_gather_and_upconvert_nvfp4_kv_cache(
    const kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args& a) {
  const auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  return dispatch("cp_gather_and_upconvert_nvfp4_kv_cache", "out", a.out.dtype, Halves{},
                  [&]<class T>() { return upconvert<T>(a, map); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(cp_gather_and_upconvert_nvfp4_kv_cache)
}  // namespace kvops::cpu
#endif
