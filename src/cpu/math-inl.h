// exp, tanh and erf of float vectors, and min and max that keep NaN. Own minimax polynomials.
//
// Largest errors, over all floats and on every target: exp 1.1 ulp, tanh 3 ulp, erf 1.5 ulp. NaN
// gives NaN, exp overflows to infinity and has subnormal results, tanh and erf keep a zero's sign.
// exp2_short and half_erfc_short are for results of 16 bits: they err by 2^-18 and 2^-14.
#include <type_traits>
#include <utility>

#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_MATH_INL_H_
#undef KVOPS_CPU_MATH_INL_H_
#else
#define KVOPS_CPU_MATH_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// x where it is NaN: x86 gives the second operand then, the portable target the one that is not.
template <class D>
HWY_INLINE hn::Vec<D> min_keep_nan(D, hn::Vec<D> x, hn::Vec<D> limit) {
#if HWY_TARGET == HWY_EMU128
  return hn::IfThenElse(hn::Gt(x, limit), limit, x);
#else
  return hn::Min(limit, x);
#endif
}
template <class D>
HWY_INLINE hn::Vec<D> max_keep_nan(D, hn::Vec<D> x, hn::Vec<D> limit) {
#if HWY_TARGET == HWY_EMU128
  return hn::IfThenElse(hn::Lt(x, limit), limit, x);
#else
  return hn::Max(limit, x);
#endif
}

// c[0] + c[1] x + c[2] x^2 + ...
template <class D, size_t N>
HWY_INLINE hn::Vec<D> polynomial(D d, hn::Vec<D> x, const float (&c)[N]) {
  auto sum = hn::Set(d, c[N - 1]);
  for (size_t i = N - 1; i-- > 0;) sum = hn::MulAdd(sum, x, hn::Set(d, c[i]));
  return sum;
}

// v 2^k. On AVX3 for any integer k, with one rounding; else only where 2^k is a normal number.
template <class D>
HWY_INLINE hn::Vec<D> scale(D d, hn::Vec<D> v, hn::Vec<D> k) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(D()) == 16)
    return hn::Vec<D>{_mm512_scalef_ps(v.raw, k.raw)};
  else if constexpr (hn::MaxLanes(D()) == 8)
    return hn::Vec<D>{_mm256_scalef_ps(v.raw, k.raw)};
  else
    return hn::Vec<D>{_mm_scalef_ps(v.raw, k.raw)};
#else
  // A sum with 1.5 * 2^23 holds the integer in its lowest bits.
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, hn::Add(k, hn::Set(d, 0x1.8p23f + 127)));
  return hn::Mul(v, hn::BitCast(d, hn::ShiftLeft<23>(bits)));
#endif
}

// x = n ln 2 + r, |r| <= ln 2 / 2, for |x| < 2^21: the integer n, and e^r - 1.
template <class D>
struct ExpParts {
  hn::Vec<D> n, e;
};
template <class D>
HWY_INLINE ExpParts<D> exp_parts(D d, hn::Vec<D> x) {
  const auto magic = hn::Set(d, 0x1.8p23f);  // a sum with it has its last place at 1
  const auto n = hn::Sub(hn::MulAdd(x, hn::Set(d, 0x1.715476p0f), magic), magic);
  // 355/512 times n is exact; the rest of ln 2 is 2^-12.2.
  auto r = hn::NegMulAdd(n, hn::Set(d, 0x1.63p-1f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -0x1.bd0106p-13f), r);
  constexpr float kC[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b8p-5f, 0x1.1239aap-7f,
                          0x1.6a452ep-10f};  // (e^r - 1 - r) / r^2
  return {n, hn::MulAdd(hn::Mul(r, r), polynomial(d, r, kC), r)};
}

template <class D>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  // Beyond these the results are infinity and 0.
  x = max_keep_nan(d, min_keep_nan(d, x, hn::Set(d, 89.0f)), hn::Set(d, -104.0f));
  const auto p = exp_parts(d, x);
  const auto y = hn::Add(p.e, hn::Set(d, 1.0f));
#if HWY_TARGET <= HWY_AVX3
  return scale(d, y, p.n);
#else
  // In two steps, since 2^n may be neither normal nor finite when the result is.
  const auto step = hn::Set(d, 64.0f);
  const auto first = hn::CopySign(step, p.n);
  return scale(d, scale(d, y, first), hn::Sub(p.n, first));
#endif
}

// (e^2x - 1) / (e^2x + 1), the minuend without cancellation: 2^n (e^r - 1) + (2^n - 1).
template <class D>
HWY_INLINE hn::Vec<D> tanh(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f);
  const auto m = min_keep_nan(d, hn::Abs(x), hn::Set(d, 10.0f));  // tanh(10) rounds to 1
  const auto p = exp_parts(d, hn::Add(m, m));
  const auto two_n = scale(d, one, p.n);
  const auto e = hn::MulAdd(two_n, p.e, hn::Sub(two_n, one));
  return hn::CopySign(hn::Div(e, hn::Add(e, hn::Set(d, 2.0f))), x);
}

