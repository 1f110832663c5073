// cp_gather_and_upconvert_fp8_kv_cache: 656-byte records of a batch as rows of 576 halves.
//
//   512 e4m3 codes, times the scale of their 128 | 64 rope elements as they are
//
// A thread takes some rows. Products are rounded to f32, then to T.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cp_gather_and_upconvert_fp8_kv_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_row-inl.h"
#include "cpu/gather-inl.h"

// Everything that is compiled once only.
#include "cpu/isa.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Args = kvops_cp_gather_and_upconvert_fp8_kv_cache_args;

template <class T, class F8>
kvops_status upconvert(const Args& a, const GatherMap& map) {
  constexpr int64_t kLatent = 512, kTile = 128, kRopeBytes = 64 * sizeof(T);
  return gather_entries<uint8_t, T>(
      map, a.kv_cache, a.out, a.faults, [&]<bool stream>(const uint8_t* entry, T* row) {
        for (int64_t k = 0; k < kLatent / kTile; ++k) {
          float scale;
          hwy::CopyBytes<4>(entry + kLatent + 4 * k, &scale);
          read_row<stream>(reinterpret_cast<const F8*>(entry) + k * kTile, row + k * kTile, kTile,
                           scale);
        }
        copy_bytes<stream>(entry + 528, reinterpret_cast<uint8_t*>(row + kLatent), kRopeBytes);
      });
}

}  // namespace

kvops_status cp_gather_and_upconvert_fp8_kv_cache(
    const kvops_cp_gather_and_upconvert_fp8_kv_cache_args& a) {
  const auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  constexpr auto* op = "cp_gather_and_upconvert_fp8_kv_cache";
  return dispatch(op, "out", a.out.dtype, Halves{}, [&]<class T>() {
    return a.fp8_encoding == KVOPS_FP8_FNUZ ? upconvert<T, f8_e4m3fnuz>(a, map)
                                            : upconvert<T, f8_e4m3>(a, map);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(cp_gather_and_upconvert_fp8_kv_cache)
}  // namespace kvops::cpu
#endif
