// Two tensors of one shape and any strides, walked together.
#pragma once
#include <algorithm>
#include <cstdlib>

#include "core/view.h"
#include "cpu/parallel.h"

namespace kvops::cpu {

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

// Calls run(from, from_stride, to, to_stride, n) for runs that cover all elements, on all threads.
// No extent is 0.
template <class S, class T, class F>
void for_each_pair_of_runs(const kvops_tensor& from, const kvops_tensor& to, F&& run) {
  constexpr int64_t kPiece = 32 << 10;  // elements
  PairDim dims[6];
  const int last = pair_dims(from, to, dims) - 1;
  const PairDim inner = dims[last];
  int64_t total = 1;
  for (int i = 0; i <= last; ++i) total *= dims[i].n;
  parallel_for(total, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin, n; e < end; e += n) {
      int64_t first = e % inner.n, row = e / inner.n;
      n = std::min(inner.n - first, end - e);
      auto* s = static_cast<const S*>(from.data) + first * inner.from;
      auto* t = static_cast<T*>(to.data) + first * inner.to;
      for (int i = last - 1; i >= 0; --i) {
        s += row % dims[i].n * dims[i].from, t += row % dims[i].n * dims[i].to;
        row /= dims[i].n;
      }
      run(s, inner.from, t, inner.to, n);
    }
  });
}

}  // namespace kvops::cpu
