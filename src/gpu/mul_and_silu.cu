// mul_and_silu: out = RN_T(a * RN_T(silu(b))), silu(x) = x / (1 + exp(-x)).
// a, b: the halves of a row. See gated.cuh for the mapping and the errors of exp.
#include "gpu/gated.cuh"

namespace kvops::KVOPS_GPU {

kvops_status mul_and_silu(const kvops_mul_and_silu_args& a) {
  return gated<gpu::Pairing::second_gate>("mul_and_silu", a, gpu::Silu{});
}

}  // namespace kvops::KVOPS_GPU
