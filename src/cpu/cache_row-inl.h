// Rows on their way into a cache: copied as they are, or quantised to fp8, RN(RN(x / scale)); and
// fp8 rows on their way out, times a scale.
// Cache types: the type of the source (as an integer of its size), or an fp8 type.
//
// 16-bit elements with usual scales are quantised as f16, two vectors at once:
//
//   quotient   RN(RN(rest * inverse) + rough), rough = RN(x * inverse), rest = x - rough * scale:
//              the IEEE quotient of numbers of up to 11 bits (tests/ops/division.cpp tries all)
//   times 2^(bias - 15), it has the exponent field of its code as an f16, subnormal or not
//   to odd     of the two f16 around it the one whose last bit is set: on its side of the middle
//              between two codes, which is what the rounding to a code asks
//
// Most scales take no number near the middle between two codes: then the product with the inverse
// is on its side, too, and so is the f16 towards zero, since there are no ties.
#include <cmath>
#include <cstring>
#include <limits>

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/copy_row-inl.h"
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

#if HWY_TARGET <= HWY_AVX2
// Magnitudes as f16, rounded up or down.
template <bool up, class D>
HWY_INLINE hn::Vec<Storage<f16, D>> f16_beside(D, hn::Vec<D> v) {
  constexpr int kMode = up ? _MM_FROUND_TO_POS_INF : _MM_FROUND_TO_ZERO;
  if constexpr (hn::MaxLanes(D()) == 16)
    return {_mm512_cvtps_ph(v.raw, kMode | _MM_FROUND_NO_EXC)};
  else
    return {_mm256_cvtps_ph(v.raw, kMode)};
}

// The scales for which write_codes() is right: no step of the quotient of a number that does not
// get the code 0 overflows or underflows. An fnuz code says whether the quotient itself overflows.
template <class S, class F8>
inline bool takes_codes(float scale) {
  constexpr bool overflows = Fp8Traits<F8>::kFnuz && std::is_same_v<S, bf16>;
  return scale >= (overflows ? 1.0f : 0x1p-64f) && scale <= 0x1p64f;
}
// An e5m2fnuz of bias 16 may be too large for an f16.
template <class S, class F8>
inline constexpr bool kHasCodes = sizeof(S) == 2 && !std::is_same_v<F8, f8_e5m2fnuz>;

// Is every x / divisor of x in S by more than 2^-22 of it away from every middle, an odd number
// times a power of two? Then every divisor * odd is by 8 places of a float away from the S.
template <class S, class F8>
HWY_INLINE bool keeps_apart(float divisor) {
  constexpr uint32_t kBelow = (1u << (std::is_same_v<S, bf16> ? 16 : 13)) - 1, kNear = 8;
  constexpr size_t kOdd = size_t{2} << Fp8Traits<F8>::kMantissa;
  HWY_ALIGN static constexpr float kOdds[16] = {1,  3,  5,  7,  9,  11, 13, 15,
                                                17, 19, 21, 23, 25, 27, 29, 31};
  const hn::CappedTag<float, kOdd> d;
  const Bits32<decltype(d)> du;
  bool apart = true;
  for (size_t i = 0; i < kOdd; i += hn::Lanes(d)) {
    const auto product = hn::BitCast(du, hn::Mul(hn::Load(d, kOdds + i), hn::Set(d, divisor)));
    const auto place = hn::And(hn::Add(product, hn::Set(du, kNear)), hn::Set(du, kBelow));
    apart &= hn::AllTrue(du, hn::Gt(place, hn::Set(du, 2 * kNear)));
  }
  return apart;
}

// The quotients of one scale. product: S is bf16 and the scale is a power of two; then they are
// products, and have so few bits that up is also right: only below the smallest code has an f16
// fewer bits than a bf16. apart: keeps_apart().
enum class Quotients { any, product, apart };

template <class S, class F8>
HWY_INLINE Quotients quotients_of(float scale) {
  if (std::is_same_v<S, bf16> && (float_bits(scale) & 0x007FFFFF) == 0) return Quotients::product;
  return keeps_apart<S, F8>(scale) ? Quotients::apart : Quotients::any;
}

// The f16 of two vectors, towards zero or up.
template <bool up, class D>
HWY_INLINE hn::Vec<hn::Repartition<uint16_t, D>> f16_of(D d, hn::Vec<D> low, hn::Vec<D> high) {
  return hn::Combine(hn::Repartition<uint16_t, D>(), f16_beside<up>(d, high),
                     f16_beside<up>(d, low));
}

