// What rms_norm and fused_add_rms_norm share: the sum of squares of a row and its scaled copy.
//
// The sum: four vectors of partial sums over 64 vectors of elements at a time; the pieces are added
// with compensation, so that rounding errors do not grow with d. Its order depends on d and on the
// instruction set alone: the same row has the same bits in any batch, at any address and with any
// strides.
#include <cmath>

#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_NORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_NORM_INL_H_
#undef KVOPS_CPU_NORM_INL_H_
#else
#define KVOPS_CPU_NORM_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

using Lanes = hn::ScalableTag<float>;

// A sum and what rounding has taken from it.
struct Compensated {
  hn::Vec<Lanes> sum, rest;

  HWY_INLINE void add(hn::Vec<Lanes> v) {
    const auto t = hn::Add(sum, v);
    rest = hn::Add(rest, hn::Add(hn::Sub(sum, t), v));
    sum = t;
  }
  HWY_INLINE hn::Vec<Lanes> total() const {  // an infinite sum has left NaN in rest
    const Lanes d;
    const auto infinite = hn::Eq(sum, hn::Set(d, HUGE_VALF));
    return hn::Add(sum, hn::IfThenZeroElse(infinite, rest));
  }
};

// Sum of the squares of the n elements that get2(i) and get_n(i, count) give.
template <class Get2, class GetN>
HWY_INLINE float sum_of_squares(int64_t n, Get2 get2, GetN get_n) {
  const Lanes d;
  const auto lanes = int64_t(hn::Lanes(d));
  Compensated sum = {hn::Zero(d), hn::Zero(d)};
  int64_t i = 0;
  while (i + 4 * lanes <= n) {
    auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
    const int64_t last = HWY_MIN(n, i + 64 * lanes) - 4 * lanes;
    for (; i <= last; i += 4 * lanes) {
      const auto v = get2(i), w = get2(i + 2 * lanes);
      s0 = hn::MulAdd(v.a, v.a, s0);
      s1 = hn::MulAdd(v.b, v.b, s1);
      s2 = hn::MulAdd(w.a, w.a, s2);
      s3 = hn::MulAdd(w.b, w.b, s3);
    }
    sum.add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
  }
  auto rest = hn::Zero(d);
  for (; i < n; i += lanes) {
    const auto v = get_n(i, size_t(HWY_MIN(lanes, n - i)));
    rest = hn::MulAdd(v, v, rest);
  }
  sum.add(rest);
  return hn::GetLane(hn::SumOfLanes(d, sum.total()));
}

// In double, so that the only rounding is the last one.
HWY_INLINE float inverse_rms(float sum, int64_t n, float epsilon) {
  return quiet(float(1 / std::sqrt(double(sum) / double(n) + double(epsilon))));
}

// out[j] = RN_T((x[j] * s) * weight[j]): the only place where the roundings of a norm stand.
// weight may be null; out may be x. stream: past the caches, for which out must be aligned.
// next: the row that is read after this one, which is on its way while this one is written.
template <bool stream = false, class T, class W>
HWY_INLINE void scale_row(const T* x, float s, const W* weight, T* out, int64_t n, const T* next) {
  const Lanes d;
  const auto lanes = int64_t(hn::Lanes(d));
  const auto scale = hn::Set(d, s);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    prefetch(next + i, 0);
    auto v = load2(d, x + i);
    v = {hn::Mul(v.a, scale), hn::Mul(v.b, scale)};
    if (weight) {
      const auto w = load2_as<T>(d, weight + i);
      v = {hn::Mul(v.a, w.a), hn::Mul(v.b, w.b)};
    }
    store2<stream, std::is_same_v<T, W> ? kNanOf<T> : Nan::any>(d, v, out + i);
  }
  for (; i < n; i += lanes) {
    const auto m = size_t(HWY_MIN(lanes, n - i));
    auto v = hn::Mul(load_n(d, x + i, m), scale);
    if (weight) v = hn::Mul(v, load_n(d, weight + i, m));
    store_n(d, v, out + i, m);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
