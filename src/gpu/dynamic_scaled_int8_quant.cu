// dynamic_scaled_int8_quant: int8 codes with a scale and, asymmetric, a zero point for every row.
//
//   symmetric   scale = max(RN(max|x| / 127), 2^-126)
//   asymmetric  scale = max(RN((max - min) / 255), 2^-126),  azp = RNE(-128 - RN(min / scale))
//
// `lanes` threads share a row, as in rms_norm: thread l has the groups l, l + lanes, ... of 16
// bytes; up to kRegisters of them are read once and kept, longer rows, and those that are not whole
// groups at aligned addresses, are read twice.
// Codes as in int8.cuh. Nothing depends on an order: the same bytes as on the CPU.
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/early.cuh"
#include "gpu/int8.cuh"
#include "gpu/reduce.cuh"
#include "gpu/teams.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

// Three blocks of so many threads find room on an SM, if a thread has 48 registers. H200: faster
// for many rows of as many threads, slower for few rows and for short ones.
constexpr int kThirdOfAnSm = 448;

// Groups that a thread keeps where a cluster of blocks has a row. H200: the faster way up to a row
// for every fourth SM.
constexpr int kEach = 2;

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

// The extremes of many groups. Elements of 16 bits are compared in pairs where there are
// instructions for it; they leave NaN out, too.
template <class T>
struct Running {
  Extremes of = no_extremes();

  template <int N>
  __device__ void take(const Group<T, N>& x, int64_t n = N) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < n) of.take(x.number(i));
  }
  __device__ Extremes result() const { return of; }
};
#if !defined(__HIP__)
template <class T, class Pair>
struct RunningPairs {
  static constexpr uint32_t kInfinite = __is_same(T, bf16) ? 0x7F807F80u : 0x7C007C00u;
  uint32_t least = kInfinite, most = kInfinite | 0x80008000u;

  __device__ void take_pair(uint32_t x) {
    auto pair = [](uint32_t& bits) -> Pair& { return reinterpret_cast<Pair&>(bits); };
    pair(least) = __hmin2(pair(least), pair(x));
    pair(most) = __hmax2(pair(most), pair(x));
  }
  template <int N>
  __device__ void take(const Group<T, N>& x) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) take_pair(x.word[i]);
  }
  template <int N>
  __device__ void take(const Group<T, N>& x, int64_t n) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < n) take_pair(x.get(i).bits * 0x10001u);
  }
  __device__ Extremes result() const {
    auto low = [](uint32_t x) { return to_float(T{uint16_t(x)}); };
    Extremes e = {low(least), low(most)};
    e.take(Extremes{low(least >> 16), low(most >> 16)});
    return e;
  }
};
template <>
struct Running<bf16> : RunningPairs<bf16, __nv_bfloat162> {};
template <>
struct Running<f16> : RunningPairs<f16, __half2> {};
#endif

template <int N>
__device__ Group<Int8Code, N> same_codes(float code) {
  Group<Int8Code, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y.set(i, {uint8_t(int(code))});
  return y;
}

// Calls write_all(codes_of) with the way from a group to its codes.
template <class F>
__device__ void encode(const RowScale& s, bool symmetric, F&& write_all) {
  Int8Scale by = {div_rn(1, s.scale), s.azp};
  if (symmetric)
    write_all([&](const auto& g) { return int8_codes<true>(g, by); });
  else
    write_all([&]<class T, int N>(const Group<T, N>& g) {
      return s.constant ? same_codes<N>(s.azp) : int8_codes(g, by);
    });
}

// Blocks for which an SM keeps registers: at most `wanted`, and as many as it has threads for.
constexpr int resident(int wanted, int threads) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  constexpr int kThreads = 1024;
#else
  constexpr int kThreads = 1536;  // at least
#endif
  return wanted * threads <= kThreads ? wanted : kThreads / threads;
}

// kRegisters: groups that a thread keeps; 0: it reads the row again. kWhole: groups are aligned,
// and there is none but whole ones. kThreads: of a block at most.
template <class T, template <class> class Rows, int kRegisters, bool kWhole, int kThreads>
__global__ void __launch_bounds__(kThreads, resident(3, kThreads))
    dynamic_scaled_int8_quant_kernel(KVOPS_IN_PLACE Rows<const T> input,
                                     KVOPS_IN_PLACE Rows<Int8Code> out,
                                     KVOPS_IN_PLACE Rows<float> scales,
                                     KVOPS_IN_PLACE Rows<int32_t> points, Shape shape) {
  using Index = std::conditional_t<kRegisters != 0, int, int64_t>;
  constexpr int N = kGroup<T>;
  __shared__ ExtremesScratch scratch;
  await_queue();
  int sub = shape.sub(), lane = int(threadIdx.x) - sub * shape.lanes;
  Index first = Index(lane) * N, step = Index(shape.lanes) * N;
  int turn = 0;
  for (int64_t base = int64_t(blockIdx.x) * shape.per_block; base < shape.rows;
       base += int64_t(gridDim.x) * shape.per_block) {
    bool live = base + sub < shape.rows;
    int64_t r = live ? base + sub : base;
    Index d = live ? Index(shape.d) : 0;
    const T* x = row_of(input, r);
    auto read = [&](Index j) {
      if constexpr (!kWhole) return load_n<N, false>(x + j, d - j);
      return j < d ? load<N, true>(x + j) : Group<T, N>{};
    };
    Running<T> extremes;
    auto take = [&](Index j, const Group<T, N>& g) {
      if constexpr (!kWhole)
        extremes.take(g, d - j);
      else if (j < d)
        extremes.take(g);
    };
    Group<T, N> kept[kRegisters ? kRegisters : 1];
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) kept[i] = read(first + i * step);
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) take(first + i * step, kept[i]);
    } else {
      for (Index j = first; j < d; j += step) take(j, read(j));
    }
    Extremes e = row_extremes(extremes.result(), shape.lanes, scratch, turn);
    turn ^= 1;
    RowScale s = points.data ? asymmetric(e) : symmetric(e);
    if (live && !lane) {
      *row_of(scales, r) = s.scale;
      if (points.data) *row_of(points, r) = s.point;
    }
    Int8Code* y = row_of(out, r);
    encode(s, !points.data, [&](auto codes_of) {
      auto write = [&](Index j, const Group<T, N>& g) {
        if constexpr (kWhole)
          store<true>(y + j, codes_of(g));
        else
          store_n<false>(y + j, codes_of(g), d - j);
      };
      if constexpr (kRegisters) {
#pragma unroll
        for (int i = 0; i < kRegisters; ++i)
          if (first + i * step < d) write(first + i * step, kept[i]);
      } else {
        for (Index j = first; j < d; j += step) write(j, read(j));
      }
    });
  }
}

