// The matrix code of cpu_attention_with_kv_cache in bf16, with vdpbf16ps: queries and keys as they
// are, weights rounded to bf16 (their sum is of the unrounded ones), sums in f32. A word is a
// pair:
//
//   keys    per 16 keys      [size/2][16 keys][2 elements]      scores += query pair * word
//   values  per 16 keys      [size/16][8][16 elements][2 keys]  sums   += weight pair * word
//
// which is how bf16 caches of the amx packing lie: those are read in place; others are packed once
// a tile. fp8 is exact in bf16. exp is 2^x, its polynomial right to 3e-6 where a weight's own
// rounding is 2^-9; logits with softcap or slopes go through the f32 code.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/convert.h"
#include "cpu/cpu_attention.h"
#include "cpu/features.h"

#ifdef __clang__
#pragma clang attribute push(                                                                  \
    __attribute__((                                                                            \
        target("avx2,fma,bmi2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16"))), \
    apply_to = function)
#else
// GCC 12's own intrinsics pass on values that they leave undefined on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16")
#endif

namespace kvops::cpu {
namespace {

constexpr int kWords = 16;  // of a vector
// Blocks of few rows ask for the next tile's lines as they go; more rows hide the rest's latency.
constexpr int kFetchRows = 4;
// 2^x on [-1/2, 1/2], right to 3e-6.
constexpr float kExp2[] = {0x1.ffffe8p-1f, 0x1.62e0dcp-1f, 0x1.ec06dap-3f, 0x1.ca1440p-5f,
                           0x1.3997d6p-7f};

template <class C>
struct Reader;
template <>
struct Reader<bf16> {
  __m512i load(const bf16* p) const { return _mm512_loadu_si512(p); }
  __m256i load_half(const bf16* p) const {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
};

// fp8: a table of the 128 codes without sign.
template <IsFp8 C>
struct Reader<C> {
  __m512i table[4];

  Reader() {
    alignas(64) uint16_t bits[128];
    for (int i = 0; i < 128; ++i) bits[i] = from_float<bf16>(to_float(C{uint8_t(i)})).bits;
    for (int64_t i = 0; i < 4; ++i) table[i] = _mm512_load_si512(bits + 32 * i);
  }
  __m512i widen(__m256i codes) const {
    const __m512i c = _mm512_cvtepu8_epi16(codes);
    const __m512i low = _mm512_permutex2var_epi16(table[0], c, table[1]);
    const __m512i high = _mm512_permutex2var_epi16(table[2], c, table[3]);
    const __mmask32 upper = _mm512_test_epi16_mask(c, _mm512_set1_epi16(0x40));
    const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(c, _mm512_set1_epi16(0x80)), 8);
    return _mm512_or_si512(_mm512_mask_blend_epi16(upper, low, high), sign);
  }
  __m512i load(const C* p) const {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  __m256i load_half(const C* p) const {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_castsi512_si256(widen(_mm256_castsi128_si256(codes)));
  }
};

struct Zip {
  __m512i low, high;  // elements 0 to 15 of both, elements 16 to 31
  Zip() {
    alignas(64) uint16_t index[64];
    for (int i = 0; i < 64; ++i) index[i] = uint16_t(i / 2 + i % 2 * 32);
    low = _mm512_load_si512(index), high = _mm512_load_si512(index + 32);
  }
};

uint16_t* packed(float* operands, int64_t group, int64_t size) {
  return reinterpret_cast<uint16_t*>(operands) + group * kGroup * size;
}

template <class C, bool amx>
void pack_keys(const AttentionCall& c, Scratch& s) {
  const Reader<C> read;
  const Zip zip;
  for (int g = 0; g < s.tile.groups; ++g) {
    const auto& from = s.tile.group[g];
    const auto* p = reinterpret_cast<const C*>(from.keys) + c.packing.key(from.slot, 0);
    uint16_t* to = packed(s.keys, g, c.size);
    s.key_words[g] = to;
    if constexpr (amx && std::is_same_v<C, bf16>) {
      s.key_words[g] = p;
    } else if constexpr (amx) {
      for (int64_t i = 0; i < kGroup * c.size; i += 32)
        _mm512_storeu_si512(to + i, read.load(p + i));
    } else if (g + 1 < s.tile.groups && from.keys == s.tile.group[g + 1].keys &&
               from.slot + kGroup == s.tile.group[g + 1].slot) {
      // Two groups that lie beside each other.
      uint16_t* next = packed(s.keys, ++g, c.size);
      s.key_words[g] = next;
      for (int64_t i = 0; i < c.size; i += 2, p += 2 * c.block, to += 32, next += 32) {
        const __m512i a = read.load(p), b = read.load(p + c.block);
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, zip.low, b));
        _mm512_storeu_si512(next, _mm512_permutex2var_epi16(a, zip.high, b));
      }
    } else {
      for (int64_t i = 0; i < c.size; i += 2, p += 2 * c.block, to += 32) {
        const __m512i a = _mm512_castsi256_si512(read.load_half(p));
        const __m512i b = _mm512_castsi256_si512(read.load_half(p + c.block));
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, zip.low, b));
      }
    }
  }
}

