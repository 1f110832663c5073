// merge_attn_states: out = RN_T(prefix * a / (a + b) + suffix * b / (a + b)),
// a = exp(prefix_lse - M), b = exp(suffix_lse - M), M their maximum.
//
// A thread block has a tile of tokens by some heads: eight neighbours are a sector of an lse
// [heads, tokens]. A warp has groups of 16 bytes that follow each other, of as many (token, head)s
// as they happen to be of, at most one for each lane: the lane reads its lse and makes its weights
// while the groups are on their way. The block reads every lse of a (token, head) before it writes
// one, which in place needs.
//
// Numerics: with e = exp(-|prefix_lse - suffix_lse|) the weights are 1 / (1 + e) and e / (1 + e),
// out_lse = M + log(1 + e); all in f32.
#include <type_traits>

#include "core/dispatch.h"
#include "core/integers.h"
#include "gpu/early.cuh"
#include "gpu/lanes.cuh"
#include "gpu/vec.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "merge_attn_states";
constexpr int kThreads = 256, kTokens = 8;

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
  int pairs;            // (token, head)s of a tile, neighbours being of one head
  Splitter groups, tile_tokens, tiles;
  const float* scale;
  bool keep_nan, empty;
};

template <class T, class O>
struct Tile {
  int64_t token, head;
  uint32_t tokens, heads;  // that there are from these on, or more than enough
  const T *prefix, *suffix;
  O* out;

  __device__ Tile(const Merge<T, O>& m, int64_t first_token, int64_t first_head)
      : token(first_token),
        head(first_head),
        tokens(few(m.out.shape[0] - token)),
        heads(few(m.out.shape[1] - head)),
        prefix(m.prefix.at(token, head)),
        suffix(m.suffix.at(token, head)),
        out(m.out.at(token, head)) {}
  __device__ static uint32_t few(int64_t n) { return n < INT32_MAX ? uint32_t(n) : INT32_MAX; }
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

// The lse of one token and head on both sides.
struct Sides {
  float prefix, suffix;
  bool with_prefix;
};
__device__ inline float ratio(const Sides& x) {
  return exp_of(-magnitude(add_rn(x.prefix, -x.suffix)));
}
// Is a side without the other's company? Then that one's elements and lse are the result's.
__device__ inline bool alone(const Sides& x) {
  return !x.with_prefix || is_infinite(x.prefix) || is_infinite(x.suffix);
}
__device__ inline Weights weigh(const Sides& x, float e) {
  if (!x.with_prefix) return {-1, 1};
  if (alone(x)) {
    float left = is_infinite(x.prefix) ? x.suffix : x.prefix;
    bool suffix = is_infinite(x.prefix) && !is_infinite(left) && !is_nan(left);
    return suffix ? Weights{-1, 1} : Weights{1, -1};
  }
  float large = div_rn(1, add_rn(1, e)), small = div_rn(e, add_rn(1, e));
  return x.prefix >= x.suffix ? Weights{large, small} : Weights{small, large};
}
__device__ inline float merged_lse(const Sides& x, float e) {
  if (!x.with_prefix) return x.suffix;
  if (!alone(x)) return add_rn(fmaxf(x.prefix, x.suffix), log1p_of(e));
  float left = is_infinite(x.prefix) ? x.suffix : x.prefix;
  return is_infinite(left) || is_nan(left) ? -bits_float(0x7F800000u) : left;
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

// Groups [first, first + kWarp * kUnroll) of a tile on their way, and where they go.
template <class T, class O, int N, int kUnroll>
struct Chunk {
  Group<T, N> p[kUnroll], s[kUnroll];
  O* to[kUnroll];  // nullptr: none
  int pair[kUnroll];

  __device__ void load(const Merge<T, O>& m, const Tile<T, O>& tile, int64_t first, int64_t items) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      int64_t item = first + i * kWarp + lane_id(), g = item;
      to[i] = nullptr, pair[i] = 0;
      if (m.pairs > 1) {
        auto at = m.groups(uint32_t(item));
        pair[i] = int(at.quotient), g = at.remainder;
      }
      auto [h, t] = m.tile_tokens(uint32_t(pair[i]));
      if (item >= items || t >= tile.tokens || h >= tile.heads) continue;
      to[i] = tile.out + t * m.out.stride[0] + h * m.out.stride[1] + g * N;
      p[i] = {};
      auto* prefix = tile.prefix + t * m.prefix.stride[0] + h * m.prefix.stride[1] + g * N;
      if (tile.token + t < m.with_prefix) p[i] = gpu::load<N, true>(prefix);
      s[i] =
          gpu::load<N, true>(tile.suffix + t * m.suffix.stride[0] + h * m.suffix.stride[1] + g * N);
    }
  }
  __device__ void store(const Merge<T, O>& m, const Weights& mine, int first_pair, float inverse) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      int lane = (pair[i] - first_pair) % kWarp;
      Weights w = {shuffle(mine.prefix, lane), shuffle(mine.suffix, lane)};
      if (to[i]) gpu::store<true>(to[i], merge<T, O>(p[i], s[i], w, inverse, m.keep_nan));
    }
  }
};

