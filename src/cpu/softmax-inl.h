// Logits to weights: one row of dot products, scaled, capped, biased, relative to the largest so
// far.
//
//   x = scale * dot;  softcap: x = cap tanh(x / cap);  slope: x += slope * (key - query)
//   top' = max(top, x);  weight = exp(x - top');  decay = exp(top - top'), for the sums so far
//
// In f32, exp within 1.1 ulp; the weights of a vector's lanes are added first, then the lanes.
#include <cmath>

#include "cpu/math-inl.h"
#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_SOFTMAX_INL_H_
#undef KVOPS_CPU_SOFTMAX_INL_H_
#else
#define KVOPS_CPU_SOFTMAX_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

using Floats16 = hn::ScalableTag<float>;  // 4, 8 or 16 lanes

// What turns dot products into logits.
struct Logits {
  float scale, softcap;
  const float* slopes;  // of the unit's heads, or null
};

// One row of n dot products to weights, in place; whole vectors of x and `behind` are touched.
// `behind`: position of the key minus that of the query; read where there is a slope.
struct Softmax {
  float top, sum, decay;
};
HWY_INLINE Softmax softmax(const Logits& l, float slope, const float* behind, int n, float top,
                           float* x) {
  const Floats16 d;
  const auto lanes = int(hn::Lanes(d));
  const auto scale = hn::Set(d, l.scale), none = hn::Set(d, -HUGE_VALF);
  const auto lane = hn::Iota(d, 0);
  auto most = none;
  for (int t = 0; t < n; t += lanes) {
    auto a = hn::Mul(hn::LoadU(d, x + t), scale);
    if (l.softcap != 0)
      a = hn::Mul(tanh(d, hn::Div(a, hn::Set(d, l.softcap))), hn::Set(d, l.softcap));
    if (slope != 0) a = hn::MulAdd(hn::Set(d, slope), hn::LoadU(d, behind + t), a);
    a = hn::IfThenElse(hn::Lt(lane, hn::Set(d, float(n - t))), a, none);
    most = hn::Max(most, a);
    hn::StoreU(a, d, x + t);
  }
  const float tile = hn::GetLane(hn::MaxOfLanes(d, most));
  const float now = tile > top ? tile : top;
  // Without a finite logit nothing has a weight; -inf - -inf would be NaN.
  const auto base = hn::Set(d, now == -HUGE_VALF ? 0.0f : now);
  auto sum = hn::Zero(d);
  for (int t = 0; t < n; t += lanes) {
    const auto w = exp(d, hn::Sub(hn::LoadU(d, x + t), base));
    sum = hn::Add(sum, w);
    hn::StoreU(w, d, x + t);
  }
  const float decay = top == now ? 1.0f : float(std::exp(double(top) - double(now)));
  return {now, hn::GetLane(hn::SumOfLanes(d, sum)), decay};
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
