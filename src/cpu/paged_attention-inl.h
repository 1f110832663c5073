// The arithmetic of paged attention on one tile of rows (tokens): logits, weights, weighted sums.
//
//   logits    up to 4 heads x 4 tokens at a time, lanes along the head: each row is loaded and
//             converted once for 4 heads. Lane sums are added in a tree.
//   weights   online softmax: the sums so far are multiplied by exp(old maximum - new maximum)
//   sums      up to 4 heads x 4 vectors, tokens one after the other; a tile's sum is begun at 0 and
//             then added to the sums so far, so that errors grow with tiles, not with tokens
//
// All in f32. The order of all additions depends on `size`, the number of tokens and the
// instruction set only.
#include "cpu/math-inl.h"
#include "cpu/paged_attention.h"
#include "cpu/paged_dots-inl.h"
#include "cpu/paged_rows-inl.h"
#include "cpu/simd-inl.h"
#include "cpu/softmax-inl.h"

#if defined(KVOPS_CPU_PAGED_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_PAGED_ATTENTION_INL_H_
#undef KVOPS_CPU_PAGED_ATTENTION_INL_H_
#else
#define KVOPS_CPU_PAGED_ATTENTION_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// Heads at a time: 4 x 4 sums need 32 registers.
inline constexpr int kHeads = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// Lane i: the sum of all lanes of ai.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> sums_of_lanes(D d, V a0, V a1, V a2, V a3) {
  const hn::Repartition<uint64_t, D> d64;
  const auto even = hn::Add(hn::InterleaveLower(d, a0, a1), hn::InterleaveUpper(d, a0, a1));
  const auto odd = hn::Add(hn::InterleaveLower(d, a2, a3), hn::InterleaveUpper(d, a2, a3));
  const auto low = hn::InterleaveLower(d64, hn::BitCast(d64, even), hn::BitCast(d64, odd));
  const auto high = hn::InterleaveUpper(d64, hn::BitCast(d64, even), hn::BitCast(d64, odd));
  const auto sum = hn::Add(hn::BitCast(d, low), hn::BitCast(d, high));
  if constexpr (hn::MaxLanes(D()) == 4) {
    return sum;
  } else {
    const hn::Half<D> half;
    const auto two = hn::Add(hn::LowerHalf(half, sum), hn::UpperHalf(half, sum));
    if constexpr (hn::MaxLanes(D()) == 8) {
      return two;
    } else {
      const hn::Half<decltype(half)> quarter;
      return hn::Add(hn::LowerHalf(quarter, two), hn::UpperHalf(quarter, two));
    }
  }
}

// Lanes(d) elements of a row from element i on, or as many as there are, then zeros.
template <Lie L, class D, class S>
HWY_INLINE hn::Vec<D> load_row(D d, const S* row, int64_t piece, int64_t i) {
  constexpr auto lanes = int64_t(hn::MaxLanes(D())), x = int64_t(16 / sizeof(S));
  if constexpr (L == Lie::rows) {
    return load(d, row + i);
  } else if constexpr (lanes <= x) {
    return load(d, row + i / x * piece + i % x);
  } else {
    const Storage<S, D> du;
    const auto* from = reinterpret_cast<const unsigned char*>(row + i / x * piece);
    return widen(d, load_blocks(du, from, piece * int64_t(sizeof(S))), S{});
  }
}
// The last 8 elements, where a vector has 16 lanes: sizes are multiples of 8. Zeros above.
template <Lie L, class D, class S>
HWY_INLINE hn::Vec<D> load_last_8(D d, const S* row, int64_t piece, int64_t i) {
  constexpr auto x = int64_t(16 / sizeof(S));
  if constexpr (hn::MaxLanes(D()) < 16) {
    return hn::Zero(d);
  } else if constexpr (L == Lie::rows) {
    return load_n(d, row + i, 8);
  } else {
    HWY_ALIGN S part[16] = {};
    for (int64_t j = 0; j < 8; j += x)
      std::memcpy(part + j, row + (i + j) / x * piece, sizeof(S) * x);
    return load(d, part);
  }
}

