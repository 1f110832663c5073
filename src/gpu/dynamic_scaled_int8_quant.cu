// dynamic_scaled_int8_quant: int8 codes with a scale and, asymmetric, a zero point for every row.
//
//   symmetric   scale = max(RN(max|x| / 127), 2^-126)
//   asymmetric  scale = max(RN((max - min) / 255), 2^-126),  azp = RNE(-128 - RN(min / scale))
//
// `lanes` threads share a row, as in rms_norm: thread l has the groups l, l + lanes, ... of 16
// bytes; up to kRegisters of them are read once and kept, longer or misaligned rows are read twice.
// Codes as in int8.cuh. Nothing depends on an order: the same bytes as on the CPU.
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/int8.cuh"
#include "gpu/reduce.cuh"
#include "gpu/teams.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

struct RowScale {
  float scale, azp;
  int32_t point;
  bool constant;  // one value, or none: every code is `azp`
};

__device__ float at_least_normal(float x) { return x > 0x1p-126f ? x : 0x1p-126f; }

__device__ RowScale symmetric(Extremes e) {
  float most = fmaxf(magnitude(e.least), magnitude(e.most));
  if (!(e.least <= e.most) || most == 0) return {1, 0, 0, false};
  return {at_least_normal(div_rn(most, 127)), 0, 0, false};
}

__device__ RowScale asymmetric(Extremes e) {
  if (!(e.least < e.most)) {  // one value c, whose code is its sign, or NaN alone
    float c = e.least == e.most ? e.least : 0;
    return {c == 0 ? 1 : magnitude(c), c > 0 ? 1.0f : c < 0 ? -1.0f : 0.0f, 0, true};
  }
  float range = add_rn(e.most, -e.least);
  float step = magnitude(range) > 0x1.FFFFFEp127f
                   ? add_rn(div_rn(e.most, 255), -div_rn(e.least, 255))
                   : div_rn(range, 255);
  float scale = at_least_normal(step);
  float point = rintf(add_rn(-128, -div_rn(e.least, scale)));
  int32_t azp = is_nan(point)       ? 0
                : point >= 0x1p31f  ? INT32_MAX
                : point <= -0x1p31f ? INT32_MIN
                                    : int32_t(point);
  return {scale, float(azp), azp, false};
}

template <class T, int N>
__device__ Extremes extremes_of(const Group<T, N>& x, int64_t n, Extremes e) {
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < n) e.take(x.number(i));
  return e;
}

template <int N>
__device__ Group<Int8Code, N> same_codes(float code) {
  Group<Int8Code, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y.set(i, {uint8_t(int(code))});
  return y;
}

// kRegisters: groups that a thread keeps; 0: it reads the row again.
template <class T, template <class> class Rows, int kRegisters, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    dynamic_scaled_int8_quant_kernel(KVOPS_IN_PLACE Rows<const T> input,
                                     KVOPS_IN_PLACE Rows<Int8Code> out,
                                     KVOPS_IN_PLACE Rows<float> scales,
                                     KVOPS_IN_PLACE Rows<int32_t> points, Shape shape) {
  using Index = std::conditional_t<kRegisters != 0, int, int64_t>;
  constexpr int N = kGroup<T>;
  __shared__ ExtremesScratch scratch;
  int sub = shape.sub(), lane = int(threadIdx.x) - sub * shape.lanes;
  Index first = Index(lane) * N, step = Index(shape.lanes) * N;
  int turn = 0;
  for (int64_t base = int64_t(blockIdx.x) * shape.per_block; base < shape.rows;
       base += int64_t(gridDim.x) * shape.per_block) {
    bool live = base + sub < shape.rows;
    int64_t r = live ? base + sub : base;
    Index d = live ? Index(shape.d) : 0;
    const T* x = row_of(input, r);
    Int8Code* y = row_of(out, r);
    Extremes e = no_extremes();
    Group<T, N> kept[kRegisters ? kRegisters : 1];
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) {
        Index j = first + i * step;
        kept[i] = load_n<N, kAligned>(x + j, d - j);
      }
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) e = extremes_of(kept[i], d - (first + i * step), e);
    } else {
      for (Index j = first; j < d; j += step)
        e = extremes_of(load_n<N, kAligned>(x + j, d - j), d - j, e);
    }
    e = row_extremes(e, shape.lanes, scratch, turn);
    turn ^= 1;
    RowScale s = points.data ? asymmetric(e) : symmetric(e);
    if (live && !lane) {
      *row_of(scales, r) = s.scale;
      if (points.data) *row_of(points, r) = s.point;
    }
    Int8Scale by = {div_rn(1, s.scale), s.azp};
    auto write = [&](Index j, const Group<T, N>& g) {
      store_n<kAligned>(y + j, s.constant ? same_codes<N>(s.azp) : int8_codes(g, by), d - j);
    };
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i)
        if (first + i * step < d) write(first + i * step, kept[i]);
    } else {
      for (Index j = first; j < d; j += step) write(j, load_n<N, kAligned>(x + j, d - j));
    }
  }
}

template <class T>
kvops_status run(const kvops_dynamic_scaled_int8_quant_args& a) {
  auto in = rows_view<const T>(a.input);
  auto out = rows_view<Int8Code>(a.out);
  auto scales = rows_view<float>(a.scale);
  auto points = rows_view<int32_t>(a.azp);
  bool one_level = in.levels == 1 && out.levels == 1 && scales.levels == 1 && points.levels == 1;
  bool aligned = rows_aligned(a.input, sizeof(T), 16) && rows_aligned(a.out, 1, kGroup<T>);
  Shape shape = {in.rows, in.size, 0, 0, 0};
  int registers = choose(up(in.size, kGroup<T>), shape);
  Grid grid = grid_of(shape);
  auto start = [&]<int kRegisters, bool kAligned>() {
    constexpr const char* kOp = "dynamic_scaled_int8_quant";
    if constexpr (kRegisters != 0 && kAligned) {
      if (one_level)
        return launch(kOp, dynamic_scaled_int8_quant_kernel<T, FlatRows, kRegisters, kAligned>,
                      grid, a.out, flat(in), flat(out), flat(scales), flat(points), shape);
    }
    return launch(kOp, dynamic_scaled_int8_quant_kernel<T, RowsView, kRegisters, kAligned>, grid,
                  a.out, in, out, scales, points, shape);
  };
  if (!aligned || !registers)
    return aligned ? start.template operator()<0, true>() : start.template operator()<0, false>();
  return registers == 1   ? start.template operator()<1, true>()
         : registers == 2 ? start.template operator()<2, true>()
                          : start.template operator()<4, true>();
}

}  // namespace

kvops_status dynamic_scaled_int8_quant(const kvops_dynamic_scaled_int8_quant_args& a) {
  return dispatch("dynamic_scaled_int8_quant", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return run<T>(a); });
}

}  // namespace kvops::KVOPS_GPU
