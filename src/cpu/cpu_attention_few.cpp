// The products of cpu_attention_with_kv_cache's bf16 code for units of few rows (decoding), from a
// cache of bf16 or fp8 in place: packing a tile would cost more than its products. A word is a
// pair, as in cpu_attention_bf16.cpp, made where it is used, two vectors at a time:
//
//   keys    elements d and d + 1 of 32 tokens    scores += query pair * word
//   values  32 elements of tokens t and t + 1    sums   += weight pair * word
//
// The amx packing has words; of the VEC packing bf16 is interleaved within 16 bytes, and what is
// summed put in order at the end. fp8 is looked up by bytes, low and high halves of a bf16. Sums
// are the chains of the packed code, bit for bit. Scores ask for the lines of the tile's values,
// sums for those of the next tile's keys, as many as they read, from a block's first byte on.
#include <immintrin.h>

#include <cstring>

#include "cpu/convert.h"
#include "cpu/cpu_attention.h"
#include "cpu/features.h"

#ifdef __clang__
#pragma clang attribute push(                                                                     \
    __attribute__((target("avx2,fma,bmi2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512" \
                          "bf16,avx512vbmi"))),                                                   \
    apply_to = function)
#else
// GCC 12's own intrinsics pass on values that they leave undefined on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target( \
    "avx2,fma,bmi2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16,avx512vbmi")
#endif