template <class C, bool amx>
void pack_group(const AttentionCall& c, const KeyGroup& from, uint16_t* group) {
  const Reader<C> read;
  const Zip zip;
  const LiveKeys live(from);
  const auto* p = reinterpret_cast<const C*>(from.values) + c.packing.value(from.slot, 0);
  if constexpr (amx) {
    for (int64_t i = 0; i < c.size; i += kGroup, p += kGroup * c.block, group += 256)
      for (int64_t t = 0; t < kGroup; t += 2) {
        const __m512i words = read.load(p + t * kGroup);
        _mm512_storeu_si512(group + t * kGroup, _mm512_maskz_mov_epi16(live.words(t), words));
      }
  } else {
    for (int64_t t = 0; t < kGroup; t += 2, p += 2 * c.size) {
      const __mmask32 words = live.words(t);
      uint16_t* to = group + t * kGroup;
      int64_t i = 0;
      for (; i + 32 <= c.size; i += 32, to += 512) {
        const __m512i a = read.load(p + i), b = read.load(p + c.size + i);
        const __m512i low = _mm512_permutex2var_epi16(a, zip.low, b);
        const __m512i high = _mm512_permutex2var_epi16(a, zip.high, b);
        _mm512_storeu_si512(to, _mm512_maskz_mov_epi16(words, low));
        _mm512_storeu_si512(to + 256, _mm512_maskz_mov_epi16(words, high));
      }
      if (i == c.size) continue;
      const __m512i a = _mm512_castsi256_si512(read.load_half(p + i));
      const __m512i b = _mm512_castsi256_si512(read.load_half(p + c.size + i));
      const __m512i low = _mm512_permutex2var_epi16(a, zip.low, b);
      _mm512_storeu_si512(to, _mm512_maskz_mov_epi16(words, low));
    }
  }
}

template <class C, bool amx>
void pack_values(const AttentionCall& c, Scratch& s) {
  // In place where all of it is multiplied anyway.
  const bool direct = amx && std::is_same_v<C, bf16> && s.tile.all;
  s.value_stride = direct ? kGroup * c.block : 256;
  for (int g = 0; g < s.tile.groups; ++g) {
    const auto& from = s.tile.group[g];
    uint16_t* to = packed(s.values, g, c.size);
    if (!direct) pack_group<C, amx>(c, from, to);
    const auto* p = reinterpret_cast<const C*>(from.values) + c.packing.value(from.slot, 0);
    s.value_words[g] = direct ? static_cast<const void*>(p) : to;
  }
}

bool take_strange(const AttentionCall& c, Scratch& s) {
  const __m512i exponent = _mm512_set1_epi16(0x7F80);
  uint16_t* p = packed(s.values, 0, c.size);
  bool found = false;
  for (int64_t i = 0; i < s.tile.keys() * c.size; i += 32) {
    const __m512i v = _mm512_loadu_si512(p + i);
    const __mmask32 bad = _mm512_cmpeq_epi16_mask(_mm512_and_si512(v, exponent), exponent);
    if (!bad) continue;
    _mm512_storeu_si512(p + i, _mm512_maskz_mov_epi16(__mmask32(~bad), v));
    found = true;
  }
  return found;
}

inline __m512bh words(const void* p) { return (__m512bh)_mm512_loadu_si512(p); }
inline __m512bh pair(const uint16_t* p) {
  int32_t both;
  std::memcpy(&both, p, sizeof both);
  return (__m512bh)_mm512_set1_epi32(both);
}

