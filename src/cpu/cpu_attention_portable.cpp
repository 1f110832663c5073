// The matrix code of cpu_attention_with_kv_cache in f32, for every dtype, packing and CPU. A tile
// is unpacked once to
//
//   keys    [size][tile]   lanes are keys:           scores[r][*] += query[r][d] * keys[d][*]
//   values  [tile][size]   lanes are head elements:  sums[r][*]   += weight[r][k] * values[k][*]
//
// and read by all rows of the unit, some at a time. A sum is one chain of multiply-adds over d (or
// k) per lane, begun at 0 in every tile; no bit depends on how many rows are together.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cpu_attention_portable.cpp"
#include <hwy/foreach_target.h>

#include "cpu/simd-inl.h"
#include "cpu/softmax-inl.h"

// Everything that is compiled once only.
#include <cstring>

#include "core/dispatch.h"
#include "cpu/cpu_attention.h"
#include "cpu/isa.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

// Rows and vectors at a time: 6 x 4 sums of 32 registers, 6 x 2 of 16.
constexpr int kRowsAtOnce = 6, kVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// Of the next tile, asked for at each pair of elements, or of tokens, that is unpacked.
constexpr int kLinesAtOnce = 2;

// Elements of pairs: a takes 0, 2, 4, ..., b takes 1, 3, 5, ... of 2 * Lanes(d).
template <class D, class C>
HWY_INLINE void load_words(D d, const C* p, hn::Vec<D>& a, hn::Vec<D>& b) {
  const auto low = load(d, p), high = load(d, p + hn::Lanes(d));
  a = hn::ConcatEven(d, high, low), b = hn::ConcatOdd(d, high, low);
}

// ---- unpacking ---------------------------------------------------------------------------------

template <class C, bool amx>
void pack_keys(const AttentionCall& c, Scratch& s) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  const int64_t pitch = c.code.tile;
  for (int g = 0; g < s.tile.groups; ++g) {
    const auto& from = s.tile.group[g];
    const C* p = reinterpret_cast<const C*>(from.keys) + c.packing.key(from.slot, 0);
    float* to = s.keys + g * int64_t{kGroup};
    if constexpr (amx) {
      for (int64_t i = 0; i < c.size; i += 2, p += 32, to += 2 * pitch) {
        s.next_keys.fetch(kLinesAtOnce);
        for (int64_t t = 0; t < kGroup; t += lanes) {
          auto a = hn::Undefined(d), b = hn::Undefined(d);
          load_words(d, p + 2 * t, a, b);
          hn::StoreU(a, d, to + t), hn::StoreU(b, d, to + pitch + t);
        }
      }
    } else {
      for (int64_t i = 0; i < c.size; ++i, p += c.block, to += pitch) {
        if (i % 2 == 0) s.next_keys.fetch(kLinesAtOnce);
        for (int64_t t = 0; t < kGroup; t += lanes) hn::StoreU(load(d, p + t), d, to + t);
      }
    }
  }
  s.next_keys.fetch(INT32_MAX);
}

template <class C, bool amx>
void pack_values(const AttentionCall& c, Scratch& s) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  for (int g = 0; g < s.tile.groups; ++g) {
    const auto& from = s.tile.group[g];
    const C* p = reinterpret_cast<const C*>(from.values) + c.packing.value(from.slot, 0);
    float* to = s.values + g * c.size * kGroup;
    if constexpr (amx) {
      for (int64_t i = 0; i < c.size; i += kGroup, p += kGroup * c.block)
        for (int64_t t = 0; t < kGroup; t += 2) {
          s.next_values.fetch(kLinesAtOnce);
          for (int64_t j = 0; j < kGroup; j += lanes) {
            auto a = hn::Undefined(d), b = hn::Undefined(d);
            load_words(d, p + t * kGroup + 2 * j, a, b);
            hn::StoreU(a, d, to + t * c.size + i + j);
            hn::StoreU(b, d, to + (t + 1) * c.size + i + j);
          }
        }
    } else {
      for (int64_t i = 0; i < kGroup * c.size; i += kGroup) {
        if (i / kGroup % 2 == 0) s.next_values.fetch(kLinesAtOnce);
        for (int64_t j = 0; j < kGroup; j += lanes) hn::StoreU(load(d, p + i + j), d, to + i + j);
      }
    }
    // What is there but not in the sequence must not be multiplied, not even by 0.
    auto clear = [&](int first, int end) {
      std::memset(to + first * c.size, 0, size_t((end - first) * c.size) * sizeof(float));
    };
    if (from.first > 0) clear(0, from.first);
    if (from.end < kGroup) clear(from.end, kGroup);
  }
  s.next_values.fetch(INT32_MAX);
}

bool take_strange(const AttentionCall& c, Scratch& s) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  bool found = false;
  for (int64_t i = 0; i < s.tile.keys() * c.size; i += lanes) {
    const auto v = hn::LoadU(d, s.values + i);
    const auto finite = hn::IsFinite(v);
    if (hn::AllTrue(d, finite)) continue;
    hn::StoreU(hn::IfThenElseZero(finite, v), d, s.values + i);
    found = true;
  }
  return found;
}

// ---- products ----------------------------------------------------------------------------------

// to[r * to_pitch + lanes] = sum_i x[r * x_pitch + i] * y[i * y_pitch + lanes], plus to * decay[r]
// where there is a decay.
struct Product {
  const float* x;
  int64_t x_pitch;
  const float* y;
  int64_t y_pitch, n;
  float* to;
  int64_t to_pitch;
  const float* decay;
};