namespace kvops::cpu {
namespace {

constexpr int64_t kPair = int64_t{2} * kGroup;  // tokens, or elements, of two vectors of words

inline __m256i codes_at(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// words(a, b, to): to[0] and to[1] from 32 elements of a and of b. VEC: a and b are rows, a word is
// an element of each; AMX: a is the words of to[0], b those of to[1].
template <class C, bool amx>
struct Words;

template <bool amx>
struct Words<bf16, amx> {
  explicit Words(kvops_dtype) {}
  void operator()(const bf16* a, const bf16* b, __m512i* to) const {
    const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    to[0] = amx ? x : _mm512_unpacklo_epi16(x, y);
    to[1] = amx ? y : _mm512_unpackhi_epi16(x, y);
  }
  // Sums of words to those of elements 0 to 15 and 16 to 31.
  static void order(__m512& low, __m512& high) {
    if constexpr (amx) return;
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    const __m512 a = low, b = high;
    low = _mm512_permutex2var_ps(a, first, b), high = _mm512_permutex2var_ps(a, second, b);
  }
};

// Codes of fp8: the bytes of the bf16 of the 128 without sign. Codes are put where the words come
// out in order.
template <bool amx>
struct Words<uint8_t, amx> {
  __m512i low[2], high[2], places;

  explicit Words(kvops_dtype dtype) {
    alignas(64) uint8_t bytes[2][128], index[64];
    for (int i = 0; i < 128; ++i) {
      const auto code = uint8_t(i);
      const float value =
          dtype == KVOPS_F8_E4M3 ? to_float(f8_e4m3{code}) : to_float(f8_e5m2{code});
      const uint16_t bits = from_float<bf16>(value).bits;
      bytes[0][i] = uint8_t(bits), bytes[1][i] = uint8_t(bits >> 8);
    }
    for (int64_t i = 0; i < 2; ++i) {
      low[i] = _mm512_load_si512(bytes[0] + 64 * i), high[i] = _mm512_load_si512(bytes[1] + 64 * i);
    }
    // Of each 16 bytes the lower half becomes 4 words of to[0], the upper one of to[1].
    for (int i = 0; i < 64; ++i) {
      const int half = i % 16 / 8, word = i / 16 * 4 + i % 8 / 2;
      index[i] = uint8_t(amx ? half * 32 + word * 2 + i % 2 : half * 16 + word + i % 2 * 32);
    }
    places = _mm512_load_si512(index);
  }
  void operator()(const uint8_t* a, const uint8_t* b, __m512i* to) const {
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(codes_at(a)), codes_at(b), 1);
    const __m512i codes = _mm512_permutexvar_epi8(places, both);
    const __m512i x = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    const __m512i y = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    // y | (codes & 128)
    const __m512i z = _mm512_ternarylogic_epi32(y, codes, _mm512_set1_epi8(char(0x80)), 0xF8);
    to[0] = _mm512_unpacklo_epi8(x, z);
    to[1] = _mm512_unpackhi_epi8(x, z);
  }
  static void order(__m512&, __m512&) {}
};

// Where words lie, in elements: the operands of Words and those of the next pair of elements (keys)
// or of tokens (values) are apart and step; 32 elements further are `more`.
struct Lie {
  int64_t apart, step, more;
};
template <bool amx>
Lie keys_lie(const AttentionCall& c) {
  return amx ? Lie{kGroup * c.size, kPair, 0} : Lie{c.block, 2 * c.block, 0};
}
template <bool amx>
Lie values_lie(const AttentionCall& c) {
  return amx ? Lie{kGroup * c.block, kPair, kPair * c.block} : Lie{c.size, 2 * c.size, kPair};
}

inline __m512bh twice(const uint16_t* p) {
  int32_t both;
  std::memcpy(&both, p, sizeof both);
  return (__m512bh)_mm512_set1_epi32(both);
}

// The part of a block that stands for a group, where blocks are asked for from end to end.
inline const char* part_of(const AttentionCall& c, const char* block, const KeyGroup& g) {
  return block + g.slot * c.size * c.cache_bytes;
}
inline void ask(const char* p, int lines) {
  for (int i = 0; i < lines; ++i) _mm_prefetch(p + int64_t{64} * i, _MM_HINT_T0);
}

// R rows and P pairs of groups, from row and group on.
template <class C, bool amx, int R, int P>
void score_block(const AttentionCall& c, Scratch& s, const Words<C, amx>& words, int row,
                 int group) {
  const auto* q = reinterpret_cast<const uint16_t*>(s.query) + row * c.size;
  const Lie lie = keys_lie<amx>(c);
  const C* k[P];
  __m512 sum[R][2 * P];
  for (int p = 0; p < P; ++p) {
    const auto& g = s.tile.group[group + 2 * p];
    k[p] = reinterpret_cast<const C*>(g.keys) + c.packing.key(g.slot, 0);
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 2 * P; ++j) sum[r][j] = _mm512_setzero_ps();
  // The values of one pair after those of the other, as many bytes as the keys.
  for (int half = 0; half < P; ++half) {
    const auto& g = s.tile.group[group + 2 * half];
    const char* ahead = part_of(c, g.values, g);
    constexpr int kLines = P * int(sizeof(C));
    const int64_t turns = c.size / (int64_t{2} * P);
    for (int64_t i = 0; i < turns; ++i, q += 2, ahead += int64_t{64} * kLines) {
      __m512i w[2 * P];
      for (int p = 0; p < P; ++p, k[p - 1] += lie.step) words(k[p], k[p] + lie.apart, w + 2 * p);
      ask(ahead, kLines);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512bh a = twice(q + r * c.size);
#pragma GCC unroll 4
        for (int j = 0; j < 2 * P; ++j) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], a, (__m512bh)w[j]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    float* to = s.scores + (row + r) * c.pitch() + group * int64_t{kGroup};
    for (int j = 0; j < 2 * P; j += 2) {
      Words<C, amx>::order(sum[r][j], sum[r][j + 1]);
      _mm512_storeu_ps(to + int64_t{j} * kGroup, sum[r][j]);
      _mm512_storeu_ps(to + int64_t{j + 1} * kGroup, sum[r][j + 1]);
    }
  }
}

// The part of the next tile's keys that sums over a group of E times 32 elements ask for: as many
// bytes as the values at hand. Block after block, each read from its first byte to its last.
template <class C, int E>
const char* next_keys(const AttentionCall& c, const Scratch& s, int group, int64_t d) {
  const int64_t part = (d * s.tile.groups + group * kPair * E) * kGroup * int64_t(sizeof(C));
  const int64_t group_bytes = kGroup * c.size * int64_t(sizeof(C));
  const auto n = int(part / group_bytes);
  if (n >= s.next.groups) return reinterpret_cast<const char*>(&s);
  const auto& g = s.next.group[n];
  return part_of(c, g.keys, g) + part % group_bytes;
}

// R rows and E times 32 elements, from row and element d on.
template <class C, bool amx, int R, int E>
void sum_block(const AttentionCall& c, Scratch& s, const Words<C, amx>& words, int row, int64_t d) {
  constexpr int kLines = E * int(sizeof(C));
  const Lie lie = values_lie<amx>(c);
  const int64_t pitch = 2 * c.pitch();
  const auto* weights = reinterpret_cast<const uint16_t*>(s.scores + row * c.pitch());
  __m512 sum[R][2 * E];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 2 * E; ++j) sum[r][j] = _mm512_setzero_ps();
  for (int g = 0; g < s.tile.groups; ++g, weights += kGroup) {
    const auto& group = s.tile.group[g];
    const C* p = reinterpret_cast<const C*>(group.values) + c.packing.value(group.slot, d);
    const LiveKeys live(group);
    const bool all = live.bits == 0xFFFF;
    const char* ahead = next_keys<C, E>(c, s, g, d);
    for (int t = 0; t < kGroup; t += 2, p += lie.step) {
      __m512i w[2 * E];
      for (int e = 0; e < E; ++e) {
        const C* at = p + lie.more * e;
        words(at, at + lie.apart, w + 2 * e);
      }
      // What is there but not in the sequence must not be multiplied, not even by 0.
      if (!all) [[unlikely]]
        for (auto& x : w) x = _mm512_maskz_mov_epi16(live.words(t), x);
      ask(ahead, kLines);
      ahead += int64_t{64} * kLines;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512bh a = twice(weights + r * pitch + t);
#pragma GCC unroll 4
        for (int j = 0; j < 2 * E; ++j) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], a, (__m512bh)w[j]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const __m512 decay = _mm512_set1_ps(s.decay[row + r]);
    float* to = s.sums + (row + r) * c.size + d;
    for (int j = 0; j < 2 * E; j += 2) {
      Words<C, amx>::order(sum[r][j], sum[r][j + 1]);
      for (int k = j; k < j + 2; ++k) {
        float* at = to + int64_t{k} * kGroup;
        _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_loadu_ps(at), decay, sum[r][k]));
      }
    }
  }
}

