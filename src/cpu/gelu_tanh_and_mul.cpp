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
  template <class T, class D, size_t N>
  HWY_INLINE Batch<D, N> operator()(D d, const Batch<D, N>& a, const Batch<D, N>& b, T) const {
    using V = hn::Vec<D>;
    if constexpr (sizeof(T) == 2) {
      // (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z)), with the last place of an f32 near 1/4.
      const auto slope = [&](V x) HWY_ATTR {
        return hn::MulAdd(hn::Mul(x, x), hn::Set(d, 2 * 0.79788456f * 0.044715f),
                          hn::Set(d, 2 * 0.79788456f));
      };
      const auto sum = one_plus_exp_neg<T>(d, product(a, each(slope, a)));
      const auto gelu = [&](V x, V s) HWY_ATTR {
        const auto half = hn::Div(hn::Set(d, 1.0f), s), quarter = hn::Set(d, 0.25f);
        return hn::Mul(x, hn::Sub(hn::Add(half, quarter), quarter));
      };
      return product(rounded<T>(d, each(gelu, a, sum)), b);
    }
    const auto gelu = [&](V x) HWY_ATTR {
      const auto cube = hn::Mul(hn::Mul(x, x), x);
      const auto sum = hn::MulAdd(hn::Set(d, 0.044715f), cube, x);
      const auto t = tanh(d, hn::Mul(hn::Set(d, 0.79788456080286536f), sum));
      return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), hn::Add(hn::Set(d, 1.0f), t));
    };
    return product(each(gelu, a), b);
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
