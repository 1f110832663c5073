// fused_add_rms_norm: residual = RN_T(input + residual), input = rms_norm(residual) * weight. The
// sum of squares is that of the rounded sums: the bits are those of an addition and rms_norm. See
// norm.cuh for the mapping.
#include "gpu/norm.cuh"

namespace kvops::KVOPS_GPU {

kvops_status fused_add_rms_norm(const kvops_fused_add_rms_norm_args& a) {
  constexpr const char* kOp = "fused_add_rms_norm";
  return dispatch(kOp, "input", a.input.dtype, Floats{}, [&]<class T>() {
    return with_weight<T>(a.weight, [&]<class W>() {
      Weight<W> weight = {static_cast<const W*>(a.weight.data), 0, 1};
      bool aligned = __is_same(W, NoWeight) || rows_aligned(a.weight, sizeof(W), 16);
      return run_norm<T, W, true>(kOp, a.input, a.residual, weight, a.input, a.epsilon, aligned);
    });
  });
}

}  // namespace kvops::KVOPS_GPU
