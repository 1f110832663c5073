// silu_and_mul_with_clamp: g = RN_T(min(a, limit)), u = RN_T(max(min(b, limit), -limit)),
//   out = RN_T(RN_T(g / (1 + exp(-(alpha * g)))) * (u + beta)), a and b being the halves of a row.
// u + beta in f32; NaN in either gives NaN. See gated.cuh for the mapping.
#include "gpu/gated.cuh"

namespace kvops::KVOPS_GPU {
namespace {

struct Act {
  float limit, alpha, beta;

  template <class T, class Division>
  __device__ float operator()(float a, float b, T, Division& by) const {
    float most = gpu::round_to<T>(limit);  // a, b are T: rounded before min and max or after
    float g = gpu::min_keep_nan(a, most);
    float u = gpu::max_keep_nan(gpu::min_keep_nan(b, most), -most);
    float gate = gpu::round_to<T>(by.divide(g, 1.0f + expf(-(alpha * g)), T{}));
    return mul_rn(gate, u + beta);
  }
};

}  // namespace

kvops_status silu_and_mul_with_clamp(const kvops_silu_and_mul_with_clamp_args& a) {
  return gated<gpu::Pairing::first_gate>(
      "silu_and_mul_with_clamp", a, Act{gpu::limit_of(a.limit), float(a.alpha), float(a.beta)});
}

}  // namespace kvops::KVOPS_GPU