// Codes of as many of n elements as fill vectors; their number. stream, next: as for write_row.
template <Quotients kind, bool stream, class S, class F8>
HWY_INLINE int64_t write_codes(const S* x, F8* to, int64_t n, float scale, const S* next) {
  using F = Fp8Traits<F8>;
  constexpr int kShift = 10 - F::kMantissa;
  constexpr bool wide = std::is_same_v<S, bf16> && kind != Quotients::apart;
  constexpr uint16_t kInf = wide ? 0x7F80 : 0x7C00;
  const hn::ScalableTag<float> d;
  const hn::Repartition<uint16_t, decltype(d)> d16;
  const hn::RebindToSigned<decltype(d16)> di16;
  const hn::Rebind<uint8_t, decltype(d16)> d8;
  const auto lanes = int64_t(hn::Lanes(d));
  const float divisor = scale * float(1 << (15 - F::kBias));
  const auto whole = hn::Set(d, divisor), inverse = hn::Set(d, 1.0f / divisor);
  const auto one = hn::Set(d16, uint16_t{1}), magnitude = hn::Set(d16, uint16_t{0x7FFF});
  const auto quotient = [&](const S* p) HWY_ATTR {
    if constexpr (kind == Quotients::apart) return hn::Mul(load(d, p), inverse);
    const auto v = hn::Abs(load(d, p)), rough = hn::Mul(v, inverse);
    if constexpr (kind == Quotients::product) return rough;
    return hn::MulAdd(hn::NegMulAdd(rough, whole, v), inverse, rough);
  };
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    if constexpr (stream) prefetch(next + i, 0);
    const auto low = quotient(x + i), high = quotient(x + i + lanes);
    auto m = f16_of<kind == Quotients::product>(d, low, high);
    if constexpr (kind == Quotients::any)
      m = hn::Or(m, hn::And(hn::Xor(m, f16_of<true>(d, low, high)), one));
    // The numbers as they were: infinity has no rest, and an f16 rounded up may have become one.
    const auto raw = kind == Quotients::apart ? m : load_raw(d16, x + i);
    const auto all = hn::And(raw, magnitude);
    if constexpr (kind == Quotients::apart) m = all;
    m = hn::Min(m, hn::Set(d16, uint16_t(F::kMax << kShift)));
    if constexpr (kind == Quotients::apart)
      m = hn::Add(m, hn::Set(d16, 1 << (kShift - 1)));
    else
      m = hn::Add(hn::Add(m, hn::Set(d16, (1 << (kShift - 1)) - 1)),
                  hn::And(hn::ShiftRight<kShift>(m), one));
    auto code = hn::ShiftRight<kShift>(m);
    const auto sign = hn::And(hn::ShiftRight<8>(raw), hn::Set(d16, uint16_t{0x80}));
    if constexpr (F::kFnuz)
      code = hn::IfThenZeroElse(hn::Eq(code, hn::Zero(d16)), hn::Or(code, sign));
    else
      code = hn::Or(code, sign);
    const auto nan = hn::Gt(hn::BitCast(di16, all), hn::Set(di16, int16_t(kInf - F::kFnuz)));
    code = hn::IfThenElse(hn::RebindMask(d16, nan), hn::Set(d16, uint16_t{F::kNan}), code);
    put_raw<stream>(d8, hn::DemoteTo(d8, hn::BitCast(di16, code)), to + i);
  }
  return i;
}
#endif

// stream: past the caches, for which the row consists of whole lines, and finish_streams() must
// follow; next: elements that are wanted soon.
template <bool stream = false, class S, class C>
HWY_INLINE void write_row(const S* from, C* to, int64_t n, float scale, const S* next = nullptr) {
  if constexpr (stream && std::is_same_v<S, C>) {
    copy_row<true>(from, to, n * int64_t(sizeof(S)), next);
  } else if constexpr (std::is_same_v<S, C>) {
    std::memcpy(to, from, size_t(n) * sizeof(S));
  } else {
    const hn::ScalableTag<float> d;
    const auto divisor = hn::Set(d, scale);
    const auto lanes = int64_t(hn::Lanes(d));
    int64_t i = 0;
#if HWY_TARGET <= HWY_AVX2
    if constexpr (kHasCodes<S, C>)
      if (takes_codes<S, C>(scale)) {
        const Quotients kind = quotients_of<S, C>(scale);
        if (kind == Quotients::apart)
          i = write_codes<Quotients::apart, stream>(from, to, n, scale, next);
        else if (kind == Quotients::product)
          i = write_codes<Quotients::product, stream>(from, to, n, scale, next);
        else
          i = write_codes<Quotients::any, stream>(from, to, n, scale, next);
      }
#endif
    for (; i + lanes <= n; i += lanes)
      store<stream>(d, hn::Div(load(d, from + i), divisor), to + i);
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
