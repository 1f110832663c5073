// fp8 codes by way of f16, which holds all of them exactly, up to a power of two: fast where f16 is
// converted in hardware. e5m2fnuz has one exponent too many for it. Or, with AVX-512, by a table.
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

#if HWY_TARGET <= HWY_AVX3
// Results for the magnitudes of an fp8 encoding; the other sign gives the other sign.
template <class S, class T>
struct CodeTable {
  hn::ScalableTag<uint16_t> d;
  hn::Vec<decltype(d)> part[4];

  explicit CodeTable(float scale) {
    alignas(64) T value[128];
    for (int i = 0; i < 128; ++i) value[i] = from_float<T>(to_float(S{uint8_t(i)}) * scale);
    for (size_t i = 0; i < 4; ++i) part[i] = load_raw(d, value + 32 * i);
  }

  HWY_INLINE hn::Vec<decltype(d)> operator()(hn::Vec<decltype(d)> code) const {
    const auto low =
        hn::Vec<decltype(d)>{_mm512_permutex2var_epi16(part[0].raw, code.raw, part[1].raw)};
    const auto high =
        hn::Vec<decltype(d)>{_mm512_permutex2var_epi16(part[2].raw, code.raw, part[3].raw)};
    const auto magnitude = hn::IfThenElse(hn::TestBit(code, hn::Set(d, 0x40)), high, low);
    // What is NaN keeps its sign: it comes from codes without one, or from 0 times infinity.
    const auto past = uint16_t(from_float<T>(std::bit_cast<float>(kInfinity)).bits + 1);
    const auto number = hn::Lt(magnitude, hn::Set(d, past));
    const auto minus = hn::And(hn::TestBit(code, hn::Set(d, 0x80)), number);
    const auto value = hn::IfThenElse(minus, hn::Xor(magnitude, hn::Set(d, 0x8000)), magnitude);
    if constexpr (!Fp8Traits<S>::kFnuz) return value;
    const auto nan = hn::Set(d, from_float<T>(std::bit_cast<float>(kQuietNan)).bits);
    return hn::IfThenElse(hn::Eq(code, hn::Set(d, 0x80)), nan, value);  // where -0 would be
  }
};
#endif

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

// Codes that are asked for, in bytes: across the ends of pages, where the hardware stops.
constexpr int64_t kCodesAhead = 2048;

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
    prefetch(from + i, kCodesAhead);
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
