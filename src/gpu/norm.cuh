// Rows of rms_norm and fused_add_rms_norm: y = (x * s) * weight, s = 1 / sqrt(mean(x^2) + epsilon),
// where x is a row of the input, or RN_T(input + residual), which then becomes the residual.
//
// `lanes` threads share a row: up to 32 within one warp, then a block of them. Thread l has the
// groups l, l + lanes, ... of 16 bytes each; up to kRegisters of them are read once and kept,
// longer rows, and those that are not whole groups at aligned addresses, are read twice. Sums in
// f32, group by group, one rounding at the end. Which thread adds what depends on d and the dtype
// alone: a row has the same bits in any batch and at any address, and with a residual those of an
// addition followed by rms_norm. Few rows are shared by clusters of blocks.
#pragma once
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/early.cuh"
#include "gpu/reduce.cuh"
#include "gpu/teams.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

struct NoWeight {
  uint8_t bits;
};
struct NoResidual {};
template <class W>
struct Weight {
  const W* data;
  int64_t stride, rows_each;  // 2-D: one row of weights for so many rows; else stride is 0
};

// Index: int where a row fits into registers, which saves some. kWhole: groups are aligned, and
// there is none but whole ones.
template <class T, class W, class Index, bool kWhole>
struct Row {
  static constexpr int kN = kGroup<T>;
  const T* x;
  T* y;
  const W* w;
  Index d;

  template <class E>
  __device__ Group<E, kN> group(const E* p, Index j) const {
    if constexpr (!kWhole) return load_n<kN, false>(p + j, d - j);
    return j < d ? load<kN, true>(p + j) : Group<E, kN>{};
  }
  __device__ Group<T, kN> read(Index j) const { return group(x, j); }
  __device__ Group<W, kN> weight(Index j) const {
    if constexpr (__is_same(W, NoWeight))
      return {};
    else
      return group(w, j);
  }
  __device__ static float squares(const Group<T, kN>& g) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      float v = g.number(i);
      sum = fmaf(v, v, sum);
    }
    return sum;
  }
  __device__ void write(Index j, Group<T, kN> g, const Group<W, kN>& weight, float s) const {
#pragma unroll
    for (int i = 0; i < kN; i += 2) {
      float v[2] = {g.number(i) * s, g.number(i + 1) * s};
      if constexpr (!__is_same(W, NoWeight)) v[0] *= weight.number(i), v[1] *= weight.number(i + 1);
      set_pair(g, i, v[0], v[1]);
    }
    put(j, g);
  }
  __device__ void put(Index j, const Group<T, kN>& g) const {
    if constexpr (!kWhole)
      store_n<false>(y + j, g, d - j);
    else if (j < d)
      store<true>(y + j, g);
  }
};

// RN_T(x + y).
template <class T, int N>
__device__ Group<T, N> add(const Group<T, N>& x, const Group<T, N>& y) {
  Group<T, N> z;
#pragma unroll
  for (int i = 0; i < N * int(sizeof(T)) / 4; ++i) {
    if constexpr (sizeof(T) == 2)
      z.word[i] = add_pair<T>(x.word[i], y.word[i]);
    else
      z.set(i, add_rn(x.get(i), y.get(i)));
  }
  return z;
}

template <class T, class W, template <class> class Rows, class Residual>
struct NormCall {
  using Element = T;
  using WeightElement = W;
  static constexpr bool kAdds = !__is_same(Residual, NoResidual);
  Rows<const T> input;
  Residual residual;  // rows, or none
  Weight<W> weight;
  Rows<T> out;
  Shape shape;
  float epsilon;
};

