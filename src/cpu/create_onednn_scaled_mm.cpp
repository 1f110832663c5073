// create_onednn_scaled_mm: packs an int8 weight, copies its scales and sums its columns.
#include "core/view.h"
#include "cpu/matmul.h"
#include "kvcache_ops.h"

namespace kvops::cpu {
namespace {

// One scale per column; the vectors may be read a full vector past n.
std::vector<float> scales_of(const kvops_tensor& scales, int64_t n) {
  std::vector<float> all(size_t(n + kGemmColumns));
  const auto* data = static_cast<const float*>(scales.data);
  int64_t count = 1, stride = 0;
  for (int i = 0; i < scales.rank; ++i)
    if (scales.shape[i] > 1) count = scales.shape[i], stride = scales.stride[i];
  for (int64_t j = 0; j < n; ++j) all[size_t(j)] = data[count > 1 ? j * stride : 0];
  return all;
}

std::vector<int32_t> column_sums(const TensorView<const int8_t, 2>& w) {
  std::vector<int32_t> sums(size_t(w.shape[1] + kGemmColumns));
  // Along the rows, or down the columns, whichever is closer together in memory.
  if (w.stride[0] == 1) {
    for (int64_t j = 0; j < w.shape[1]; ++j) {
      const int8_t* column = w.at(0, j);
      int32_t sum = 0;
      for (int64_t i = 0; i < w.shape[0]; ++i) sum += column[i];
      sums[size_t(j)] = sum;
    }
  } else {
    for (int64_t i = 0; i < w.shape[0]; ++i)
      for (int64_t j = 0; j < w.shape[1]; ++j) sums[size_t(j)] += w(i, j);
  }
  return sums;
}

}  // namespace

kvops_status create_onednn_scaled_mm(const kvops_create_onednn_scaled_mm_args& a) {
  auto packed = std::make_shared<MatmulWeight>();
  auto status = pack_weight("create_onednn_scaled_mm", "onednn_scaled_mm", a.weight,
                            a.primitive_cache_size, *packed);
  if (status) return status;
  packed->is_scaled = true;
  packed->dynamic = a.dynamic_act_quant != 0;
  packed->has_azp = a.use_azp != 0;
  packed->out_dtype = kvops_dtype(a.out_dtype);
  packed->scales = scales_of(a.weight_scales, a.weight.shape[1]);
  packed->sums = column_sums(view<const int8_t, 2>(a.weight));
  *static_cast<int64_t*>(a.handle.data) = add_weight(std::move(packed));
  return KVOPS_OK;
}

}  // namespace kvops::cpu
