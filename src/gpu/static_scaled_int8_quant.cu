// static_scaled_int8_quant: int8 codes with one given scale and zero point; see int8.cuh.
// All groups of 16 bytes of input of all rows are numbered; a block takes kThreads * kUnroll in a
// row, a thread those that are kThreads apart. Rows that follow each other densely are one; rows at
// odd addresses go element by element.
#include "core/dispatch.h"
#include "gpu/early.cuh"
#include "gpu/int8.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr int kThreads = 256;

struct Shape {
  Splitter groups;  // of a row
  int64_t d, items;
};

template <class T, template <class> class Rows, int N, int kUnroll>
__global__ void __launch_bounds__(kThreads)
    static_scaled_int8_quant_kernel(KVOPS_IN_PLACE Rows<const T> input,
                                    KVOPS_IN_PLACE Rows<Int8Code> out, KVOPS_IN_PLACE Shape shape,
                                    const float* scale, const int32_t* azp) {
  await_queue();
  int64_t first = int64_t(blockIdx.x) * (kThreads * kUnroll) + int(threadIdx.x);
  Group<T, N> x[kUnroll];
  Int8Code* to[kUnroll];
  int64_t rest[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t item = first + i * kThreads;
    rest[i] = 0;
    if (item >= shape.items) continue;
    auto [row, group] = shape.groups(item);
    rest[i] = shape.d - group * N;
    x[i] = load_n<N, (N > 1)>(row_of(input, row) + group * N, rest[i]);
    to[i] = row_of(out, row) + group * N;
  }
  Int8Scale by = {div_rn(1, *scale), azp ? float(*azp) : 0.0f};
#pragma unroll
  for (int i = 0; i < kUnroll; ++i)
    if (rest[i] > 0) store_n<(N > 1)>(to[i], int8_codes(x[i], by), rest[i]);
}

template <class T>
kvops_status run(const kvops_static_scaled_int8_quant_args& a) {
  constexpr int N = kGroup<T>;
  auto in = rows_view<const T>(a.input);
  auto out = rows_view<Int8Code>(a.out);
  bool flat = in.levels == 1 && out.levels == 1;
  if (flat && in.stride[0] == in.size && out.stride[0] == in.size)
    in.size *= in.rows, in.rows = in.extent[0] = out.extent[0] = 1;
  bool single = in.rows == 1;
  bool aligned = single ? is_multiple(in.data, 16) && is_multiple(out.data, N)
                        : rows_aligned(a.input, sizeof(T), 16) && rows_aligned(a.out, 1, N);
  int64_t groups = aligned ? (in.size + N - 1) / N : in.size;
  Shape shape = {Splitter(groups), in.size, in.rows * groups};
  auto start = [&]<template <class> class Rows, int kN, int kUnroll>(Rows<const T> from,
                                                                     Rows<Int8Code> to) {
    Grid grid = {.x = (shape.items + kThreads * kUnroll - 1) / (kThreads * kUnroll),
                 .threads = kThreads};
    return launch_early("static_scaled_int8_quant",
                        static_scaled_int8_quant_kernel<T, Rows, kN, kUnroll>, grid, a.out, from,
                        to, shape, static_cast<const float*>(a.scale.data),
                        static_cast<const int32_t*>(a.azp.data));
  };
  if (!flat) {
    return aligned ? start.template operator()<RowsView, N, 2>(in, out)
                   : start.template operator()<RowsView, 1, 4>(in, out);
  }
  FlatRows<const T> from = {in.data, in.stride[0]};
  FlatRows<Int8Code> to = {out.data, out.stride[0]};
  if (!aligned) return start.template operator()<FlatRows, 1, 4>(from, to);
  if (shape.items < 8 * kThreads * compute_units(a.out))
    return start.template operator()<FlatRows, N, 1>(from, to);
  return start.template operator()<FlatRows, N, 4>(from, to);
}

}  // namespace

kvops_status static_scaled_int8_quant(const kvops_static_scaled_int8_quant_args& a) {
  return dispatch("static_scaled_int8_quant", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return run<T>(a); });
}

}  // namespace kvops::KVOPS_GPU
