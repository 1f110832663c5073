// swigluoai_and_mul: g = min(gate, limit), u = max(min(up, limit), -limit),
//   out = RN_T(((u + 1) * g) / (1 + exp(-(g * alpha)))), gate and up being neighbours in a row.
// f32 throughout, one rounding at the end; NaN in either gives NaN.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/swigluoai_and_mul.cpp"
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
  float alpha, limit;

  template <class T, class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> gate, hn::Vec<D> up, T) const {
    const auto one = hn::Set(d, 1.0f);
    const auto g = min_keep_nan(d, gate, hn::Set(d, limit));
    const auto u = max_keep_nan(d, min_keep_nan(d, up, hn::Set(d, limit)), hn::Set(d, -limit));
    const auto sum = one_plus_exp_neg<T>(d, hn::Mul(g, hn::Set(d, alpha)));
    return hn::Div(hn::Mul(hn::Add(u, one), g), sum);
  }
};

}  // namespace

kvops_status swigluoai_and_mul(const kvops_swigluoai_and_mul_args& a) {
  return dispatch("swigluoai_and_mul", "input", a.input.dtype, Floats{}, [&]<class T>() {
    return gated<Pairing::interleaved, T>(a.input, a.out,
                                          Act{quiet(float(a.alpha)), quiet(float(a.limit))});
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(swigluoai_and_mul)
}  // namespace kvops::cpu
#endif
