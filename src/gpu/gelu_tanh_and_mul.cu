// gelu_tanh_and_mul: out = RN_T(RN_T(gelu(a)) * b),
//   gelu(x) = (0.5 * x) * (1 + tanh(B * (x + K * (x * x) * x))), B = sqrt(2 / pi), K = 0.044715.
// a, b: the halves of a row. Rounded as bracketed, so that 1 + tanh has the errors of an f32 near 1
// on every back end. See gated.cuh for the mapping and the errors of tanh.
#include "gpu/gated.cuh"

namespace kvops::KVOPS_GPU {
namespace {

struct Act {
  template <class T, class Division>
  __device__ float gate(float x, T, Division&) const {
    float sum = fmaf(0.044715f, (x * x) * x, x);
    return (0.5f * x) * (1.0f + tanhf(0.79788456080286536f * sum));
  }
};

}  // namespace

kvops_status gelu_tanh_and_mul(const kvops_gelu_tanh_and_mul_args& a) {
  return gated<gpu::Pairing::first_gate>("gelu_tanh_and_mul", a, Act{});
}

}  // namespace kvops::KVOPS_GPU
