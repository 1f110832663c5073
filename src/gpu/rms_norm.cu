// out = (input * s) * weight, s = 1 / sqrt(mean(input^2) + epsilon), row by row.
// `lanes` threads share a row: up to 32 within one warp, then a block of them. Thread l has the
// groups l, l + lanes, ... of 16 bytes each; up to kRegisters of them are read once and kept,
// longer or misaligned rows are read twice. Sums in f32, one rounding at the end. Which thread adds
// what depends on d and the dtype alone: a row has the same bits in any batch and at any address.
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/reduce.cuh"
#include "gpu/vec.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

// Threads of a block that has several rows.
constexpr int kSmallBlock = 256;

struct NoWeight {
  uint8_t bits;
};
template <class W>
struct Weight {
  const W* data;
  int64_t stride, rows_each;  // 2-D: one row of weights for so many rows; else stride is 0
};

// Index: int where a row fits into registers, which saves some.
template <class T, class W, class Index, bool kAligned>
struct Row {
  static constexpr int kN = kGroup<T>;
  const T* x;
  T* y;
  const W* w;
  Index d;

  __device__ Group<T, kN> read(Index j) const { return load_n<kN, kAligned>(x + j, d - j); }
  __device__ Group<W, kN> weight(Index j) const {
    if constexpr (__is_same(W, NoWeight))
      return {};
    else
      return load_n<kN, kAligned>(w + j, d - j);
  }
  __device__ static float squares(const Group<T, kN>& g, float sum) {
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
    store_n<kAligned>(y + j, g, d - j);
  }
};

struct Shape {
  int64_t rows, d;
  int lanes, per_block, shift;  // threads of a row; rows of a block; log2(lanes) if those are many
};

// kRegisters: groups that a thread keeps; 0: it reads the row again.
template <class T, class W, template <class> class Rows, int kRegisters, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_kernel(KVOPS_IN_PLACE Rows<const T> input, Weight<W> weight,
                    KVOPS_IN_PLACE Rows<T> out, Shape shape, float epsilon) {
  using Index = std::conditional_t<kRegisters != 0, int, int64_t>;
  constexpr int kN = kGroup<T>;
  constexpr bool kEarlyWeight = sizeof(W) <= sizeof(T);  // wider ones would spill
  __shared__ RowScratch scratch;
  int sub = shape.per_block > 1 ? int(threadIdx.x) >> shape.shift : 0;
  Index first = Index(int(threadIdx.x) - sub * shape.lanes) * kN, step = Index(shape.lanes) * kN;
  int64_t stride = int64_t(gridDim.x) * shape.per_block;
  int turn = 0;
  for (int64_t base = int64_t(blockIdx.x) * shape.per_block; base < shape.rows; base += stride) {
    bool live = base + sub < shape.rows;
    int64_t r = live ? base + sub : base;
    Row<T, W, Index, kAligned> row = {row_of(input, r), row_of(out, r), weight.data,
                                      live ? Index(shape.d) : 0};
    if (weight.stride) row.w += split(r, weight.rows_each).quotient * weight.stride;

    float sum = 0;
    Group<T, kN> kept[kRegisters ? kRegisters : 1];
    Group<W, kN> weights[kRegisters ? kRegisters : 1];
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) kept[i] = row.read(first + i * step);
      if constexpr (kEarlyWeight) {  // on their way during the sum
#pragma unroll
        for (int i = 0; i < kRegisters; ++i) weights[i] = row.weight(first + i * step);
      }
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) sum = row.squares(kept[i], sum);
    } else {
      for (Index j = first; j < row.d; j += step) sum = row.squares(row.read(j), sum);
    }
    sum = row_sum(sum, shape.lanes, scratch, turn);
    turn ^= 1;
    float s = reciprocal_sqrt(sum / float(shape.d) + epsilon);
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) {
        Index j = first + i * step;
        if (j < row.d) row.write(j, kept[i], kEarlyWeight ? weights[i] : row.weight(j), s);
      }
    } else {
      for (Index j = first; j < row.d; j += step) row.write(j, row.read(j), row.weight(j), s);
    }
  }
}

constexpr int64_t up(int64_t n, int64_t d) { return (n + d - 1) / d; }

// Lanes and registers of rows of so many groups: within a warp as long as four groups each suffice;
// from there on four each, which on an H200 is the fastest at any number of rows.
int choose(int64_t groups, Shape& shape) {
  shape.lanes = 1, shape.shift = 0, shape.per_block = 1;
  if (groups <= 128) {
    while (shape.lanes < groups && shape.lanes < 32) shape.lanes *= 2, ++shape.shift;
    shape.per_block = kSmallBlock >> shape.shift;
    return groups <= 32 ? 1 : groups <= 64 ? 2 : 4;
  }
  int64_t lanes = up(up(groups, 4), kLaneStep) * kLaneStep;
  shape.lanes = lanes > kMaxThreads ? kMaxThreads : int(lanes);
  return lanes > kMaxThreads ? 0 : 4;
}

template <class T>
FlatRows<T> flat(const RowsView<T>& v) {
  return {v.data, v.stride[0]};
}

template <class T, class W>
kvops_status run(const kvops_rms_norm_args& a) {
  auto input = rows_view<const T>(a.input);
  auto out = rows_view<T>(a.out);
  Weight<W> weight = {static_cast<const W*>(a.weight.data), 0, 1};
  if (a.weight.rank == 2)
    weight.stride = a.weight.stride[0], weight.rows_each = input.rows / a.weight.shape[0];
  bool aligned = rows_aligned(a.input, sizeof(T), 16) && rows_aligned(a.out, sizeof(T), 16);
  if constexpr (!__is_same(W, NoWeight)) aligned = aligned && rows_aligned(a.weight, sizeof(W), 16);
  Shape shape = {input.rows, input.size, 0, 0, 0};
  int registers = choose(up(input.size, kGroup<T>), shape);
  int64_t blocks = up(input.rows, shape.per_block);
  Grid grid = {.x = blocks < INT32_MAX ? blocks : INT32_MAX,
               .threads = shape.lanes * shape.per_block};
  auto start = [&]<int kRegisters, bool kAligned>() {
    if constexpr (kRegisters != 0) {
      if (input.levels == 1 && out.levels == 1)
        return launch("rms_norm", rms_norm_kernel<T, W, FlatRows, kRegisters, kAligned>, grid,
                      a.out, flat(input), weight, flat(out), shape, float(a.epsilon));
    }
    return launch("rms_norm", rms_norm_kernel<T, W, RowsView, kRegisters, kAligned>, grid, a.out,
                  input, weight, out, shape, float(a.epsilon));
  };
  if (!aligned || !registers)
    return aligned ? start.template operator()<0, true>() : start.template operator()<0, false>();
  return registers == 1   ? start.template operator()<1, true>()
         : registers == 2 ? start.template operator()<2, true>()
                          : start.template operator()<4, true>();
}

}  // namespace

kvops_status rms_norm(const kvops_rms_norm_args& a) {
  return dispatch("rms_norm", "input", a.input.dtype, Floats{}, [&]<class T>() {
    if (!present(a.weight)) return run<T, NoWeight>(a);
    return a.weight.dtype == a.input.dtype ? run<T, T>(a) : run<T, float>(a);
  });
}

}  // namespace kvops::KVOPS_GPU