// Below 1: x + x p(x^2). From 1 on: 1 - erfc(x), the logarithm of erfc being a polynomial.
template <class D>
HWY_INLINE hn::Vec<D> erf(D d, hn::Vec<D> x) {
  constexpr float kSmall[] = {0x1.06eba8p-3f, -0x1.81273ep-2f,  0x1.ce2ce6p-4f, -0x1.b7f71ap-6f,
                              0x1.53f224p-8f, -0x1.a3515ep-11f, 0x1.4771fcp-14f};
  constexpr float kLarge[] = {0x1.8b3df2p-13f, -0x1.212c2cp+0f, -0x1.4434f6p-1f, -0x1.bc1898p-4f,
                              0x1.9d0b4ap-6f,  -0x1.139858p-8f, 0x1.ceea02p-12f, -0x1.6c079ep-16f};
  const auto m = min_keep_nan(d, hn::Abs(x), hn::Set(d, 4.0f));  // erf(4) rounds to 1
  const auto small = hn::MulAdd(m, polynomial(d, hn::Mul(m, m), kSmall), m);
  const auto p = exp_parts(d, polynomial(d, m, kLarge));
  const auto erfc = scale(d, hn::Add(p.e, hn::Set(d, 1.0f)), p.n);
  const auto large = hn::Sub(hn::Set(d, 1.0f), erfc);
  return hn::CopySign(hn::IfThenElse(hn::Lt(m, hn::Set(d, 1.0f)), small, large), x);
}

// Several vectors on their way through one formula, each step of it taken for all of them: a core
// looks ahead far enough to fill its pipes from some short chains, but not from the next long one.
template <class D, size_t N>
struct Batch {
  hn::Vec<D> v[N];
};
// { f(a.v[0], more.v[0] ...), f(a.v[1], more.v[1] ...), ... }
template <class F, class D, size_t N, class... More>
HWY_INLINE Batch<D, N> each(F f, const Batch<D, N>& a, const More&... more) {
  return [&]<size_t... i>(std::index_sequence<i...>) HWY_ATTR {
    const auto at = [&]<size_t k>(std::integral_constant<size_t, k>)
                        HWY_ATTR { return f(a.v[k], more.v[k]...); };
    return Batch<D, N>{{at(std::integral_constant<size_t, i>())...}};
  }
  (std::make_index_sequence<N>());
}

// 2^t, relative error 2^-18: t = n + r, 0 <= r < 1, and a quartic that is exact at both ends, so
// that 2^t is 1 + t ln 2 next to 0. From 128 on infinity. Below -126 the results are subnormal on
// AVX3, of any size down to 0 on other targets.
template <class D, size_t N>
HWY_INLINE Batch<D, N> exp2_short(D d, Batch<D, N> t) {
  using V = hn::Vec<D>;
#if HWY_TARGET <= HWY_AVX3
  const auto r = each(  // what is above the largest integer <= t; 0 for infinity
      [](V v) HWY_ATTR {
        constexpr int kDown = 9;
        if constexpr (hn::MaxLanes(D()) == 16)
          v.raw = _mm512_reduce_ps(v.raw, kDown);
        else if constexpr (hn::MaxLanes(D()) == 8)
          v.raw = _mm256_reduce_ps(v.raw, kDown);
        else
          v.raw = _mm_reduce_ps(v.raw, kDown);
        return v;
      },
      t);
  const auto& n = t;  // scale() takes its integer part
#else
  t = each(
      [&](V v) HWY_ATTR {
        v = min_keep_nan(d, v, hn::Set(d, 128.0f));
        return max_keep_nan(d, v, hn::Set(d, -127.0f));
      },
      t);
  const auto n = each([](V v) HWY_ATTR { return hn::Floor(v); }, t);
  const auto r = each([](V v, V whole) HWY_ATTR { return hn::Sub(v, whole); }, t, n);
#endif
  // In two halves, which do not wait for each other.
  constexpr float kC[] = {1.0f, 0x1.62d51cp-1f, 0x1.ee5884p-3f, 0x1.aa3fcap-5f, 0x1.bc31dap-7f};
  const auto step = [&](float c1, float c0) HWY_ATTR {
    return each([&](V v) HWY_ATTR { return hn::MulAdd(v, hn::Set(d, c1), hn::Set(d, c0)); }, r);
  };
  const auto multiply_add = [](V x, V y, V z) HWY_ATTR { return hn::MulAdd(x, y, z); };
  const auto low = step(kC[1], kC[0]);
  auto high = step(kC[3], kC[2]);
  const auto square = each([](V v) HWY_ATTR { return hn::Mul(v, v); }, r);
  high = each([&](V s, V h) HWY_ATTR { return hn::MulAdd(s, hn::Set(d, kC[4]), h); }, square, high);
  const auto fraction = each(multiply_add, high, square, low);
  return each([&](V f, V e) HWY_ATTR { return scale(d, f, e); }, fraction, n);
}

// erfc(m / sqrt(2)) / 2 for m >= 0, by a quintic for its logarithm: relative error 2^-14 where it
// is above 2^-11, 2^-25 beyond; exact at 0. On to infinity it falls to 0.
template <class D, size_t N>
HWY_INLINE Batch<D, N> half_erfc_short(D d, const Batch<D, N>& m) {
  using V = hn::Vec<D>;
  const auto step = [&](float c1, float c0) HWY_ATTR {
    return each([&](V v) HWY_ATTR { return hn::MulAdd(v, hn::Set(d, c1), hn::Set(d, c0)); }, m);
  };
  const auto multiply_add = [](V x, V y, V z) HWY_ATTR { return hn::MulAdd(x, y, z); };
  const auto square = each([](V v) HWY_ATTR { return hn::Mul(v, v); }, m);
  const auto c = step(-0.000399011353f, 0.0065455172f);
  const auto b = step(-0.0505251579f, -0.461150845f);
  const auto a = step(-1.1505482f, -1.0f);
  return exp2_short(d, each(multiply_add, each(multiply_add, c, square, b), square, a));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
