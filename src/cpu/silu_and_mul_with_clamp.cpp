// silu_and_mul_with_clamp: g = RN_T(min(a, limit)), u = RN_T(max(min(b, limit), -limit)),
//   out = RN_T(RN_T(g / (1 + exp(-(alpha * g)))) * (u + beta)), a and b being the halves of a row.
// u + beta in f32; NaN in either gives NaN.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/silu_and_mul_with_clamp.cpp"
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
  float limit;  // rounded to T: that rounds what is limited, since a and b are numbers of T
  float alpha, beta;

  template <class T, class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> a, hn::Vec<D> b, T) const {
    const auto most = hn::Set(d, limit);
    const auto g = min_keep_nan(d, a, most);
    const auto u = max_keep_nan(d, min_keep_nan(d, b, most), hn::Neg(most));
    const auto sum = one_plus_exp_neg<T>(d, hn::Mul(hn::Set(d, alpha), g));
    const auto gate = round_to<T, kNanOf<T>>(d, hn::Div(g, sum));
    return hn::Mul(gate, hn::Add(u, hn::Set(d, beta)));
  }
};

}  // namespace

kvops_status silu_and_mul_with_clamp(const kvops_silu_and_mul_with_clamp_args& a) {
  return dispatch("silu_and_mul_with_clamp", "input", a.input.dtype, Floats{}, [&]<class T>() {
    const float limit = to_float(from_float<T>(float(a.limit)));
    return gated<Pairing::split, T>(a.input, a.out,
                                    Act{quiet(limit), quiet(float(a.alpha)), quiet(float(a.beta))});
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(silu_and_mul_with_clamp)
}  // namespace kvops::cpu
#endif
