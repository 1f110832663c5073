// What rms_norm and fused_add_rms_norm share: the sum of squares of a row and its scaled copy.
//
// The sum: four vectors of partial sums over 64 vectors of elements at a time, added to four running
// ones after each such piece, so that rounding errors grow with d / (64 lanes) and not with d. Its
// order depends on d and on the instruction set alone: the same row has the same bits in any batch,
// at any address and with any strides.
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

// Sum of the squares of the n elements that get(i) and get_n(i, count) give as vectors.
template <class Get, class GetN>
HWY_INLINE float sum_of_squares(int64_t n, Get get, GetN get_n) {
  const Lanes d;
  const auto lanes = int64_t(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  int64_t i = 0;
  while (i + 4 * lanes <= n) {
    auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
    const int64_t last = HWY_MIN(n, i + 64 * lanes) - 4 * lanes;
    for (; i <= last; i += 4 * lanes) {
      const auto v0 = get(i), v1 = get(i + lanes), v2 = get(i + 2 * lanes), v3 = get(i + 3 * lanes);
      s0 = hn::MulAdd(v0, v0, s0);
      s1 = hn::MulAdd(v1, v1, s1);
      s2 = hn::MulAdd(v2, v2, s2);
      s3 = hn::MulAdd(v3, v3, s3);
    }
    sum0 = hn::Add(sum0, s0), sum1 = hn::Add(sum1, s1);
    sum2 = hn::Add(sum2, s2), sum3 = hn::Add(sum3, s3);
  }
  for (; i + lanes <= n; i += lanes) {
    const auto v = get(i);
    sum0 = hn::MulAdd(v, v, sum0);
  }
  if (i < n) {
    const auto v = get_n(i, size_t(n - i));
    sum1 = hn::MulAdd(v, v, sum1);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

HWY_INLINE float inverse_rms(float sum, int64_t n, float epsilon) {
  return 1.0f / std::sqrt(sum / float(n) + epsilon);
}

// out[j] = RN_T((x[j] * s) * weight[j]): the only place where the roundings of a norm stand.
// weight may be null; out may be x.
template <class T, class W>
HWY_INLINE void scale_row(const T* x, float s, const W* weight, T* out, int64_t n) {
  const Lanes d;
  const auto lanes = int64_t(hn::Lanes(d));
  const auto scale = hn::Set(d, s);
  int64_t i = 0;
  if (weight) {
    for (; i + lanes <= n; i += lanes)
      store(d, hn::Mul(hn::Mul(load(d, x + i), scale), load(d, weight + i)), out + i);
    if (const auto m = size_t(n - i))
      store_n(d, hn::Mul(hn::Mul(load_n(d, x + i, m), scale), load_n(d, weight + i, m)), out + i,
              m);
  } else {
    for (; i + lanes <= n; i += lanes) store(d, hn::Mul(load(d, x + i), scale), out + i);
    if (const auto m = size_t(n - i)) store_n(d, hn::Mul(load_n(d, x + i, m), scale), out + i, m);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
