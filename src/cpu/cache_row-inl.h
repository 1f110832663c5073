// Rows on their way into a cache: copied as they are, or quantised to fp8 by a true division; and
// fp8 rows on their way out, times a scale.
// Cache types: the type of the source (as an integer of its size), or an fp8 type.
#include <cmath>
#include <cstring>
#include <limits>

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/fp8-inl.h"

#if defined(KVOPS_CPU_CACHE_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_CACHE_ROW_INL_H_
#undef KVOPS_CPU_CACHE_ROW_INL_H_
#else
#define KVOPS_CPU_CACHE_ROW_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

template <class S, class C>
HWY_INLINE void write_row(const S* from, C* to, int64_t n, float scale) {
  if constexpr (std::is_same_v<S, C>) {
    std::memcpy(to, from, size_t(n) * sizeof(S));
  } else {
    const hn::ScalableTag<float> d;
    const auto divisor = hn::Set(d, scale);
    const auto lanes = int64_t(hn::Lanes(d));
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(d, hn::Div(load(d, from + i), divisor), to + i);
    if (i < n)
      store_n(d, hn::Div(load_n(d, from + i, size_t(n - i)), divisor), to + i, size_t(n - i));
  }
}

template <bool stream, class C, class T>
HWY_INLINE void read_row(const C* from, T* to, int64_t n, float scale) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, scale);
  const auto lanes = int64_t(hn::Lanes(d));
  int64_t i = 0;
  if constexpr (kByHalf<C>)  // the gain is exact unless it overflows
    if (std::abs(scale * kHalfGain<C>) < std::numeric_limits<float>::infinity())
      i = read_by_half<stream>(from, to, n, scale);
  for (; i + lanes <= n; i += lanes) store<stream>(d, hn::Mul(load(d, from + i), factor), to + i);
  if (i < n) store_n(d, hn::Mul(load_n(d, from + i, size_t(n - i)), factor), to + i, size_t(n - i));
}

// The scale of head h: a scalar, or one per head; 1 when there is none.
struct Scale {
  const float* data;
  int64_t stride;
  float operator()(int64_t head) const { return data ? data[head * stride] : 1.0f; }
};
inline Scale scale_of(const kvops_tensor& t) {
  return {static_cast<const float*>(t.data), t.rank && t.shape[0] > 1 ? t.stride[0] : 0};
}

// f<Source, Cache>() for a source dtype and that of a cache.
template <class Codes = Fp8s, class F>
kvops_status dispatch_cache(const char* op, const char* argument, kvops_dtype source,
                            kvops_dtype cache, F&& f) {
  if (source == cache && source == KVOPS_F32) return f.template operator()<uint32_t, uint32_t>();
  if (source == cache) return f.template operator()<uint16_t, uint16_t>();
  return dispatch(op, argument, source, Floats{}, [&]<class S>() {
    return dispatch(op, argument, cache, Codes{},
                    [&]<class C>() { return f.template operator()<S, C>(); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