// logits[h * kTile + t] = q[h * pitch + ...] . rows[t] for H heads and 4 tokens.
template <int H, Lie L, class S>
HWY_INLINE void dot_4_tokens(const float* q, int64_t pitch, const S* const* rows, int64_t piece,
                             int64_t size, float* logits) {
  const Floats16 d;
  using V = hn::Vec<Floats16>;
  const auto lanes = int64_t(hn::Lanes(d));
  V sum[H][4];
  for (int h = 0; h < H; ++h)
    for (int t = 0; t < 4; ++t) sum[h][t] = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    V k[4];
    for (int t = 0; t < 4; ++t) k[t] = load_row<L>(d, rows[t], piece, i);
    for (int h = 0; h < H; ++h) {
      const V x = hn::LoadU(d, q + h * pitch + i);
      for (int t = 0; t < 4; ++t) sum[h][t] = hn::MulAdd(x, k[t], sum[h][t]);
    }
  }
  if (hn::MaxLanes(Floats16()) == 16 && i < size) {
    for (int t = 0; t < 4; ++t) {
      const V k = load_last_8<L>(d, rows[t], piece, i);
      for (int h = 0; h < H; ++h)
        sum[h][t] = hn::MulAdd(hn::LoadU(d, q + h * pitch + i), k, sum[h][t]);
    }
  }
  const hn::FixedTag<float, 4> d4;
  for (int64_t h = 0; h < H; ++h)
    hn::StoreU(sums_of_lanes(d, sum[h][0], sum[h][1], sum[h][2], sum[h][3]), d4,
               logits + h * kTile);
}

template <int H, Lie L, class S>
HWY_NOINLINE void dot_tile(const float* q, int64_t pitch, const S* const* rows, int64_t piece,
                           int n, int64_t size, float* logits, Ahead& ahead) {
  const int lines = ahead.num_rows * ahead.lines * 4 / n + 1;
  int t = 0;
  for (; t + 4 <= n; t += 4) {
    dot_4_tokens<H, L>(q, pitch, rows + t, piece, size, logits + t);
    ahead.fetch(lines);
  }
  if (t == n) return;
  // The last row stands in for rows that are not there; their logits are not used.
  const S* rest[4];
  for (int i = 0; i < 4; ++i) rest[i] = rows[HWY_MIN(t + i, n - 1)];
  dot_4_tokens<H, L>(q, pitch, rest, piece, size, logits + t);
}

// sums[h * pitch + i ...] = sums * decay[h] + sum_t weights[h * kTile + t] * rows[t][i ...] for H
// heads and V vectors; the last one has `last` lanes.
template <int H, int V, class S>
HWY_INLINE void add_vectors(const float* weights, const S* const* rows, int n, int64_t i,
                            const float* decay, float* sums, int64_t pitch, size_t last,
                            Ahead& ahead) {
  const Floats16 d;
  using Vec = hn::Vec<Floats16>;
  const size_t lanes = hn::Lanes(d);
  Vec sum[H][V];
  for (int h = 0; h < H; ++h)
    for (int v = 0; v < V; ++v) sum[h][v] = hn::Zero(d);
  const int lines = ahead.num_rows * ahead.lines / (2 * n) + 1;
  for (int t = 0; t < n; ++t) {
    ahead.fetch(lines);
    const S* row = rows[t] + i;
    Vec x[V];
    for (int v = 0; v < V - 1; ++v) x[v] = load(d, row + size_t(v) * lanes);
    x[V - 1] = last == lanes ? load(d, row + size_t(V - 1) * lanes)
                             : load_n(d, row + size_t(V - 1) * lanes, last);
    for (int h = 0; h < H; ++h) {
      const Vec w = hn::Set(d, weights[h * kTile + t]);
      for (int v = 0; v < V; ++v) sum[h][v] = hn::MulAdd(w, x[v], sum[h][v]);
    }
  }
  for (int h = 0; h < H; ++h) {
    const Vec scale = hn::Set(d, decay[h]);
    float* to = sums + h * pitch + i;  // padded: whole vectors
    for (int v = 0; v < V; ++v) {
      float* p = to + size_t(v) * lanes;
      hn::StoreU(hn::MulAdd(hn::LoadU(d, p), scale, sum[h][v]), d, p);
    }
  }
}

