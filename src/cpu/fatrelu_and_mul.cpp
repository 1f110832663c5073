// fatrelu_and_mul: out = RN_T((a <= RN_T(threshold) ? 0 : a) * b).
// a, b: the halves of a row. A NaN in a is not <= anything and passes. One rounding.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/fatrelu_and_mul.cpp"
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
  float least;  // the threshold, rounded to T

  template <class T, class D, size_t N>
  HWY_INLINE Batch<D, N> operator()(D d, const Batch<D, N>& a, const Batch<D, N>& b, T) const {
    using V = hn::Vec<D>;
    const auto above = [&](V x)
                           HWY_ATTR { return hn::IfThenZeroElse(hn::Le(x, hn::Set(d, least)), x); };
    return product(each(above, a), b);
  }
};

}  // namespace

kvops_status fatrelu_and_mul(const kvops_fatrelu_and_mul_args& a) {
  return dispatch("fatrelu_and_mul", "input", a.input.dtype, Floats{}, [&]<class T>() {
    const float least = to_float(from_float<T>(float(a.threshold)));
    return gated<Pairing::split, T>(a.input, a.out, Act{least});
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(fatrelu_and_mul)
}  // namespace kvops::cpu
#endif
