// The tensors of one call with random elements, not yet in any memory: what the sweeps and the
// proofs on GPUs lay out.
#pragma once
#include "fill.h"

namespace harness {

struct Tensor {
  const kvops_arg_info* arg;
  kvops_dtype dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> elements;  // in C order; none: only written
  bool pages = false;             // of NVFP4
};

// What an address leads to: a tensor that is no argument. Those of an argument `..._ptrs` stand
// before it, one for each of its elements.
extern const kvops_arg_info kBehind;

int64_t count(const std::vector<int64_t>& shape);

// All elements of a call's tensors, and bytes behind its addresses.
int64_t elements(const kvops_op_info& op, const Shapes& shapes);
int64_t bytes_behind(const kvops_op_info& op, const Shapes& shapes);

// Without workspaces and plans; shapes, dtypes and order do not depend on the seed.
std::vector<Tensor> draw(const kvops_op_info& op, const Shapes& shapes, uint64_t seed);

}  // namespace harness
