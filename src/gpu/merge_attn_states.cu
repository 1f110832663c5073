// merge_attn_states: out = RN_T(prefix * a / (a + b) + suffix * b / (a + b)),
// a = exp(prefix_lse - M), b = exp(suffix_lse - M), M their maximum.
//
// A thread block has a tile of kTokens tokens by some heads: kTokens neighbours are a sector of an
// lse [heads, tokens]. Its threads read their first groups of 16 bytes of both sides, then both
// weights of each (token, head) are computed once, in shared memory, then groups are weighed and
// stored. All of a (token, head) is read before any of it is written, which in place needs.
//
// Numerics: with e = exp(-|prefix_lse - suffix_lse|) the weights are 1 / (1 + e) and e / (1 + e),
// out_lse = M + log(1 + e); all in f32.
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/teams.cuh"
#include "gpu/vec.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "merge_attn_states";
constexpr int kThreads = 256, kTokens = 8, kMaxHeads = 64;

// Of one token and head. A negative weight: the other side's elements are copied.
struct Weights {
  float prefix, suffix;
};

template <class T, class O>
struct Merge {
  TensorView<const T, 3> prefix, suffix;
  TensorView<O, 3> out;
  TensorView<const float, 2> prefix_lse, suffix_lse;
  TensorView<float, 2> lse;
  int64_t with_prefix;  // tokens before this one have a prefix
  int heads;            // of a tile
  Splitter groups, tile_heads, tiles;
  const float* scale;
  bool keep_nan;
};

struct Tile {
  int64_t token, head;
  int tokens, heads;
};

// exp(x) for x <= 0 within one unit, and log(1 + e) for 0 <= e <= 1, step by step as in
// cpu/math-inl.h and cpu/merge_attn_states.cpp: where M and the logarithm cancel, a unit of either
// is many of their sum, so that only the same bits are close.
template <int N>
__device__ inline float polynomial(float x, const float (&c)[N]) {
  float sum = c[N - 1];
#pragma unroll
  for (int i = N - 1; i-- > 0;) sum = fmaf(sum, x, c[i]);
  return sum;
}
__device__ inline float power_of_2(float n) { return bits_float(uint32_t(int(n) + 127) << 23); }
__device__ inline float exp_of(float x) {
  x = max_keep_nan(x, -104.0f);
  constexpr float kMagic = 0x1.8p23f;  // a sum with it has its last place at 1
  float n = add_rn(fmaf(x, 0x1.715476p0f, kMagic), -kMagic);
  float r = fmaf(-n, -0x1.bd0106p-13f, fmaf(-n, 0x1.63p-1f, x));
  constexpr float kC[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b8p-5f, 0x1.1239aap-7f,
                          0x1.6a452ep-10f};
  float y = add_rn(fmaf(mul_rn(r, r), polynomial(r, kC), r), 1.0f);
  float half = n < -64.0f ? -64.0f : 0.0f;  // 2^n may not be normal
  return mul_rn(mul_rn(y, power_of_2(half)), power_of_2(n - half));
}
__device__ inline float log1p_of(float e) {
  constexpr float kC[] = {2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9, 2.0f / 11, 2.0f / 13, 2.0f / 15};
  float s = div_rn(e, add_rn(e, 2.0f)), s2 = mul_rn(s, s);
  return fmaf(mul_rn(s, s2), polynomial(s2, kC), add_rn(s, s));
}

__device__ inline bool is_infinite(float x) { return magnitude(x) == bits_float(0x7F800000u); }

// The weights of a token and head, and what becomes of its lse.
__device__ inline Weights weigh(float p, float s, bool with_prefix, float& lse) {
  float infinite = bits_float(0x7F800000u);
  if (!with_prefix) return lse = s, Weights{-1, 1};
  bool no_prefix = is_infinite(p), no_suffix = is_infinite(s);
  if (no_prefix || no_suffix) {
    float left = no_prefix ? s : p;
    if (is_infinite(left) || is_nan(left)) return lse = -infinite, Weights{1, -1};
    return lse = left, no_prefix ? Weights{-1, 1} : Weights{1, -1};
  }
  float e = exp_of(-magnitude(add_rn(p, -s)));
  float large = div_rn(1, add_rn(1, e)), small = div_rn(e, add_rn(1, e));
  lse = add_rn(fmaxf(p, s), log1p_of(e));
  return p >= s ? Weights{large, small} : Weights{small, large};
}

// All weights of a tile. Neighbouring threads have neighbouring tokens.
template <class T, class O>
__device__ void weigh_tile(const Merge<T, O>& m, const Tile& tile, Weights* weights) {
  for (int i = int(threadIdx.x); i < kTokens * tile.heads; i += kThreads) {
    int t = i % kTokens, h = i / kTokens;
    if (t >= tile.tokens) continue;
    int64_t token = tile.token + t, head = tile.head + h;
    bool with_prefix = token < m.with_prefix;
    float lse, p = with_prefix ? m.prefix_lse(head, token) : 0;
    weights[t * m.heads + h] = weigh(p, m.suffix_lse(head, token), with_prefix, lse);
    if (m.lse.data) m.lse(head, token) = lse;
  }
}

// The value that is stored as fp8.
template <class O>
__device__ inline float scaled(float x, float inverse, bool keep_nan) {
  constexpr float kMost = Fp8Traits<O>::kFnuz ? 224.0f : 448.0f;
  float y = mul_rn(x, inverse);
  if (is_nan(y)) return keep_nan ? y : kMost;
  return fminf(fmaxf(y, -kMost), kMost);
}