// kRegisters: groups that a thread keeps; 0: it reads the row again. kThreads: of a block at most.
template <class Call, int kRegisters, bool kWhole, int kThreads>
__global__ void __launch_bounds__(kThreads) norm_kernel(KVOPS_IN_PLACE Call call) {
  using T = typename Call::Element;
  using W = typename Call::WeightElement;
  const auto& [input, residual, weight, out, shape, epsilon] = call;
  using Index = std::conditional_t<kRegisters != 0, int, int64_t>;
  constexpr int kN = kGroup<T>;
  constexpr bool kAdds = Call::kAdds;
  // On their way during the sum of squares. Wide ones, and any beside a residual, need more
  // registers than large blocks have.
  constexpr bool kEarlyWeight = kThreads < kMaxThreads || (sizeof(W) <= sizeof(T) && !kAdds);
  __shared__ RowScratch scratch;
  await_queue();
  int sub = shape.sub();
  Index first = Index(int(threadIdx.x) - sub * shape.lanes) * kN, step = Index(shape.lanes) * kN;
  int64_t stride = int64_t(gridDim.x) * shape.per_block;
  int turn = 0;
  for (int64_t base = int64_t(blockIdx.x) * shape.per_block; base < shape.rows; base += stride) {
    bool live = base + sub < shape.rows;
    int64_t r = live ? base + sub : base;
    Row<T, W, Index, kWhole> row = {row_of(input, r), row_of(out, r), weight.data,
                                    live ? Index(shape.d) : 0};
    if (weight.stride) row.w += split(r, weight.rows_each).quotient * weight.stride;
    Row<T, NoWeight, Index, kWhole> sums = {nullptr, nullptr, nullptr, row.d};
    if constexpr (kAdds) sums.x = sums.y = row_of(residual, r);

    float squares[kRegisters ? kRegisters : 4] = {};
    Group<T, kN> kept[kRegisters ? kRegisters : 1];
    Group<W, kN> weights[kRegisters ? kRegisters : 1];
    if constexpr (kRegisters) {
      Group<T, kN> other[kAdds ? kRegisters : 1];
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) {
        kept[i] = row.read(first + i * step);
        if constexpr (kAdds) other[i] = sums.read(first + i * step);
      }
      if constexpr (kEarlyWeight) {  // on their way during the sum
#pragma unroll
        for (int i = 0; i < kRegisters; ++i) weights[i] = row.weight(first + i * step);
      }
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) {
        if constexpr (kAdds) kept[i] = add(kept[i], other[i]);
        squares[i] = row.squares(kept[i]);
      }
    } else {
      for (Index j = first; j < row.d;) {
#pragma unroll
        for (int i = 0; i < 4; ++i, j += step) {
          auto g = row.read(j);
          if constexpr (kAdds) sums.put(j, g = add(g, sums.read(j)));
          squares[i] += row.squares(g);
        }
      }
    }
    float sum = row_sum(squares, shape.lanes, scratch, turn);
    turn ^= 1;
    float s = reciprocal_sqrt(sum / float(shape.d) + epsilon);
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) {
        Index j = first + i * step;
        if constexpr (kAdds) sums.put(j, kept[i]);
        if (j < row.d) row.write(j, kept[i], kEarlyWeight ? weights[i] : row.weight(j), s);
      }
    } else {
      for (Index j = first; j < row.d; j += step)
        row.write(j, kAdds ? sums.read(j) : row.read(j), row.weight(j), s);
    }
  }
}

// Mean of d squares, rounded as a division would be: by the inverse of d that the host knows, and
// what is left of the sum.
struct Mean {
  float d, inverse;
  explicit Mean(int64_t n) : d(float(n)), inverse(1.0f / d) {}
  __device__ float operator()(float sum) const {
    float mean = sum * inverse;
    if (!(mean > 0x1p-100f && mean <= 0x1.FFFFFEp127f)) return sum / d;
    return fmaf(fmaf(-mean, d, sum), inverse, mean);
  }
};

// Few rows: a cluster has one, at gridDim.x blocks. One block alone would wait for 64 bytes a cycle
// of what it reads, and for its instructions; the parts tell each other their sums in 0.1 us.
template <class Call, int K>
__global__ void __launch_bounds__(kClusterThreads)
    norm_cluster_kernel(KVOPS_IN_PLACE Call call, Mean mean) {
  using T = typename Call::Element;
  using W = typename Call::WeightElement;
  const auto& [input, residual, weight, out, shape, epsilon] = call;
  constexpr int kN = kGroup<T>;
  constexpr bool kAdds = Call::kAdds;
  __shared__ Tiles tiles;
  __shared__ Mailbox box;
  await_queue();
  int lane = int(blockIdx.x * blockDim.x + threadIdx.x);
  int first = lane * kN, step = shape.lanes * kN;
  int64_t r = blockIdx.y;
  Row<T, W, int, true> row = {row_of(input, r), row_of(out, r), weight.data, int(shape.d)};
  Row<T, NoWeight, int, true> sums = {nullptr, nullptr, nullptr, row.d};
  if constexpr (kAdds) sums.x = sums.y = row_of(residual, r);
  Group<T, kN> kept[K], other[K];
  Group<W, kN> weights[K];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    kept[i] = row.read(first + i * step);
    if constexpr (kAdds) other[i] = sums.read(first + i * step);
  }
#pragma unroll
  for (int i = 0; i < K; ++i) weights[i] = row.weight(first + i * step);
  box.open(K * shape.lanes / kWarp * int(sizeof(float)));
  float squares[K];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    if constexpr (kAdds) sums.put(first + i * step, kept[i] = add(kept[i], other[i]));
    squares[i] = row.squares(kept[i]);
  }
  float sum = cluster_sum(squares, lane, shape.lanes, int(gridDim.x), tiles, box);
  float s = reciprocal_sqrt(mean(sum) + epsilon);
#pragma unroll
  for (int i = 0; i < K; ++i)
    if (first + i * step < row.d) row.write(first + i * step, kept[i], weights[i], s);
}