// The same for 2 * P vectors of bf16: each load gives the even and the odd elements.
template <int H, int P>
HWY_INLINE void add_pairs(const float* weights, const bf16* const* rows, int n, int64_t i,
                          const float* decay, float* sums, int64_t pitch, Ahead& ahead) {
  const Floats16 d;
  using Vec = hn::Vec<Floats16>;
  const size_t lanes = hn::Lanes(d);
  Vec even[H][P], odd[H][P];
  for (int h = 0; h < H; ++h)
    for (int v = 0; v < P; ++v) even[h][v] = odd[h][v] = hn::Zero(d);
  const int lines = ahead.num_rows * ahead.lines / (2 * n) + 1;
  for (int t = 0; t < n; ++t) {
    ahead.fetch(lines);
    const bf16* row = rows[t] + i;
    Vec a[P], b[P];
    for (int v = 0; v < P; ++v) load_pairs(d, row + size_t(v) * 2 * lanes, a[v], b[v]);
    for (int h = 0; h < H; ++h) {
      const Vec w = hn::Set(d, weights[h * kTile + t]);
      for (int v = 0; v < P; ++v) {
        even[h][v] = hn::MulAdd(w, a[v], even[h][v]);
        odd[h][v] = hn::MulAdd(w, b[v], odd[h][v]);
      }
    }
  }
  for (int h = 0; h < H; ++h) {
    const Vec scale = hn::Set(d, decay[h]);
    for (int v = 0; v < P; ++v) {
      HWY_ALIGN float tile[2 * hn::MaxLanes(Floats16())];
      hn::StoreInterleaved2(even[h][v], odd[h][v], d, tile);
      for (size_t j = 0; j < 2 * lanes; j += lanes) {
        float* p = sums + h * pitch + i + size_t(v) * 2 * lanes + j;
        hn::StoreU(hn::MulAdd(hn::LoadU(d, p), scale, hn::Load(d, tile + j)), d, p);
      }
    }
  }
}

template <int H, class S>
HWY_NOINLINE void add_tile(const float* weights, const S* const* rows, int n, int64_t size,
                           const float* decay, float* sums, int64_t pitch, Ahead& ahead) {
  const auto lanes = int64_t(hn::Lanes(Floats16()));
  int64_t i = 0;
  if constexpr (std::is_same_v<S, bf16>)
    for (; i + 4 * lanes <= size; i += 4 * lanes)
      add_pairs<H, 2>(weights, rows, n, i, decay, sums, pitch, ahead);
  for (; i + 4 * lanes <= size; i += 4 * lanes)
    add_vectors<H, 4>(weights, rows, n, i, decay, sums, pitch, size_t(lanes), ahead);
  for (; i < size; i += lanes)
    add_vectors<H, 1>(weights, rows, n, i, decay, sums, pitch, size_t(HWY_MIN(lanes, size - i)),
                      ahead);
}

// Partial result of a unit: for each head the largest logit, the sum of the weights relative to it,
// and the weighted sums of the values, `pitch` floats apart.
struct State {
  float *top, *sum, *values;
  int64_t heads, pitch;

  State(float* memory, int64_t unit_heads, int64_t row)
      : top(memory + unit_heads * row),
        sum(top + unit_heads),
        values(memory),
        heads(unit_heads),
        pitch(row) {}
  void clear() {
    std::memset(values, 0, size_t(heads * pitch) * sizeof(float));
    for (int64_t h = 0; h < heads; ++h) top[h] = -HUGE_VALF, sum[h] = 0;
  }
};