// block<R>(row) for all rows, some at a time: 4 x 4 sums of 32 registers.
template <class F>
void for_rows(int rows, F&& block) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) block.template operator()<4>(r);
  if (rows - r == 3) return block.template operator()<3>(r);
  if (rows - r == 2) return block.template operator()<2>(r);
  if (rows - r == 1) return block.template operator()<1>(r);
}

template <class C, bool amx>
void scores(const AttentionCall& c, Scratch& s) {
  const Words<C, amx> words(c.args.key_cache.dtype);
  int g = 0;
  for (; g + 4 <= s.tile.groups; g += 4)
    for_rows(s.rows, [&]<int R>(int r) { score_block<C, amx, R, 2>(c, s, words, r, g); });
  if (g < s.tile.groups)
    for_rows(s.rows, [&]<int R>(int r) { score_block<C, amx, R, 1>(c, s, words, r, g); });
}

template <class C, bool amx>
void sums(const AttentionCall& c, Scratch& s) {
  const Words<C, amx> words(c.args.key_cache.dtype);
  int64_t d = 0;
  for (; d + 2 * kPair <= c.size; d += 2 * kPair)
    for_rows(s.rows, [&]<int R>(int r) { sum_block<C, amx, R, 2>(c, s, words, r, d); });
  if (d < c.size)
    for_rows(s.rows, [&]<int R>(int r) { sum_block<C, amx, R, 1>(c, s, words, r, d); });
}

}  // namespace

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

void few_rows_code(const AttentionCall& c, MatrixCode& code) {
  if (c.block % kPair || c.size % kPair || !features().byte_permutes) return;
  code.step = kPair;
  auto set = [&]<class C, bool amx>() {
    code.few_scores = scores<C, amx>, code.few_sums = sums<C, amx>;
  };
  auto set_packing = [&]<class C>() {
    c.packing.amx ? set.template operator()<C, true>() : set.template operator()<C, false>();
  };
  c.cache_bytes == 2 ? set_packing.template operator()<bf16>()
                     : set_packing.template operator()<uint8_t>();
}

}  // namespace kvops::cpu
