// gelu_and_mul: out = RN_T(RN_T(gelu(a)) * b), gelu(x) = (x * 0.5) * (1 + erf(x * sqrt(1/2))).
// a, b: the halves of a row. Rounded as bracketed, so that 1 + erf has the errors of an f32 near 1
// on every back end. See gated.cuh for the mapping and the errors of erf.
#include "gpu/gated.cuh"

namespace kvops::KVOPS_GPU {
namespace {

struct Act {
  template <class T, class Division>
  __device__ float gate(float x, T, Division&) const {
    return (x * 0.5f) * (1.0f + erff(x * 0.70710678118654752f));
  }
};

}  // namespace

kvops_status gelu_and_mul(const kvops_gelu_and_mul_args& a) {
  return gated<gpu::Pairing::first_gate>("gelu_and_mul", a, Act{});
}

}  // namespace kvops::KVOPS_GPU
