// gelu_tanh_and_mul: out = RN_T(RN_T(gelu(a)) * b),
//   gelu(x) = (0.5 * x) * (1 + tanh(B * (x + K * (x * x) * x))), B = sqrt(2 / pi), K = 0.044715.
// a, b: the halves of a row. Rounded as bracketed, so that 1 + tanh has the errors of an f32 near 1
// on every back end: for negative x the result is only as good as that. tanh is as good as T shows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gelu_tanh_and_mul.cpp"
#include <hwy/foreach_target.h>

#include "cpu/gated-inl.h"

// Everything that is compiled once only.
#include "core/dispatch.h"
#include "cpu/isa.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

struct Act {
  template <class T, class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> a, hn::Vec<D> b, T) const {
    if constexpr (sizeof(T) == 2) {
      // (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z)), with the last place of an f32 near 1/4.
      const auto slope = hn::MulAdd(hn::Mul(a, a), hn::Set(d, 2 * 0.79788456f * 0.044715f),
                                    hn::Set(d, 2 * 0.79788456f));
      const auto half = hn::Div(hn::Set(d, 1.0f), one_plus_exp_neg<T>(d, hn::Mul(a, slope)));
      const auto quarter = hn::Set(d, 0.25f);
      const auto gelu = hn::Mul(a, hn::Sub(hn::Add(half, quarter), quarter));
      return hn::Mul(round_to<T, kNanOf<T>>(d, gelu), b);
    }
    const auto cube = hn::Mul(hn::Mul(a, a), a);
    const auto sum = hn::MulAdd(hn::Set(d, 0.044715f), cube, a);
    const auto t = tanh(d, hn::Mul(hn::Set(d, 0.79788456080286536f), sum));
    const auto gelu = hn::Mul(hn::Mul(hn::Set(d, 0.5f), a), hn::Add(hn::Set(d, 1.0f), t));
    return hn::Mul(gelu, b);
  }
};

}  // namespace

kvops_status gelu_tanh_and_mul(const kvops_gelu_tanh_and_mul_args& a) {
  return dispatch("gelu_tanh_and_mul", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return gated<Pairing::split, T>(a.input, a.out, Act{}); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(gelu_tanh_and_mul)
}  // namespace kvops::cpu
#endif
