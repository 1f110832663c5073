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
  template <class T, class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> a, hn::Vec<D> b, T) const {
    const auto one = hn::Set(d, 1.0f);
    auto erf_a = hn::Zero(d);
    if constexpr (sizeof(T) == 2) {
      const auto m = hn::Abs(a);
      const auto far = hn::CopySign(hn::Sub(one, erfc_short(d, m)), a);
      // Near 0 every other subnormal a is halfway between two results: the tie must be seen.
      const auto near = hn::Mul(a, hn::Set(d, 0.79788456f));
      erf_a = hn::IfThenElse(hn::Lt(m, hn::Set(d, 0x1p-12f)), near, far);
    } else {
      erf_a = erf(d, hn::Mul(a, hn::Set(d, 0.70710678118654752f)));
    }
    const auto gelu = hn::Mul(hn::Mul(a, hn::Set(d, 0.5f)), hn::Add(one, erf_a));
    return hn::Mul(round_to<T, kNanOf<T>>(d, gelu), b);
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