// R rows and V groups of keys at a time, from row r and group g on.
template <int R, int V>
void score_block(const AttentionCall& c, Scratch& s, int row, int group) {
  const auto* q = reinterpret_cast<const uint16_t*>(s.query) + row * c.size;
  const uint16_t* k[V];
  __m512 sum[R][V];
  for (int v = 0; v < V; ++v) k[v] = static_cast<const uint16_t*>(s.key_words[group + v]);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_ps();
  for (int64_t i = 0; i < c.size; i += 2) {
    __m512bh b[V];
    for (int v = 0; v < V; ++v) b[v] = words(k[v] + i * kWords);
    if constexpr (R <= kFetchRows) s.next_keys.fetch(V);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh a = pair(q + r * c.size + i);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], a, b[v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      _mm512_storeu_ps(s.scores + (row + r) * c.pitch() + (group + v) * int64_t{kGroup}, sum[r][v]);
}

// R rows and V times 16 elements, from row r and element d on.
template <int R, int V>
void sum_block(const AttentionCall& c, Scratch& s, int row, int64_t d) {
  const int64_t stride = s.value_stride, pitch = 2 * c.pitch();
  const auto* weights = reinterpret_cast<const uint16_t*>(s.scores + row * c.pitch());
  __m512 sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_ps();
  for (int g = 0; g < s.tile.groups; ++g, weights += kGroup) {
    const auto* p = static_cast<const uint16_t*>(s.value_words[g]) + d / kGroup * stride;
    for (int t = 0; t < kGroup; t += 2) {
      __m512bh b[V];
      for (int v = 0; v < V; ++v) b[v] = words(p + v * stride + int64_t{t} * kWords);
      if constexpr (R <= kFetchRows) s.next_values.fetch(V);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512bh a = pair(weights + r * pitch + t);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], a, b[v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const __m512 decay = _mm512_set1_ps(s.decay[row + r]);
    for (int v = 0; v < V; ++v) {
      float* to = s.sums + (row + r) * c.size + d + v * int64_t{kGroup};
      _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), decay, sum[r][v]));
    }
  }
}

// block<R>(row) for all rows, some at a time: 6 x 4 sums of 32 registers.
template <class F>
void for_rows(int rows, F&& block) {
  int r = 0;
  for (; r + 6 <= rows; r += 6) block.template operator()<6>(r);
  for (; r + 4 <= rows; r += 4) block.template operator()<4>(r);
  for (; r + 2 <= rows; r += 2) block.template operator()<2>(r);
  if (r < rows) block.template operator()<1>(r);
}

template <class C, bool amx>
void scores(const AttentionCall& c, Scratch& s) {
  pack_keys<C, amx>(c, s);
  int g = 0;
  for (; g + 4 <= s.tile.groups; g += 4)
    for_rows(s.rows, [&]<int R>(int r) { score_block<R, 4>(c, s, r, g); });
  for (; g + 2 <= s.tile.groups; g += 2)
    for_rows(s.rows, [&]<int R>(int r) { score_block<R, 2>(c, s, r, g); });
  if (g < s.tile.groups) for_rows(s.rows, [&]<int R>(int r) { score_block<R, 1>(c, s, r, g); });
  s.next_keys.fetch(INT32_MAX);
}

void sums(const AttentionCall& c, Scratch& s) {
  int64_t d = 0;
  for (; d + 64 <= c.size; d += 64)
    for_rows(s.rows, [&]<int R>(int r) { sum_block<R, 4>(c, s, r, d); });
  for (; d + 32 <= c.size; d += 32)
    for_rows(s.rows, [&]<int R>(int r) { sum_block<R, 2>(c, s, r, d); });
  if (d < c.size) for_rows(s.rows, [&]<int R>(int r) { sum_block<R, 1>(c, s, r, d); });
  s.next_values.fetch(INT32_MAX);
}

// 2^x for x up to about 0, 0 below -125; NaN stays. The low bits of x + 3 * 2^22 are x as an
// integer, added to the exponent: faster on Intel's cores than vreduceps and vscalefps.
inline __m512 exp2_of(__m512 x) {
  const __mmask16 some = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-125.0f), _CMP_NLT_UQ);
  const __m512 shift = _mm512_set1_ps(0x3p22f), t = _mm512_add_ps(x, shift);
  const __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(t, shift));
  __m512 y = _mm512_set1_ps(kExp2[4]);
  for (int i = 3; i >= 0; --i) y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(kExp2[i]));
  const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(some, _mm512_castps_si512(y), power));
}

inline __mmask16 seen(int first, int end, int column) {
  const auto from = std::clamp(first - column, 0, 16), to = std::clamp(end - column, 0, 16);
  return __mmask16(((1U << to) - 1) & ~((1U << from) - 1));
}