// Calls f<H>(first) for groups of H = kHeads heads, and for the rest.
template <class F>
HWY_INLINE void for_heads(int64_t heads, F&& f) {
  int64_t h = 0;
  for (; h + kHeads <= heads; h += kHeads) f.template operator()<kHeads>(h);
  if constexpr (kHeads == 4) {
    if (heads - h == 3) return f.template operator()<3>(h);
    if (heads - h == 2) return f.template operator()<2>(h);
  }
  if (heads - h == 1) f.template operator()<1>(h);
}

struct TileWork {
  int n;                // tokens
  const float* behind;  // token - (length - 1) of each
  const bf16* halves;   // the queries for dot products of bf16, or null
  Lie lie;              // of the rows of keys
  int64_t piece;
  Ahead keys, values;  // of the tile after this one
};

// One tile, of which keys(rows) and values(rows) give the rows.
template <class S, class Keys, class Values>
HWY_INLINE void attend_tile(const float* q, const Logits& l, TileWork& tile, int64_t size,
                            Keys&& keys, Values&& values, State& state) {
  alignas(64) float weights[64 * kTile];
  alignas(64) float decay[64];
  const S* rows[kTile];
  const int n = tile.n;
  keys(rows);
  for_heads(state.heads, [&]<int H>(int64_t h) {
#if HWY_TARGET == HWY_AVX3
    if constexpr (std::is_same_v<S, bf16>) {
      if (tile.halves) {
        auto* dots =
            tile.lie == Lie::rows ? dot_tile_bf16<H, Lie::rows> : dot_tile_bf16<H, Lie::pieces>;
        return dots(tile.halves + h * state.pitch, state.pitch, rows, tile.piece, n, size,
                    weights + h * kTile, tile.keys);
      }
    }
#endif
    auto* dot = tile.lie == Lie::rows ? dot_tile<H, Lie::rows, S> : dot_tile<H, Lie::pieces, S>;
    dot(q + h * state.pitch, state.pitch, rows, tile.piece, n, size, weights + h * kTile,
        tile.keys);
  });
  for (int64_t h = 0; h < state.heads; ++h) {
    const float slope = l.slopes ? l.slopes[h] : 0;
    const auto s = softmax(l, slope, tile.behind, n, state.top[h], weights + h * kTile);
    state.top[h] = s.top, decay[h] = s.decay;
    state.sum[h] = state.sum[h] * s.decay + s.sum;
  }
  values(rows);
  for_heads(state.heads, [&]<int H>(int64_t h) {
    add_tile<H>(weights + h * kTile, rows, n, size, decay + h, state.values + h * state.pitch,
                state.pitch, tile.values);
  });
}

// into += part. A side without tokens has weight 0 and leaves the other's bits.
HWY_INLINE void add_state(State& into, const State& part) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  for (int64_t h = 0; h < into.heads; ++h) {
    if (part.top[h] == -HUGE_VALF && part.sum[h] == 0) continue;
    const float top = HWY_MAX(into.top[h], part.top[h]);
    auto weight = [&](float t) {
      return t == top ? 1.0f : float(std::exp(double(t) - double(top)));
    };
    const float a = weight(into.top[h]), b = weight(part.top[h]);
    const auto va = hn::Set(d, a), vb = hn::Set(d, b);
    float* x = into.values + h * into.pitch;
    const float* y = part.values + h * into.pitch;
    for (int64_t i = 0; i < into.pitch; i += lanes)
      hn::StoreU(hn::MulAdd(hn::LoadU(d, y + i), vb, hn::Mul(hn::LoadU(d, x + i), va)), d, x + i);
    into.sum[h] = into.sum[h] * a + part.sum[h] * b;
    into.top[h] = top;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
