// gather_and_maybe_dequant_cache: the entries of a batch of requests as rows of T.
//
//   out[t, j] = RN_T(decode(entry[j]) * kv_scale), the product rounded to f32; T entries are copied
//
// A thread takes some rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gather_and_maybe_dequant_cache.cpp"
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

template <class T, class C>
kvops_status dequantise(const kvops_gather_and_maybe_dequant_cache_args& a, const GatherMap& map) {
  const int64_t size = a.out.shape[1];
  const float scale = scale_of(a.kv_scale)(0);
  return gather_entries<C, T>(
      map, a.kv_cache, a.out, a.faults,
      [&]<bool stream>(const C* from, T* to) { read_row<stream>(from, to, size, scale); });
}

}  // namespace

kvops_status gather_and_maybe_dequant_cache(const kvops_gather_and_maybe_dequant_cache_args& a) {
  const auto map = gather_map(a, a.cu_seq_lens, true, a.out.shape[0]);
  if (a.kv_cache.dtype == a.out.dtype)
    return gather_planes(map, a.faults, plane_of(a.kv_cache, a.out));
  constexpr auto* op = "gather_and_maybe_dequant_cache";
  return dispatch(op, "out", a.out.dtype, Floats{}, [&]<class T>() {
    return dispatch(op, "kv_cache", a.kv_cache.dtype, Fp8s{},
                    [&]<class C>() { return dequantise<T, C>(a, map); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(gather_and_maybe_dequant_cache)
}  // namespace kvops::cpu
#endif
