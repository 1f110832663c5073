// The frame of the gated activations: rows of 2d elements become rows of d.
//
// All groups of 16 bytes of all rows are numbered; a block takes as many in a row as it has
// threads, times kUnroll, a thread those that are a block apart, so that a warp's accesses are
// dense and all loads are on their way before the first is used. Rows at odd addresses go element
// by element, in the same way. An activation is a struct with either
//   float gate(float g, T, Division&)                  out = RN_T(RN_T(gate(g)) * u)
//   float operator()(float g, float u, T, Division&)   out = RN_T(...)
// Elements are independent of each other: where a row lies or how it is cut changes no bits.
//
// exp, erf and tanh are the full-precision ones of the vendor's library, divisions those of IEEE:
// on CUDA expf and tanhf are within 1 ulp, erff within 2, which tests/gpu repeats over all bf16
// gates and many f32.
#pragma once
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/early.cuh"
#include "gpu/vec.cuh"

namespace kvops::gpu {

template <class T, class Division>
__device__ inline float silu(float x, T, Division& by) {
  return by.divide(x, 1.0f + expf(-x), T{});
}

struct Silu {
  template <class T, class Division>
  __device__ float gate(float x, T, Division& by) const {
    return silu(x, T{}, by);
  }
};

template <class T>
__device__ inline float round_to(float x) {
  return to_float(from_float<T>(x));
}

// A limit that is NaN limits nothing.
inline float limit_of(double limit) { return limit == limit ? float(limit) : __builtin_inff(); }

enum class Pairing { first_gate, second_gate, interleaved };

template <class T, class Act, class Division>
__device__ inline float gated_value(const Act& act, float g, float u, Division& by) {
  if constexpr (requires { act.gate(g, T{}, by); })
    return mul_rn(round_to<T>(act.gate(g, T{}, by)), u);
  else
    return act(g, u, T{}, by);
}

// a, b: the gates and what they are multiplied with. kNeighbours: both are in a, one by one.
template <bool kNeighbours, class T, class Act, class Division, int kIn, int N>
__device__ inline void gated_group(const Act& act, const Group<T, kIn>& a, const Group<T, kIn>& b,
                                   Division& by, Group<T, N>& out) {
  auto gate = [&](int i) { return a.number(kNeighbours ? 2 * i : i); };
  auto other = [&](int i) { return kNeighbours ? a.number(2 * i + 1) : b.number(i); };
  if constexpr (N == 1) {
    out.set(0, from_float<T>(gated_value<T>(act, gate(0), other(0), by)));
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      if constexpr (sizeof(T) == 2 && !kNeighbours && requires { act.gate(gate(0), T{}, by); })
        out.word[i / 2] = multiply_pair<T>(
            from_pair<T>(act.gate(gate(i), T{}, by), act.gate(gate(i + 1), T{}, by)),
            b.word[i / 2]);
      else
        set_pair(out, i, gated_value<T>(act, gate(i), other(i), by),
                 gated_value<T>(act, gate(i + 1), other(i + 1), by));
    }
  }
}

struct GatedShape {
  Splitter groups;  // of a row
  int64_t d, items;
};

constexpr int kGatedThreads = 256;

// N: elements of out in a group.
template <Pairing kPairing, class T, class Act, template <class> class Rows, int N, int kUnroll>
__global__ void __launch_bounds__(kGatedThreads)
    gated_kernel(KVOPS_IN_PLACE Rows<const T> input, KVOPS_IN_PLACE Rows<T> out,
                 KVOPS_IN_PLACE GatedShape shape, KVOPS_IN_PLACE Act act) {
  constexpr bool kNeighbours = kPairing == Pairing::interleaved, kAligned = N > 1;
  constexpr int kIn = kNeighbours ? 2 * N : N;
  using Index = std::conditional_t<__is_same(Rows<T>, FlatRows<T>), uint32_t, int64_t>;
  await_queue();
  int64_t first = int64_t(blockIdx.x) * (int(blockDim.x) * kUnroll) + int(threadIdx.x);
  Group<T, kIn> a[kUnroll], b[kUnroll];
  T* to[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t item = first + i * int(blockDim.x);
    if (item >= shape.items) continue;
    auto [row, group] = shape.groups(Index(item));
    const T* from = row_of(input, row) + int64_t(group) * kIn;
    to[i] = row_of(out, row) + int64_t(group) * N;
    a[i] = load<kIn, kAligned>(from);
    if constexpr (!kNeighbours) b[i] = load<kIn, kAligned>(from + shape.d);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (first + i * int(blockDim.x) >= shape.items) continue;
    const auto &gate = kPairing == Pairing::second_gate ? b[i] : a[i],
               &other = kPairing == Pairing::second_gate ? a[i] : b[i];
    Group<T, N> result;
    Quick quick;
    gated_group<kNeighbours>(act, gate, other, quick, result);
    if (__builtin_expect(!quick.usual, 0)) {
      Exact exact;
      gated_group<kNeighbours>(act, gate, other, exact, result);
    }
    store<kAligned>(to[i], result);
  }
}

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

template <gpu::Pairing kPairing, class T, class Act>
kvops_status run_gated(const char* op, const kvops_tensor& input, const kvops_tensor& output,
                       const Act& act) {
  constexpr int N = gpu::kGroup<T>, kUnroll = 2;
  auto in = rows_view<const T>(input);
  auto out = rows_view<T>(output);
  bool aligned = out.size % N == 0 && rows_aligned(input, sizeof(T), 16) &&
                 rows_aligned(output, sizeof(T), 16);
  const int64_t groups = out.rows * (out.size / N), units = compute_units(output);
  auto start = [&]<template <class> class Rows, int kN, int kEach>(Rows<const T> from, Rows<T> to) {
    const int64_t per_row = out.size / kN;
    gpu::GatedShape shape = {gpu::Splitter(per_row), out.size, out.rows * per_row};
    // H200: below two blocks of 256 for every SM, more and smaller ones are faster.
    int threads = shape.items < 512 * units ? 128 : gpu::kGatedThreads;
    return launch_early(
        op, gpu::gated_kernel<kPairing, T, Act, Rows, kN, kEach>,
        Grid{.x = (shape.items + threads * kEach - 1) / (threads * kEach), .threads = threads},
        output, from, to, shape, act);
  };
  if (!aligned) return start.template operator()<RowsView, 1, 4>(in, out);
  if (in.levels > 1 || out.levels > 1 || groups > INT32_MAX)
    return start.template operator()<RowsView, N, 1>(in, out);
  gpu::FlatRows<const T> from = {in.data, in.stride[0]};
  gpu::FlatRows<T> to = {out.data, out.stride[0]};
  // Enough work to keep every SM busy with fewer threads, more of it each.
  if (groups >= 4096 * units) return start.template operator()<gpu::FlatRows, N, kUnroll>(from, to);
  // Little work: half a group's arithmetic is waited for.
  if constexpr (sizeof(T) == 2)
    if (groups < 1024 * units) return start.template operator()<gpu::FlatRows, N / 2, 1>(from, to);
  return start.template operator()<gpu::FlatRows, N, 1>(from, to);
}

template <gpu::Pairing kPairing, class Args, class Act>
kvops_status gated(const char* op, const Args& a, const Act& act) {
  return dispatch(op, "input", a.input.dtype, Floats{},
                  [&]<class T>() { return run_gated<kPairing, T>(op, a.input, a.out, act); });
}

}  // namespace kvops::KVOPS_GPU
