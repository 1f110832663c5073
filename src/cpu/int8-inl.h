// Rows of floats as int8 codes: what static_ and dynamic_scaled_int8_quant share.
//
//   code = RNE(clamp(RN(RN(x * inverse) + azp), -128, 127)),  NaN: -128
//
// Elements are independent, and nothing is contracted: the same codes on every instruction set.
#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_INT8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_INT8_INL_H_
#undef KVOPS_CPU_INT8_INL_H_
#else
#define KVOPS_CPU_INT8_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

using Lanes = hn::ScalableTag<float>;

struct Int8Scale {
  float inverse, azp;
};

// The codes in the lowest bytes, anything above. balanced: no zero point, and no number that
// exceeds 127 by more than roundings.
template <bool balanced>
HWY_INLINE hn::Vec<Bits32<Lanes>> int8_codes(hn::Vec<Lanes> x, Int8Scale scale) {
  const Lanes d;
  auto v = hn::Mul(x, hn::Set(d, scale.inverse));
  if constexpr (!balanced) v = hn::Add(v, hn::Set(d, scale.azp));
  v = hn::Max(v, hn::Set(d, -128.0f));  // gives what is no NaN
  if constexpr (!balanced) v = hn::Min(v, hn::Set(d, 127.0f));
  // A sum with 1.5 * 2^23 is rounded to an integer, whose two's complement is in the lowest bits.
  return hn::BitCast(Bits32<Lanes>(), hn::Add(v, hn::Set(d, 0x1.8p23f)));
}

// n elements. stream: past the caches, for which `out` is aligned to 64 bytes. ahead: how far after
// x, in bytes, the elements lie that are wanted soon.
template <bool stream, bool balanced = false, class T>
HWY_INLINE void quantise_int8(const T* x, int8_t* out, int64_t n, Int8Scale scale, int64_t ahead) {
  const Lanes d;
  const Bits32<Lanes> du;
  const hn::Repartition<uint8_t, Storage<uint16_t, Lanes>> pair_bytes;
  const Storage<uint8_t, Lanes> d8;
  const auto byte = hn::Set(du, 0xFF);
  const auto lanes = int64_t(hn::Lanes(d));
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    prefetch(x + i, ahead);
    const auto v = load2(d, x + i);
    const auto a = int8_codes<balanced>(v.a, scale), b = int8_codes<balanced>(v.b, scale);
    if constexpr (std::is_same_v<T, bf16>) {  // even and odd elements
      const auto high = hn::And(hn::ShiftLeft<8>(b), hn::Set(du, 0xFF00));
      const auto pairs = narrow_code<uint16_t>(d, hn::Or(hn::And(a, byte), high));
      put_raw<stream>(pair_bytes, hn::BitCast(pair_bytes, pairs), out + i);
    } else {
      put_raw<stream>(d8, narrow_code<uint8_t>(d, hn::And(a, byte)), out + i);
      put_raw<stream>(d8, narrow_code<uint8_t>(d, hn::And(b, byte)), out + i + lanes);
    }
  }
  for (; i < n; i += lanes) {
    const auto m = size_t(HWY_MIN(lanes, n - i));
    const auto code = int8_codes<balanced>(load_n(d, x + i, m), scale);
    store_raw_n(d8, narrow_code<uint8_t>(d, hn::And(code, byte)), out + i, m);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
