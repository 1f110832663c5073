// silu_and_mul: out = RN_T(RN_T(silu(a)) * b), silu(x) = x / (1 + exp(-x)).
// a, b: the halves of a row. In f32, RN_T(silu) within 3 ulp; see gated-inl.h for the mapping.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/silu_and_mul.cpp"
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
    return hn::Mul(silu<T>(d, a), b);
  }
};

}  // namespace

kvops_status silu_and_mul(const kvops_silu_and_mul_args& a) {
  return dispatch("silu_and_mul", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return gated<Pairing::split, T>(a.input, a.out, Act{}); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(silu_and_mul)
}  // namespace kvops::cpu
#endif