inline void store_weights(__m512 y, float* row, int key) {
  auto* to = reinterpret_cast<uint16_t*>(row) + key;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(y));
}

// The largest score that a row sees; the others become -inf.
inline float most_of_row(const Scratch& s, int row, float* x) {
  const int keys = s.tile.keys(), first = s.first[row], end = s.end[row];
  const __m512 none = _mm512_set1_ps(-HUGE_VALF);
  __m512 most = none;
  const bool all = first == 0 && end == keys;
  for (int k = 0; k < keys; k += kGroup) {
    __m512 v = _mm512_loadu_ps(x + k);
    if (!all) v = _mm512_mask_mov_ps(none, seen(first, end, k), v), _mm512_storeu_ps(x + k, v);
    most = _mm512_max_ps(most, v);
  }
  return _mm512_reduce_max_ps(most);
}

// One row: scores to bf16 weights, in place. factor: of a score, to a multiple of ln 2, as `tile`,
// the largest one, is.
inline void weigh_row(Scratch& s, int row, float* x, float factor, float tile) {
  const float top = s.row.top[row], now = tile > top ? tile : top;
  const __m512 base = _mm512_set1_ps(now == -HUGE_VALF ? 0.0f : now);
  const __m512 scale = _mm512_set1_ps(factor);
  __m512 sum = _mm512_setzero_ps();
  for (int k = 0; k < s.tile.keys(); k += kGroup) {
    const __m512 y = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(x + k), scale, base));
    sum = _mm512_add_ps(sum, y);
    store_weights(y, x, k);
  }
  const float decay = top == now ? 1 : _mm512_cvtss_f32(exp2_of(_mm512_set1_ps(top - now)));
  s.decay[row] = decay;
  s.row.sum[row] = s.row.sum[row] * decay + _mm512_reduce_add_ps(sum);
  s.row.top[row] = now;
}

// Some rows at a time: neither the maximum of a row nor its weights wait for the other.
void weights(const AttentionCall& c, Scratch& s) {
  const auto factor = float(double(c.scale) * M_LOG2E);
  for (int from = 0; from < s.rows; from += kGroup) {
    float most[kGroup];
    const int rows = std::min(kGroup, s.rows - from);
    float* x = s.scores + from * c.pitch();
    for (int r = 0; r < rows; ++r) most[r] = most_of_row(s, from + r, x + r * c.pitch()) * factor;
    for (int r = 0; r < rows; ++r) weigh_row(s, from + r, x + r * c.pitch(), factor, most[r]);
  }
}

// Through f32 weights, for logits that are more than products.
void weights_of_logits(const AttentionCall& c, Scratch& s) {
  c.f32_weights(c, s);
  for (int r = 0; r < s.rows; ++r) {
    float* x = s.scores + r * c.pitch();
    for (int k = 0; k < s.tile.keys(); k += kGroup) store_weights(_mm512_loadu_ps(x + k), x, k);
  }
}

void load_query(const void* from, int64_t size, int64_t row, Scratch& s) {
  std::memcpy(reinterpret_cast<uint16_t*>(s.query) + row * size, from, size_t(size) * 2);
}

template <class C>
void set_code(bool amx, MatrixCode& code) {
  code.scores = amx ? scores<C, true> : scores<C, false>;
  code.pack_values = amx ? pack_values<C, true> : pack_values<C, false>;
}

}  // namespace

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

bool bf16_code(const AttentionCall& c, MatrixCode& code) {
  if (c.args.query.dtype != KVOPS_BF16 || !features().bf16_dot) return false;
  const bool plain = c.softcap == 0 && !c.slopes && c.scale > 0 && std::isfinite(c.scale);
  code.tile = c.size <= 128 ? 128 : c.size <= 256 ? 64 : 32;
  code.bf16_weights = true, code.base_2 = plain;
  code.load_query = load_query, code.take_strange = take_strange, code.sums = sums;
  code.weights = plain ? weights : weights_of_logits;
  const auto cached = c.args.key_cache.dtype;
  auto* set = cached == KVOPS_BF16      ? set_code<bf16>
              : cached == KVOPS_F8_E4M3 ? set_code<f8_e4m3>
                                        : set_code<f8_e5m2>;
  set(c.packing.amx, code);
  few_rows_code(c, code);
  return true;
}

}  // namespace kvops::cpu
