// Two tensors of one shape and any strides, walked together.
#pragma once
#include <algorithm>

#include "core/pairs.h"
#include "cpu/parallel.h"

namespace kvops::cpu {

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
