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

  template <class T, class D, size_t N>
  HWY_INLINE Batch<D, N> operator()(D d, const Batch<D, N>& gate, const Batch<D, N>& up, T) const {
    using V = hn::Vec<D>;
    const auto most = hn::Set(d, limit);
    const auto g = each([&](V x) HWY_ATTR { return min_keep_nan(d, x, most); }, gate);
    const auto u = [&](V x) HWY_ATTR {
      x = max_keep_nan(d, min_keep_nan(d, x, most), hn::Neg(most));
      return hn::Add(x, hn::Set(d, 1.0f));
    };
    const auto scaled = [&](V x) HWY_ATTR { return hn::Mul(x, hn::Set(d, alpha)); };
    const auto sum = one_plus_exp_neg<T>(d, each(scaled, g));
    return quotient(product(each(u, up), g), sum);
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
