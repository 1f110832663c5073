// The dimensions of two tensors of one shape and any strides, in the order of a common walk.
#pragma once
#include <cstdlib>

#include "kvcache_ops/types.h"

namespace kvops {

struct PairDim {
  int64_t n, from, to;  // extent, strides
};

// Dimensions of both, outermost first: sorted by the stride of `to`, merged where they are dense on
// both sides, those of extent 1 dropped. At least one.
inline int pair_dims(const kvops_tensor& from, const kvops_tensor& to, PairDim (&dims)[6]) {
  int count = 0, merged = 0;
  for (int i = 0; i < to.rank; ++i) {
    if (to.shape[i] == 1) continue;
    int j = count++;  // dimensions of smaller strides move back
    for (; j > 0 && std::llabs(dims[j - 1].to) < std::llabs(to.stride[i]); --j)
      dims[j] = dims[j - 1];
    dims[j] = {to.shape[i], from.stride[i], to.stride[i]};
  }
  if (!count) dims[count++] = {1, 1, 1};
  for (int i = 1; i < count; ++i) {
    PairDim& outer = dims[merged];
    if (outer.to == dims[i].n * dims[i].to && outer.from == dims[i].n * dims[i].from)
      outer = {outer.n * dims[i].n, dims[i].from, dims[i].to};
    else
      dims[++merged] = dims[i];
  }
  return merged + 1;
}

}  // namespace kvops