// Few rows: a cluster of blocks has one.
template <class T>
__global__ void __launch_bounds__(kClusterThreads)
    dynamic_scaled_int8_quant_cluster_kernel(KVOPS_IN_PLACE FlatRows<const T> input,
                                             KVOPS_IN_PLACE FlatRows<Int8Code> out,
                                             KVOPS_IN_PLACE FlatRows<float> scales,
                                             KVOPS_IN_PLACE FlatRows<int32_t> points, int d) {
  constexpr int N = kGroup<T>;
  __shared__ Extremes warps[kMaxThreads * 4 / 32];
  __shared__ Mailbox box;
  await_queue();
  int lane = int(blockIdx.x * blockDim.x + threadIdx.x), lanes = int(gridDim.x * blockDim.x);
  int64_t r = blockIdx.y;
  const T* x = row_of(input, r);
  Group<T, N> kept[kEach] = {};
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    int j = (lane + i * lanes) * N;
    if (j < d) kept[i] = load<N, true>(x + j);
  }
  box.open(lanes / kWarp * int(sizeof(Extremes)));
  Running<T> extremes;
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if ((lane + i * lanes) * N < d) extremes.take(kept[i]);
  Extremes e = cluster_extremes(extremes.result(), lane, lanes, int(gridDim.x), warps, box);
  RowScale s = points.data ? asymmetric(e) : symmetric(e);
  if (!lane) {
    *row_of(scales, r) = s.scale;
    if (points.data) *row_of(points, r) = s.point;
  }
  Int8Code* y = row_of(out, r);
  encode(s, !points.data, [&](auto codes_of) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      int j = (lane + i * lanes) * N;
      if (j < d) store<true>(y + j, codes_of(kept[i]));
    }
  });
}

template <class T>
kvops_status run(const kvops_dynamic_scaled_int8_quant_args& a) {
  auto in = rows_view<const T>(a.input);
  auto out = rows_view<Int8Code>(a.out);
  auto scales = rows_view<float>(a.scale);
  auto points = rows_view<int32_t>(a.azp);
  bool one_level = in.levels == 1 && out.levels == 1 && scales.levels == 1 && points.levels == 1;
  bool whole = in.size % kGroup<T> == 0 && rows_aligned(a.input, sizeof(T), 16) &&
               rows_aligned(a.out, 1, kGroup<T>);
  Shape shape = {in.rows, in.size, 0, 0, 0};
  int registers = choose(ceil_div(in.size, kGroup<T>), shape);
  Grid grid = grid_of(shape);
  if (whole && one_level && shape.lanes > 32 && 4 * in.rows <= compute_units(a.out)) {
    auto kernel = dynamic_scaled_int8_quant_cluster_kernel<T>;
    Grid few = cluster_grid(a.out, reinterpret_cast<const void*>(kernel), in.rows,
                            ceil_div(in.size, kGroup<T> * kEach), 8);
    if (few.x)
      return launch_early("dynamic_scaled_int8_quant", kernel, few, a.out, flat(in), flat(out),
                          flat(scales), flat(points), int(in.size));
  }
  auto start = [&]<int kRegisters, bool kWhole>() {
    constexpr const char* kOp = "dynamic_scaled_int8_quant";
    if constexpr (kRegisters != 0) {
      if (one_level) {
        auto kernel =
            dynamic_scaled_int8_quant_kernel<T, FlatRows, kRegisters, kWhole, kMaxThreads>;
        if constexpr (kRegisters == 4)
          if (grid.threads > 256 && grid.threads <= kThirdOfAnSm &&
              grid.x > 4 * compute_units(a.out))
            kernel =
                dynamic_scaled_int8_quant_kernel<T, FlatRows, kRegisters, kWhole, kThirdOfAnSm>;
        return launch_early(kOp, kernel, grid, a.out, flat(in), flat(out), flat(scales),
                            flat(points), shape);
      }
    }
    return launch_early(
        kOp, dynamic_scaled_int8_quant_kernel<T, RowsView, kRegisters, kWhole, kMaxThreads>, grid,
        a.out, in, out, scales, points, shape);
  };
  if (!whole || !registers)
    return whole ? start.template operator()<0, true>() : start.template operator()<0, false>();
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