// Runs a call with few rows, where clusters are faster; false: it has others. H200: eight blocks, a
// group a thread, up to a row for every second SM; four, with two groups, up to four rows for every
// SM, if a row and its weights are more than a block keeps well.
template <class T, class W, class Other>
bool runs_as_clusters(const char* op, NormCall<T, W, FlatRows, Other> call,
                      const kvops_tensor& output, kvops_status& status) {
  constexpr int64_t kWideRow = 64 << 10;
  const int64_t rows = call.shape.rows, groups = ceil_div(call.shape.d, kGroup<T>);
  const int64_t units = compute_units(output);
  auto start = [&]<int K>(int blocks) {
    auto kernel = norm_cluster_kernel<decltype(call), K>;
    Grid grid = cluster_grid(output, reinterpret_cast<const void*>(kernel), rows,
                             ceil_div(groups, K), blocks);
    if (!grid.x) return false;
    call.shape.lanes = int(grid.x) * grid.threads;
    status = launch_early(op, kernel, grid, output, call, Mean(call.shape.d));
    return true;
  };
  if (call.shape.lanes <= 32) return false;
  if (2 * rows <= units) return start.template operator()<1>(8);
  constexpr int64_t kReads = decltype(call)::kAdds ? 2 : 1;
  const int64_t bytes = call.shape.d * int64_t(kReads * sizeof(T) + sizeof(W));
  return rows <= 4 * units && bytes >= kWideRow && start.template operator()<2>(4);
}

template <class R>
auto flat_or_none(const R& residual) {
  if constexpr (__is_same(R, NoResidual))
    return residual;
  else
    return flat(residual);
}

// rows: of the input, of the residual where there is one, and of the result.
template <class T, class W, bool kAdds>
kvops_status run_norm(const char* op, const kvops_tensor& input, const kvops_tensor& residual,
                      Weight<W> weight, const kvops_tensor& output, double epsilon, bool aligned) {
  auto in = rows_view<const T>(input);
  auto out = rows_view<T>(output);
  auto other = [&] {
    if constexpr (kAdds)
      return rows_view<T>(residual);
    else
      return NoResidual{};
  }();
  auto flat_other = flat_or_none(other);
  bool one_level = in.levels == 1 && out.levels == 1;
  if constexpr (kAdds) one_level = one_level && other.levels == 1;
  aligned = aligned && rows_aligned(input, sizeof(T), 16) && rows_aligned(output, sizeof(T), 16);
  if (kAdds) aligned = aligned && rows_aligned(residual, sizeof(T), 16);
  const bool whole = aligned && in.size % kGroup<T> == 0;
  Shape shape = {in.rows, in.size, 0, 0, 0};
  int registers = choose(ceil_div(in.size, kGroup<T>), shape);
  Grid grid = grid_of(shape);
  if (whole && one_level && !weight.stride) {
    kvops_status status = KVOPS_OK;
    NormCall<T, W, FlatRows, decltype(flat_other)> call = {flat(in),  flat_other, weight,
                                                           flat(out), shape,      float(epsilon)};
    if (runs_as_clusters(op, call, output, status)) return status;
  }
  auto start = [&]<int kRegisters, bool kWhole>() {
    auto queue = [&]<template <class> class Rows, class Other>(Rows<const T> x, Other r,
                                                               Rows<T> y) {
      constexpr int kThreads = kRegisters && kRegisters < 4 ? kSmallBlock : kMaxThreads;
      using Call = NormCall<T, W, Rows, Other>;
      auto kernel = norm_kernel<Call, kRegisters, kWhole, kThreads>;
      // Registers for early weights are the faster way for few rows only (H200: 4 per SM).
      if constexpr ((kAdds || sizeof(W) > sizeof(T)) && kRegisters == 4)
        if (grid.threads <= 512 && grid.x <= 4 * compute_units(output))
          kernel = norm_kernel<Call, 4, kWhole, 512>;
      Call call = {x, r, weight, y, shape, float(epsilon)};
      return launch_early(op, kernel, grid, output, call);
    };
    if constexpr (kRegisters != 0)
      if (one_level) return queue(flat(in), flat_other, flat(out));
    return queue(in, other, out);
  };
  if (!whole || !registers)
    return whole ? start.template operator()<0, true>() : start.template operator()<0, false>();
  return registers == 1   ? start.template operator()<1, true>()
         : registers == 2 ? start.template operator()<2, true>()
                          : start.template operator()<4, true>();
}

// Calls run<W>() with the dtype of the weights.
template <class T, class F>
kvops_status with_weight(const kvops_tensor& weight, F&& run) {
  if (!present(weight)) return run.template operator()<NoWeight>();
  if (weight.dtype == dtype_of<T>) return run.template operator()<T>();
  return run.template operator()<float>();
}

}  // namespace
}  // namespace kvops::KVOPS_GPU
