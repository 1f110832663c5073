// fp8 codes by way of f16, which holds all of them exactly, up to a power of two: fast where f16 is
// converted in hardware. e5m2fnuz has one exponent too many for it.
#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_FP8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_FP8_INL_H_
#undef KVOPS_CPU_FP8_INL_H_
#else
#define KVOPS_CPU_FP8_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

template <class C>
inline constexpr bool kByHalf = HWY_TARGET <= HWY_AVX2 && !std::is_same_v<C, f8_e5m2fnuz>;
// What the f16 must be multiplied by: e4m3 moves into an f16 with the exponent bias 15 for its own.
template <class C>
inline constexpr float kHalfGain = Fp8Traits<C>::kMantissa == 3
                                       ? float(1 << (15 - Fp8Traits<C>::kBias))
                                       : 1.0f;

// Lanes(d) codes as f16.
template <class C, class D>
HWY_INLINE hn::Vec<D> halves_of_codes(D d, const C* from) {
  const hn::Rebind<int8_t, D> d8;
  const auto c = hn::PromoteTo(d, hn::LoadU(d8, reinterpret_cast<const int8_t*>(from)));
  if constexpr (Fp8Traits<C>::kMantissa == 2) {
    return hn::ShiftLeft<8>(c);  // e5m2: the upper half of an f16
  } else {
    const auto magnitude = hn::Set(d, 0x7F);
    const auto h = hn::And(hn::ShiftLeft<7>(c), hn::Set(d, int16_t(0xBF80)));
    const auto nan = Fp8Traits<C>::kFnuz ? hn::Eq(h, hn::Set(d, int16_t(0x8000)))
                                         : hn::Eq(hn::And(c, magnitude), magnitude);
    return hn::IfThenElse(nan, hn::Set(d, int16_t(0x7E00)), h);
  }
}

// Two vectors, one after the other. To bf16: no NaN but those of an f16 or an invalid operation,
// which stay NaN when they are rounded like numbers.
template <bool stream, class D, class T>
HWY_INLINE void store_both(D d, hn::Vec<D> a, hn::Vec<D> b, T* to) {
  if constexpr (std::is_same_v<T, bf16>) {
    const Bits32<D> du;
    const hn::Repartition<uint16_t, D> d16;
    const auto rounded = [&](hn::Vec<D> v) HWY_ATTR {
      const auto u = hn::BitCast(du, v);
      const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1));
      return hn::BitCast(d16, hn::Add(u, hn::Add(odd, hn::Set(du, 0x7FFF))));
    };
    put_raw<stream>(d16, hn::ConcatOdd(d16, rounded(b), rounded(a)), to);
  } else {
    store<stream>(d, a, to);
    store<stream>(d, b, to + hn::Lanes(d));
  }
}

// The first of n codes times a scale, as many as fill vectors; how many those are.
template <bool stream, class C, class T>
HWY_INLINE int64_t read_by_half(const C* from, T* to, int64_t n, float scale) {
  const hn::ScalableTag<int16_t> d16;
  const hn::Half<decltype(d16)> half;
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  const auto factor = hn::Set(d, scale * kHalfGain<C>);
  const auto lanes = int64_t(hn::Lanes(d16));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto h = halves_of_codes<C>(d16, from + i);
    const auto a = hn::PromoteTo(d, hn::BitCast(dh, hn::LowerHalf(half, h)));
    const auto b = hn::PromoteTo(d, hn::BitCast(dh, hn::UpperHalf(half, h)));
    store_both<stream>(d, hn::Mul(a, factor), hn::Mul(b, factor), to + i);
  }
  return i;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
