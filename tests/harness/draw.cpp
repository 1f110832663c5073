// See draw.h.
#include "draw.h"

#include <cstring>

namespace harness {

const kvops_arg_info kBehind = {"a cache", 0,        KVOPS_ARG_TENSOR,    3, 0,
                                "",        "bytes!", KVOPS_COMPARE_EXACT, 0, 0};

int64_t count(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (auto e : shape) n *= e;
  return n;
}

int64_t elements(const kvops_op_info& op, const Shapes& shapes) {
  int64_t n = 0;
  for (size_t i = 0; i < op.num_args; ++i) {
    std::vector<int64_t> shape;
    auto& arg = *op.args[i];
    if (arg.kind == KVOPS_ARG_TENSOR && shapes.present(arg) && shapes.shape(arg, &shape))
      n += count(shape);
  }
  return n;
}

// Bytes that each address of an argument leads to; 0: it has none.
static int64_t behind(const kvops_op_info& op, const Shapes& shapes, const kvops_arg_info& arg) {
  double bytes = 0;
  if (!std::strstr(arg.name, "_ptrs")) return 0;
  if (shapes.number("num_blocks*block_stride*bytes(cache_dtype)", &bytes)) return int64_t(bytes);
  for (size_t i = 0; i < op.num_args; ++i)
    if (!std::strcmp(op.args[i]->name, "sizes")) return kLargestCopy;
  return 0;
}

int64_t bytes_behind(const kvops_op_info& op, const Shapes& shapes) {
  int64_t n = 0;
  for (size_t i = 0; i < op.num_args; ++i) {
    std::vector<int64_t> shape;
    const int64_t each = behind(op, shapes, *op.args[i]);
    if (each && shapes.shape(*op.args[i], &shape)) n += each * count(shape);
  }
  return n;
}

std::vector<Tensor> draw(const kvops_op_info& op, const Shapes& shapes, uint64_t seed) {
  Fill fill(op, shapes, seed);
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < op.num_args; ++i) {
    auto& arg = *op.args[i];
    if (arg.kind != KVOPS_ARG_TENSOR || arg.flags & (KVOPS_ARG_SIZED | KVOPS_ARG_PLACE) ||
        !shapes.present(arg))
      continue;
    Tensor t = {&arg, shapes.dtype(arg), {}, {}};
    shapes.shape(arg, &t.shape);
    if (arg.flags & KVOPS_ARG_READ) t.elements = fill.values(arg, t.dtype, t.shape);
    const int64_t bytes = behind(op, shapes, arg);
    for (int64_t k = 0, n = bytes ? count(t.shape) : 0; k < n; ++k)
      tensors.push_back({&kBehind, KVOPS_U8, {bytes}, fill.values(kBehind, KVOPS_U8, {bytes})});
    for (size_t r = 0; r < op.num_rules; ++r)
      t.pages = t.pages || (t.dtype == KVOPS_U8 &&
                            op.rules[r] == "require " + std::string(arg.name) + " pages");
    tensors.push_back(std::move(t));
  }
  return tensors;
}

}  // namespace harness
