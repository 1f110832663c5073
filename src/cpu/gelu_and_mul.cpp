// gelu_and_mul: out = RN_T(RN_T(gelu(a)) * b), gelu(x) = (x * 0.5) * (1 + erf(x * sqrt(1/2))).
// a, b: the halves of a row. Rounded as bracketed, so that 1 + erf has the errors of an f32 near 1
// on every back end: for negative x the result is only as good as that. erf is as good as T shows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gelu_and_mul.cpp"
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
    const auto one = hn::Set(d, 1.0f);
    if constexpr (sizeof(T) == 2) {
      // x times erfc(-x / sqrt(2)) / 2, with the last place of an f32 near 1/4.
      const auto half = half_erfc_short(d, each([](V x) HWY_ATTR { return hn::Abs(x); }, a));
      const auto quarter = hn::Set(d, 0.25f);
      const auto gelu = [&](V x, V h) HWY_ATTR {
        if constexpr (std::is_same_v<T, f16>) {
          // Near 0 every other subnormal x is halfway between two results: the tie must be seen.
          const auto near = hn::NegMulAdd(hn::Abs(x), hn::Set(d, 0.39894228f), hn::Set(d, 0.5f));
          h = hn::IfThenElse(hn::Lt(hn::Abs(x), hn::Set(d, 0x1p-12f)), near, h);
        }
        h = hn::Sub(hn::Add(h, quarter), quarter);
        return hn::Mul(x, hn::IfNegativeThenElse(x, h, hn::Sub(one, h)));
      };
      return product(rounded<T>(d, each(gelu, a, half)), b);
    }
    const auto gelu = [&](V x) HWY_ATTR {
      const auto erf_x = erf(d, hn::Mul(x, hn::Set(d, 0.70710678118654752f)));
      return hn::Mul(hn::Mul(x, hn::Set(d, 0.5f)), hn::Add(one, erf_x));
    };
    return product(rounded<T>(d, each(gelu, a)), b);
  }
};

}  // namespace

kvops_status gelu_and_mul(const kvops_gelu_and_mul_args& a) {
  return dispatch("gelu_and_mul", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return gated<Pairing::split, T>(a.input, a.out, Act{}); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(gelu_and_mul)
}  // namespace kvops::cpu
#endif
