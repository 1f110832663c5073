// fatrelu_and_mul: out = RN_T((a <= RN_T(threshold) ? 0 : a) * b).
// a, b: the halves of a row. A NaN in a is not <= anything and passes. One rounding. See gated.cuh
// for the mapping.
#include "gpu/gated.cuh"

namespace kvops::KVOPS_GPU {
namespace {

struct Act {
  float threshold;

  template <class T, class Division>
  __device__ float operator()(float a, float b, T, Division&) const {
    return mul_rn(a <= gpu::round_to<T>(threshold) ? 0.0f : a, b);
  }
};

}  // namespace

kvops_status fatrelu_and_mul(const kvops_fatrelu_and_mul_args& a) {
  return gated<gpu::Pairing::first_gate>("fatrelu_and_mul", a, Act{float(a.threshold)});
}

}  // namespace kvops::KVOPS_GPU