template <class T, class O, int N, int kUnroll>
__global__ void __launch_bounds__(kThreads, kUnroll > 2 ? 3 : 5) merge_kernel(const Merge<T, O> m) {
  await_queue();
  auto [row, column] = m.tiles(int64_t(blockIdx.x));
  Tile<T, O> tile(m, row * m.tile_tokens.d, column * (m.pairs / int(m.tile_tokens.d)));
  int64_t items = m.pairs * m.groups.d, first = warp_id() * (kWarp * kUnroll);
  // Where the lane's (token, head) is one of the warp's: of long rows, the only one.
  int first_pair = m.pairs > 1 ? int(m.groups(uint32_t(first)).quotient) : 0;
  int pair = first_pair + lane_id();
  auto [h, t] = m.tile_tokens(uint32_t(pair));
  int64_t token = tile.token + t, head = tile.head + h, begin = pair * m.groups.d;
  bool wanted = pair < m.pairs && t < tile.tokens && h < tile.heads &&
                (m.pairs == 1 || begin < first + kWarp * kUnroll);
  Sides sides = {0, 0, wanted && token < m.with_prefix};
  if (wanted) sides.suffix = m.suffix_lse(head, token);
  if (sides.with_prefix) sides.prefix = m.prefix_lse(head, token);
  Chunk<T, O, N, kUnroll> chunk;
  if (!m.empty) chunk.load(m, tile, first, items);
  float inverse = std::is_same_v<T, O> ? 1.0f : div_rn(1, *m.scale);
  __syncthreads();
  float e = ratio(sides);
  Weights weights = weigh(sides, e);
  if (!m.empty) chunk.store(m, weights, first_pair, inverse);
  if (wanted && begin >= first && m.lse.data) m.lse(head, token) = merged_lse(sides, e);
  if (m.empty) return;
  for (first += kThreads * kUnroll; first < items; first += kThreads * kUnroll) {
    chunk.load(m, tile, first, items);
    chunk.store(m, weights, 0, inverse);
  }
}

template <class T, class O>
kvops_status merge_all(const kvops_merge_attn_states_args& a) {
  constexpr int kWide = kGroup<T>;
  constexpr int64_t kFrom = sizeof(T), kTo = sizeof(O);
  int64_t tokens = a.out.shape[0], heads = a.out.shape[1];
  int64_t size = a.out.shape[2] ? a.out.shape[2] : 1;
  auto start = [&]<int N, int kUnroll>() {
    // Longer rows than a pass are a tile alone.
    int64_t groups = size / N, pairs = kThreads * kUnroll / groups;
    int64_t tile_tokens = pairs < 1 ? 1 : pairs < kTokens ? pairs : kTokens;
    int64_t tile_heads = pairs < kTokens ? 1 : pairs / kTokens;
    int64_t columns = ceil_div(heads, tile_heads);
    Merge<T, O> m = {view<const T, 3>(a.prefix_output),
                     view<const T, 3>(a.suffix_output),
                     view<O, 3>(a.out),
                     view<const float, 2>(a.prefix_lse),
                     view<const float, 2>(a.suffix_lse),
                     view<float, 2>(a.out_lse),
                     tokens - a.suffix_only_tokens,
                     int(tile_tokens * tile_heads),
                     Splitter(groups),
                     Splitter(tile_tokens),
                     Splitter(columns),
                     static_cast<const float*>(a.out_scale.data),
                     a.keep_nan != 0,
                     a.out.shape[2] == 0};
    Grid grid = {.x = ceil_div(tokens, tile_tokens) * columns, .threads = kThreads};
    return launch_early(kOp, merge_kernel<T, O, N, kUnroll>, grid, a.out, m);
  };
  bool wide = size % kWide == 0 && rows_aligned(a.prefix_output, kFrom, 16) &&
              rows_aligned(a.suffix_output, kFrom, 16) && rows_aligned(a.out, kTo, kWide * kTo);
  // Several groups of a lane where they are many, but not of more (token, head)s than a warp has
  // lanes. On an H200 four of them are faster than two or one.
  int64_t groups = size / (wide ? kWide : 1), items = tokens * heads * groups;
  bool many = groups >= 4 && items >= 2048 * compute_units(a.out);
  if (!wide) return many ? start.template operator()<1, 4>() : start.template operator()<1, 1>();
  return many ? start.template operator()<kWide, 4>() : start.template operator()<kWide, 1>();
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