template <class T, class O, int N>
__device__ inline Group<O, N> merge(const Group<T, N>& p, const Group<T, N>& s, Weights w,
                                    float inverse, bool keep_nan) {
  if constexpr (std::is_same_v<T, O>)
    if (w.prefix < 0 || w.suffix < 0) return w.prefix < 0 ? s : p;
  auto value = [&](int i) {
    float x = w.suffix < 0   ? p.number(i)
              : w.prefix < 0 ? s.number(i)
                             : fmaf(p.number(i), w.prefix, mul_rn(s.number(i), w.suffix));
    if constexpr (std::is_same_v<T, O>)
      return x;
    else
      return scaled<O>(x, inverse, keep_nan);
  };
  Group<O, N> y;
  if constexpr (N == 1) {
    y.set(0, from_float<O>(value(0)));
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 2) set_pair(y, i, value(i), value(i + 1));
  }
  return y;
}

template <class T, class O, int N, int kUnroll>
__global__ void __launch_bounds__(kThreads, 3) merge_kernel(KVOPS_IN_PLACE Merge<T, O> m) {
  __shared__ Weights weights[kTokens * kMaxHeads];
  auto [row, column] = m.tiles(int64_t(blockIdx.x));
  Tile tile = {row * kTokens, column * m.heads, 0, 0};
  int64_t tokens = m.out.shape[0] - tile.token, heads = m.out.shape[1] - tile.head;
  tile.tokens = tokens < kTokens ? int(tokens) : kTokens;
  tile.heads = heads < m.heads ? int(heads) : m.heads;
  float inverse = std::is_same_v<T, O> ? 1.0f : div_rn(1, *m.scale);

  // Those of absent heads are skipped. Without any, there may still be an lse.
  int64_t items = m.out.shape[2] ? tile.tokens * m.heads * m.groups.d : 0, base = 0;
  do {
    Group<T, N> p[kUnroll], s[kUnroll];
    O* to[kUnroll];
    int at[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      int64_t item = base + i * kThreads + int(threadIdx.x);
      to[i] = nullptr;
      if (item >= items) continue;
      auto [pair, g] = m.groups(item);
      auto [t, h] = m.tile_heads(pair);
      if (h >= tile.heads) continue;
      int64_t token = tile.token + t, head = tile.head + h;
      at[i] = int(pair);
      to[i] = m.out.at(token, head) + g * N;
      p[i] = {};
      if (token < m.with_prefix) p[i] = load<N, true>(m.prefix.at(token, head) + g * N);
      s[i] = load<N, true>(m.suffix.at(token, head) + g * N);
    }
    if (base == 0) {
      weigh_tile(m, tile, weights);
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i)
      if (to[i]) store<true>(to[i], merge<T, O>(p[i], s[i], weights[at[i]], inverse, m.keep_nan));
    base += kThreads * kUnroll;
  } while (base < items);
}

template <class T, class O>
kvops_status merge_all(const kvops_merge_attn_states_args& a) {
  constexpr int kWide = kGroup<T>;
  constexpr int64_t kFrom = sizeof(T), kTo = sizeof(O);
  int64_t tokens = a.out.shape[0], heads = a.out.shape[1];
  int64_t size = a.out.shape[2] ? a.out.shape[2] : 1;
  auto start = [&]<int N, int kUnroll>(int64_t tile_heads) {
    int64_t columns = ceil_div(heads, tile_heads);
    Merge<T, O> m = {view<const T, 3>(a.prefix_output),
                     view<const T, 3>(a.suffix_output),
                     view<O, 3>(a.out),
                     view<const float, 2>(a.prefix_lse),
                     view<const float, 2>(a.suffix_lse),
                     view<float, 2>(a.out_lse),
                     tokens - a.suffix_only_tokens,
                     int(tile_heads),
                     Splitter(size / N),
                     Splitter(tile_heads),
                     Splitter(columns),
                     static_cast<const float*>(a.out_scale.data),
                     a.keep_nan != 0};
    Grid grid = {.x = ceil_div(tokens, kTokens) * columns, .threads = kThreads};
    return launch(kOp, merge_kernel<T, O, N, kUnroll>, grid, a.out, m);
  };
  // Heads of a tile whose groups are so many for each thread.
  auto tile = [&](int64_t groups, int64_t each) {
    int64_t n = each * kThreads / (kTokens * groups), most = heads < kMaxHeads ? heads : kMaxHeads;
    return n < 1 ? 1 : n < most ? n : most;
  };
  bool wide = size % kWide == 0 && rows_aligned(a.prefix_output, kFrom, 16) &&
              rows_aligned(a.suffix_output, kFrom, 16) && rows_aligned(a.out, kTo, kWide * kTo);
  if (!wide) return start.template operator()<1, 4>(tile(size, 4));
  int64_t groups = size / kWide, items = tokens * heads * groups;
  if (items < 2048 * compute_units(a.out))
    return start.template operator()<kWide, 1>(tile(groups, 1));
  return start.template operator()<kWide, 4>(tile(groups, 4));
}

}  // namespace

kvops_status merge_attn_states(const kvops_merge_attn_states_args& a) {
  return dispatch(kOp, "prefix_output", a.prefix_output.dtype, Floats{}, [&]<class T>() {
    if (a.out.dtype == a.prefix_output.dtype) return merge_all<T, T>(a);
    return dispatch(kOp, "out", a.out.dtype, DtypeList<f8_e4m3, f8_e4m3fnuz>{},
                    [&]<class O>() { return merge_all<T, O>(a); });
  });
}

}  // namespace kvops::KVOPS_GPU
