// TensorView: a kvops_tensor whose dtype and rank are known. Passed by value, also to kernels;
// 64-bit offsets everywhere. view<T, R>() is the only conversion.
#pragma once
#include <cstdint>

#include "kvcache_ops/types.h"

#if defined(__CUDACC__) || defined(__HIPCC__)
#define KVOPS_HD __host__ __device__
#else
#define KVOPS_HD
#endif

namespace kvops {

template <class T, int Rank>
struct TensorView {
  T* data;
  int64_t shape[Rank];
  int64_t stride[Rank];

  // Address of element (i, j, ...); fewer indices than dimensions: of the first element there.
  template <class... Index>
  KVOPS_HD T* at(Index... index) const {
    static_assert(sizeof...(Index) <= Rank);
    int64_t offset = 0;
    int axis = 0;
    ((offset += int64_t(index) * stride[axis++]), ...);
    return data + offset;
  }
  template <class... Index>
  KVOPS_HD T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == Rank);
    return *at(index...);
  }
};

// No elements: data may be NULL and strides may be anything, so that no address may be computed.
inline bool is_empty(const kvops_tensor& t) {
  for (int i = 0; i < t.rank; ++i)
    if (!t.shape[i]) return true;
  return false;
}

// The strides of extents of 1 may be anything: here they are the dense ones.
inline kvops_tensor with_plain_strides(kvops_tensor t) {
  for (int64_t i = t.rank - 1, dense = 1; i >= 0; dense *= t.shape[i--])
    if (t.shape[i] == 1) t.stride[i] = dense;
  return t;
}

// The tensor has this rank and an element type of T's size: bind() made sure. Every index of an
// empty one is at `data`.
template <class T, int Rank>
TensorView<T, Rank> view(const kvops_tensor& t) {
  TensorView<T, Rank> v;
  v.data = static_cast<T*>(t.data);
  const bool empty = is_empty(t);
  for (int i = 0; i < Rank; ++i) v.shape[i] = t.shape[i], v.stride[i] = empty ? 0 : t.stride[i];
  return v;
}

// Rows of a tensor of any rank: the last dimension is a row, the others count rows in C order.
// Dimensions of extent 1 vanish and dense neighbours merge, so that most tensors have one level.
template <class T>
struct RowsView {
  T* data;
  int64_t rows, size;  // number of rows, elements in one
  int64_t extent[5];   // of the leading dimensions, innermost first; [0] alone when rank <= 1
  int64_t stride[5];
  int levels;  // at least 1

  KVOPS_HD T* row(int64_t r) const {
    int64_t offset = 0;
    for (int i = 0; i + 1 < levels; ++i) {
      offset += r % extent[i] * stride[i];
      r /= extent[i];
    }
    return data + offset + r * stride[levels - 1];
  }
};

template <class T>
RowsView<T> rows_view(const kvops_tensor& t) {
  RowsView<T> v = {};
  v.data = static_cast<T*>(t.data);
  v.rows = 1, v.size = t.rank ? t.shape[t.rank - 1] : 1;
  const bool empty = is_empty(t);
  for (int i = t.rank - 2; i >= 0; --i) {
    int64_t n = t.shape[i], stride = empty ? 0 : t.stride[i];
    v.rows *= n;
    if (n == 1) continue;
    int top = v.levels - 1;
    if (v.levels && stride == v.extent[top] * v.stride[top]) {
      v.extent[top] *= n;
    } else {
      v.extent[v.levels] = n, v.stride[v.levels] = stride, ++v.levels;
    }
  }
  if (!v.levels) v.extent[0] = 1, v.stride[0] = 0, v.levels = 1;
  return v;
}

inline bool present(const kvops_tensor& t) { return t.rank || t.data; }

}  // namespace kvops
