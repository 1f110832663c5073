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
  template <class T, class D, size_t N>
  HWY_INLINE Batch<D, N> operator()(D d, const Batch<D, N>& a, const Batch<D, N>& b, T) const {
    return product(silu<T>(d, a), b);
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