template <int R, int V>
HWY_INLINE void multiply_block(const Product& p, int64_t row, int64_t column) {
  const Floats16 d;
  using Vec = hn::Vec<Floats16>;
  const auto lanes = int64_t(hn::Lanes(d));
  Vec sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = hn::Zero(d);
  const float* x = p.x + row * p.x_pitch;
  const float* y = p.y + column;
  for (int64_t i = 0; i < p.n; ++i, y += p.y_pitch) {
    Vec b[V];
    for (int v = 0; v < V; ++v) b[v] = hn::LoadU(d, y + v * lanes);
    for (int r = 0; r < R; ++r) {
      const Vec a = hn::Set(d, x[r * p.x_pitch + i]);
      for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(a, b[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    float* to = p.to + (row + r) * p.to_pitch + column;
    for (int v = 0; v < V; ++v) {
      Vec whole = sum[r][v];
      if (p.decay)
        whole = hn::MulAdd(hn::LoadU(d, to + v * lanes), hn::Set(d, p.decay[row + r]), whole);
      hn::StoreU(whole, d, to + v * lanes);
    }
  }
}

template <int V>
HWY_NOINLINE void multiply_rows(const Product& p, int rows, int64_t column) {
  int r = 0;
  for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) multiply_block<kRowsAtOnce, V>(p, r, column);
  for (; r + 4 <= rows; r += 4) multiply_block<4, V>(p, r, column);
  for (; r + 2 <= rows; r += 2) multiply_block<2, V>(p, r, column);
  if (r < rows) multiply_block<1, V>(p, r, column);
}

// `columns`: a multiple of 16. Columns outside, so that a strip of y stays in L1 for all rows.
void multiply(const Product& p, int rows, int64_t columns) {
  const auto lanes = int64_t(hn::Lanes(Floats16()));
  int64_t at = 0;
  for (; at + kVectors * lanes <= columns; at += kVectors * lanes)
    multiply_rows<kVectors>(p, rows, at);
  for (; at < columns; at += lanes) multiply_rows<1>(p, rows, at);
}

template <class C, bool amx>
void scores(const AttentionCall& c, Scratch& s) {
  pack_keys<C, amx>(c, s);
  multiply({s.query, c.size, s.keys, c.code.tile, c.size, s.scores, c.pitch(), nullptr}, s.rows,
           s.tile.keys());
}

void sums(const AttentionCall& c, Scratch& s) {
  multiply({s.scores, c.pitch(), s.values, c.size, s.tile.keys(), s.sums, c.size, s.decay}, s.rows,
           c.size);
}

// ---- rows --------------------------------------------------------------------------------------

void measure(const AttentionCall& c, Scratch& s, int row) {
  if (!c.slopes || row % s.heads) return;
  const int64_t query = s.position + row / s.heads;
  for (int i = 0; i < s.tile.keys(); ++i) {
    const auto& g = s.tile.group[i / kGroup];
    s.behind[i] = float(g.token + i % kGroup - query);
  }
}

void weights(const AttentionCall& c, Scratch& s) {
  const Logits logits = {c.scale, c.softcap, nullptr};
  const int keys = s.tile.keys();
  for (int r = 0; r < s.rows; ++r) {
    measure(c, s, r);
    float* x = s.scores + r * c.pitch();
    const int first = s.first[r], end = s.end[r];
    const float slope = c.slopes ? c.slopes[s.head + r % s.heads] : 0;
    const auto w = softmax(logits, slope, s.behind + first, end - first, s.row.top[r], x + first);
    s.row.top[r] = w.top, s.decay[r] = w.decay;
    s.row.sum[r] = s.row.sum[r] * w.decay + w.sum;
    std::fill(x, x + first, 0.0f);
    std::fill(x + end, x + keys, 0.0f);
  }
}

template <class T>
void load_query(const void* from, int64_t size, int64_t row, Scratch& s) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  for (int64_t i = 0; i < size; i += lanes)
    hn::StoreU(load(d, static_cast<const T*>(from) + i), d, s.query + row * size + i);
}

template <class T>
void store_out(const float* from, float factor, int64_t size, void* to) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  const auto v = hn::Set(d, factor);
  for (int64_t i = 0; i < size; i += lanes)
    store(d, hn::Mul(hn::LoadU(d, from + i), v), static_cast<T*>(to) + i);
}

template <class T, class C>
MatrixCode code_of(const AttentionCall& c) {
  const bool amx = c.packing.amx;
  return {.tile = c.size <= 256 ? 64 : 32,
          .bf16_weights = false,
          .base_2 = false,
          .load_query = load_query<T>,
          .scores = amx ? scores<C, true> : scores<C, false>,
          .weights = weights,
          .pack_values = amx ? pack_values<C, true> : pack_values<C, false>,
          .take_strange = take_strange,
          .sums = sums,
          .store_out = store_out<T>};
}

}  // namespace

MatrixCode portable_code(const AttentionCall& c) {
  MatrixCode code = {};
  constexpr auto* op = "cpu_attention_with_kv_cache";
  dispatch(op, "query", c.args.query.dtype, Floats{}, [&]<class T>() -> kvops_status {
    if (c.args.key_cache.dtype == c.args.query.dtype) return code = code_of<T, T>(c), KVOPS_OK;
    return dispatch(op, "key_cache", c.args.key_cache.dtype, DtypeList<f8_e4m3, f8_e5m2>{},
                    [&]<class C>() -> kvops_status { return code = code_of<T, C>(c), KVOPS_OK; });
  });
  return code;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {

MatrixCode portable_code(const AttentionCall& c) { return KVOPS_CPU_CHOSEN(portable_code)(c); }

}  // namespace kvops::cpu
#endif
