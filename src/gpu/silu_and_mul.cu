// silu_and_mul: out = RN_T(RN_T(silu(a)) * b), silu(x) = x / (1 + exp(-x)).
// a, b: the halves of a row. See gated.cuh for the mapping and the errors of exp.
#include "gpu/gated.cuh"

namespace kvops::KVOPS_GPU {

kvops_status silu_and_mul(const kvops_silu_and_mul_args& a) {
  return gated<gpu::Pairing::first_gate>("silu_and_mul", a, gpu::Silu{});
}

}  // namespace kvops::KVOPS_GPU
