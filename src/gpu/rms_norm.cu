// rms_norm: out = (input * s) * weight, s = 1 / sqrt(mean(input^2) + epsilon), row by row. See
// norm.cuh for the mapping; weights are one row, or one for so many rows.
#include "gpu/norm.cuh"

namespace kvops::KVOPS_GPU {

kvops_status rms_norm(const kvops_rms_norm_args& a) {
  return dispatch("rms_norm", "input", a.input.dtype, Floats{}, [&]<class T>() {
    return with_weight<T>(a.weight, [&]<class W>() {
      Weight<W> weight = {static_cast<const W*>(a.weight.data), 0, 1};
      if (a.weight.rank == 2) {
        weight.stride = a.weight.stride[0];
        weight.rows_each = rows_view<const T>(a.input).rows / a.weight.shape[0];
      }
      bool aligned = __is_same(W, NoWeight) || rows_aligned(a.weight, sizeof(W), 16);
      return run_norm<T, W, false>("rms_norm", a.input, {}, weight, a.out, a.epsilon, aligned);
    });
  });
}

}  // namespace kvops::KVOPS_GPU
