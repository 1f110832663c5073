// swigluoai_and_mul: g = min(gate, limit), u = max(min(up, limit), -limit),
//   out = RN_T(((u + 1) * g) / (1 + exp(-(g * alpha)))), gate and up being neighbours in a row.
// f32 throughout, one rounding at the end; NaN in either gives NaN. See gated.cuh for the mapping.
#include "gpu/gated.cuh"

namespace kvops::KVOPS_GPU {
namespace {

struct Act {
  float alpha, limit;

  template <class T, class Division>
  __device__ float operator()(float gate, float up, T, Division& by) const {
    float g = gpu::min_keep_nan(gate, limit);
    float u = gpu::max_keep_nan(gpu::min_keep_nan(up, limit), -limit);
    return by.divide((u + 1.0f) * g, 1.0f + expf(-(g * alpha)), 0.0f);
  }
};

}  // namespace

kvops_status swigluoai_and_mul(const kvops_swigluoai_and_mul_args& a) {
  return gated<gpu::Pairing::interleaved>("swigluoai_and_mul", a,
                                          Act{float(a.alpha), gpu::limit_of(a.limit)});
}

}  // namespace kvops::KVOPS_GPU
