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

  template <class T, class D, size_t N>
  HWY_INLINE Batch<D, N> operator()(D d, const Batch<D, N>& a, const Batch<D, N>& b, T) const {
    using V = hn::Vec<D>;
    const auto most = hn::Set(d, limit);
    const auto g = each([&](V x) HWY_ATTR { return min_keep_nan(d, x, most); }, a);
    const auto up = [&](V x) HWY_ATTR {
      x = max_keep_nan(d, min_keep_nan(d, x, most), hn::Neg(most));
      return hn::Add(x, hn::Set(d, beta));
    };
    const auto scaled = [&](V x) HWY_ATTR { return hn::Mul(hn::Set(d, alpha), x); };
    const auto sum = one_plus_exp_neg<T>(d, each(scaled, g));
    return product(rounded<T>(d, quotient(g, sum)), each(up, b));
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
