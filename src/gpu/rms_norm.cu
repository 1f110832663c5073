// out = (input * s) * weight, s = 1 / sqrt(mean(input^2) + epsilon), row by row.
// `lanes` threads share a row: up to 32 within one warp, then a block of them. Thread l has the
// groups l, l + lanes, ... of 16 bytes each; up to kRegisters of them are read once and kept, longer
// rows are read twice. Sums in f32, one rounding at the end. Which thread adds what depends on d and
// the dtype alone, not on alignment, batch or device: a row has the same bits wherever it stands.
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/reduce.cuh"
#include "gpu/vec.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

// Threads of a block whose rows take up to two groups of a thread.
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

// kRegisters: groups that a thread keeps; 0: it reads the row again.
template <class T, class W, int kRegisters, bool kAligned>
__global__ void __launch_bounds__(kRegisters == 1 || kRegisters == 2 ? kSmallBlock : kMaxThreads)
    rms_norm_kernel(KVOPS_IN_PLACE RowsView<const T> input, Weight<W> weight,
                    KVOPS_IN_PLACE RowsView<T> out, float epsilon, int lanes) {
  constexpr int kN = kGroup<T>;
  __shared__ RowScratch scratch;
  int per_block = int(blockDim.x) / lanes, sub = int(threadIdx.x) / lanes;
  using Index = std::conditional_t<kRegisters != 0, int, int64_t>;
  Index first = Index(int(threadIdx.x) - sub * lanes) * kN, step = Index(lanes) * kN;
  Index d = Index(input.size);
  int64_t stride = int64_t(gridDim.x) * per_block;
  int turn = 0;
  for (int64_t base = int64_t(blockIdx.x) * per_block; base < input.rows; base += stride) {
    bool live = base + sub < input.rows;
    int64_t r = live ? base + sub : base;
    Row<T, W, Index, kAligned> row = {row_of(input, r), row_of(out, r), nullptr, live ? d : 0};
    if constexpr (!__is_same(W, NoWeight))
      row.w =
          weight.data + (weight.stride ? split(r, weight.rows_each).quotient * weight.stride : 0);

    float sum = 0;
    Group<T, kN> kept[kRegisters ? kRegisters : 1];
    Group<W, kN> weights[kRegisters ? kRegisters : 1];
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) kept[i] = row.read(first + i * step);
      if constexpr (sizeof(W) <=
                    sizeof(T)) {  // on their way during the sum; wider ones would spill
#pragma unroll
        for (int i = 0; i < kRegisters; ++i) weights[i] = row.weight(first + i * step);
      }
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) sum = row.squares(kept[i], sum);
    } else {
      for (Index j = first; j < row.d; j += step) sum = row.squares(row.read(j), sum);
    }
    sum = row_sum(sum, lanes, scratch, turn);
    turn ^= 1;
    float s = 1.0f / sqrtf(sum / float(d) + epsilon);
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) {
        Index j = first + i * step;
        if (j < row.d)
          row.write(j, kept[i], sizeof(W) <= sizeof(T) ? weights[i] : row.weight(j), s);
      }
    } else {
      for (Index j = first; j < row.d; j += step) row.write(j, row.read(j), row.weight(j), s);
    }
  }
}

constexpr int64_t up(int64_t n, int64_t d) { return (n + d - 1) / d; }

// Threads of a row and groups of a thread, for a row of so many groups.
struct Shape {
  int lanes, registers;
};
Shape shape_of(int64_t groups) {
  if (groups <= 32) {
    int lanes = 1;
    while (lanes < groups) lanes *= 2;
    return {lanes, 1};
  }
  // Measured on an H200: four groups each are the fastest at any number of rows, of 512 groups on.
  int registers = groups <= 2 * kLaneStep ? 1 : groups <= 4 * kLaneStep ? 2 : 4;
  int64_t lanes = up(up(groups, registers), kLaneStep) * kLaneStep;
  if (lanes > kMaxThreads) return {kMaxThreads, 0};
  return {int(lanes), registers};
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
  auto shape = shape_of(up(input.size, kGroup<T>));
  int threads = shape.lanes > 32 ? shape.lanes : kSmallBlock;
  int64_t blocks = up(input.rows, threads / shape.lanes);
  Grid grid = {.x = blocks < INT32_MAX ? blocks : INT32_MAX, .threads = threads};
  auto start = [&]<int kRegisters, bool kAligned>() {
    return launch("rms_norm", rms_norm_kernel<T, W, kRegisters, kAligned>, grid, a.out, input,
                  weight, out, float(a.epsilon), shape.lanes);
  };
  if (!aligned) return start.template operator()<0, false>();
  switch (shape.registers) {
    case 1:
      return start.template operator()<1, true>();
    case 2:
      return start.template operator()<2, true>();
    case 4:
      return start.template operator()<4, true>();
    default:
      return start.template operator()<0, true>();
  }
}

}  // namespace

kvops_status rms_norm(const kvops_rms_norm_args& a) {
  return dispatch("rms_norm", "input", a.input.dtype, Floats{}, [&]<class T>() {
    if (!present(a.weight)) return run<T, NoWeight>(a);
    return a.weight.dtype == a.input.dtype ? run<T, T>(a) : run<T, float>(a);
  });
}

}  // namespace kvops::KVOPS_GPU
