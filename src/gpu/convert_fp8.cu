// convert_fp8: dst = fp8(src / scale), or dst = RN_T(decode(src) * scale), element by element.
// Dimensions are taken in the order of dst's strides and merged where both tensors allow it. Groups
// of 16 bytes of the wider side are numbered along the innermost one, single elements where that is
// not dense or not aligned; a block takes kThreads * kUnroll in a row, a thread those that are
// kThreads apart. One division and one rounding, or one product and one rounding.
#include <type_traits>

#include "core/dispatch.h"
#include "core/pairs.h"
#include "gpu/codes.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "convert_fp8";
constexpr int kThreads = 256, kMaxDims = 5;

template <class S, class T>
struct Walk {
  const S* from;
  T* to;
  int64_t items, n;                // groups or elements in all; elements of the innermost dimension
  int64_t from_stride, to_stride;  // of the innermost dimension
  Splitter per_row;                // items of the innermost dimension
  int dims;                        // the others, innermost first
  int64_t extent[kMaxDims], from_outer[kMaxDims], to_outer[kMaxDims];
};

// Offsets in both tensors, and how many elements of the innermost dimension follow.
struct Place {
  int64_t from, to, rest;
};
template <int N, class S, class T>
__device__ Place place_of(const Walk<S, T>& walk, int64_t item) {
  if (!walk.dims && walk.from_stride == 1 && walk.to_stride == 1)
    return {item * N, item * N, walk.n - item * N};
  auto [row, group] = walk.per_row(item);
  Place at = {group * N * walk.from_stride, group * N * walk.to_stride, walk.n - group * N};
  for (int i = 0; i < walk.dims; ++i) {
    auto next = split(row, walk.extent[i]);
    at.from += next.remainder * walk.from_outer[i];
    at.to += next.remainder * walk.to_outer[i];
    row = next.quotient;
  }
  return at;
}

template <class S, class T, int N, int kUnroll>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(KVOPS_IN_PLACE Walk<S, T> walk, float scale) {
  using Wide = std::conditional_t<sizeof(T) == 1, S, T>;
  int64_t first = int64_t(blockIdx.x) * (kThreads * kUnroll) + int(threadIdx.x);
  Group<S, N> x[kUnroll];
  Place at[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t item = first + i * kThreads;
    if (item >= walk.items) continue;
    at[i] = place_of<N>(walk, item);
    x[i] = load_n<N, (N > 1)>(walk.from + at[i].from, at[i].rest);
  }
  Divider<Wide> divide(scale);
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (first + i * kThreads >= walk.items) continue;
    if constexpr (sizeof(T) == 1)
      store_n<(N > 1)>(walk.to + at[i].to, codes_of<T>(x[i], divide), at[i].rest);
    else
      store_n<(N > 1)>(walk.to + at[i].to, convert_back<T>(x[i], scale), at[i].rest);
  }
}

template <class S, class T>
kvops_status convert_tensor(const kvops_convert_fp8_args& a) {
  constexpr int N = kGroup<std::conditional_t<sizeof(T) == 1, S, T>>;
  constexpr int64_t kFrom = sizeof(S), kTo = sizeof(T);
  PairDim dims[6];
  int outer = pair_dims(a.src, a.dst, dims) - 1;
  auto inner = dims[outer];
  bool grouped = inner.from == 1 && inner.to == 1 && is_multiple(a.src.data, N * kFrom) &&
                 is_multiple(a.dst.data, N * kTo);
  for (int i = 0; i < outer; ++i) grouped = grouped && dims[i].from % N == 0 && dims[i].to % N == 0;
  int64_t per_row = grouped ? (inner.n + N - 1) / N : inner.n;
  Walk<S, T> walk = {static_cast<const S*>(a.src.data),
                     static_cast<T*>(a.dst.data),
                     per_row,
                     inner.n,
                     inner.from,
                     inner.to,
                     Splitter(per_row),
                     outer,
                     {},
                     {},
                     {}};
  for (int i = 0; i < outer; ++i) {
    auto dim = dims[outer - 1 - i];
    walk.extent[i] = dim.n, walk.from_outer[i] = dim.from, walk.to_outer[i] = dim.to;
    walk.items *= dim.n;
  }
  auto start = [&]<int kN, int kUnroll>() {
    Grid grid = {.x = (walk.items + kThreads * kUnroll - 1) / (kThreads * kUnroll),
                 .threads = kThreads};
    return launch(kOp, convert_kernel<S, T, kN, kUnroll>, grid, a.dst, walk, float(a.scale));
  };
  if (!grouped) return start.template operator()<1, 4>();
  // H200: enough blocks first, then more accesses of a thread.
  int64_t each = walk.items / (8 * kThreads * compute_units(a.dst));
  if (each < 1) return start.template operator()<N, 1>();
  if (each < 8) return start.template operator()<N, 2>();
  return start.template operator()<N, 4>();
}

}  // namespace

kvops_status convert_fp8(const kvops_convert_fp8_args& a) {
  bool quantises = a.src.dtype <= KVOPS_BF16;
  kvops_dtype wide = quantises ? a.src.dtype : a.dst.dtype;
  kvops_dtype narrow = quantises ? a.dst.dtype : a.src.dtype;
  return dispatch(kOp, "src", wide, Floats{}, [&]<class T>() {
    return dispatch(kOp, "dst", narrow, Fp8s{}, [&]<class F>() {
      return quantises ? convert_tensor<T, F>(a) : convert_tensor<F, T>(a);
    });
  });
}

}  // namespace kvops::KVOPS_GPU
