// mul_and_silu: out = RN_T(a * RN_T(silu(b))), silu(x) = x / (1 + exp(-x)).
// a, b: the halves of a row. In f32, RN_T(silu) within 3 ulp; see gated-inl.h for the mapping.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mul_and_silu.cpp"
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
    return product(a, silu<T>(d, b));
  }
};

}  // namespace

kvops_status mul_and_silu(const kvops_mul_and_silu_args& a) {
  return dispatch("mul_and_silu", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return gated<Pairing::split, T>(a.input, a.out, Act{}); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(mul_and_silu)
}  // namespace kvops::cpu
#endif
