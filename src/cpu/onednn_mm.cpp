// onednn_mm: out = RN(input . weight + bias), f32 sums. oneDNN multiplies, or gemm().
#include "core/error.h"
#include "core/view.h"
#include "cpu/matmul.h"
#include "cpu/onednn.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status onednn_mm(const kvops_onednn_mm_args& a) {
  constexpr const char* op = "onednn_mm";
  auto weight = find_weight(op, a.handle, false);
  if (!weight) return KVOPS_INVALID_ARGUMENT;
  auto& shape = weight->shape;
  if (auto s = check_product(op, *weight, a.input, a.out)) return s;
  if (a.input.dtype != shape.dtype)
    return fail(KVOPS_INVALID_ARGUMENT, op, "input", "dtype is %s, expected %s (as the weight)",
                dtype(a.input.dtype).name, dtype(shape.dtype).name);
  const Gemm g = {shape,        weight->packed.get(), a.input.shape[0],
                  a.input.data, a.input.stride[0],    present(a.bias) ? a.bias.data : nullptr,
                  a.out.data,   a.out.stride[0]};
  if (weight->onednn) return weight->onednn->multiply(op, g);
  if (!gemm(g)) return fail(KVOPS_OUT_OF_MEMORY, op, "", "the host has no memory left");
  return KVOPS_OK;
}

}  // namespace kvops::cpu
