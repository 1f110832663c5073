// The matrix code of cpu_attention_with_kv_cache with AMX tiles, for bf16 queries and bf16 caches
// of the amx packing. Softmax is that of the bf16 code, both products are tdpbf16ps:
//
//   scores   a tile of keys    16 keys, 32 elements of each      1 KiB of the cache
//   sums     a tile of values  16 elements of 32 tokens          1 KiB of it, or of masked copies
//
// Groups of keys come in pairs that begin at multiples of 32 tokens: which products are added to
// one another follows from a key's place alone. Sums go on from tile to tile, scaled before where
// the decay of their row is not 1.
#include <immintrin.h>

#include <algorithm>
#include <array>

#include "core/dtype.h"
#include "cpu/cpu_attention.h"
#include "cpu/features.h"

#ifdef __clang__
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,bmi2,avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")
#endif

namespace kvops::cpu {
namespace {

constexpr int kPair = 2 * kGroup;
constexpr int64_t kTileRow = 64, kTileBytes = kTileRows * kTileRow;
constexpr int64_t kFloat = sizeof(float), kWord = sizeof(bf16);

// Tiles: 0 to 3 sums, 4 and 5 rows, 6 and 7 keys or values. Units of few rows have shorter ones.
// Constant memory: the intrinsic tells the compiler of its first bytes only, so that stores into a
// local one would vanish.
struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr auto kConfigs = [] {
  std::array<Config, kTileRows> all = {};
  for (size_t i = 0; i < all.size(); ++i)
    for (int tile = 0; tile < 6; ++tile) all[i].rows[tile] = uint8_t(i + 1);
  return all;
}();

void begin_unit(const Scratch& s) {
  _tile_loadconfig(&kConfigs[size_t(std::clamp(s.rows, 1, kTileRows) - 1)]);
}
void end_unit() { _tile_release(); }

// Asks for a KiB while products run.
inline void ask(const char* p) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kTileBytes; i += 64) _mm_prefetch(p + i, _MM_HINT_T0);
}

// R times 16 rows, V times 16 columns; pitches are bytes.
struct Block {
  const char* rows;
  int64_t row_pitch, steps;  // of 32 products
  char* to;
  int64_t to_pitch;
};

template <int R, int V, class Tile>
inline __attribute__((always_inline)) void step(const char* rows, int64_t pitch, Tile tile) {
  _tile_loadd(4, rows, pitch);
  _tile_loadd(6, tile(0), kTileRow);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, tile(1), kTileRow);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (R == 2) {
    _tile_loadd(5, rows + kTileRows * pitch, pitch);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  } else if constexpr (V == 4) {
    _tile_loadd(6, tile(2), kTileRow);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, tile(3), kTileRow);
    _tile_dpbf16ps(3, 4, 7);
  }
}

// to = rows . tiles, plus `to` unless `fresh`. at(step) gives tile(column) of the second operand.
template <int R, int V, bool fresh, class At>
inline __attribute__((always_inline)) void multiply(const Block& b, At at) {
  static_assert(V == 2 || (R == 1 && V == 4));
  constexpr bool four = R * V == 4;
  char* const to = b.to;
  // Sums 2 and 3: the second 16 rows, or the third and fourth column.
  char* const more = R == 2 ? to + kTileRows * b.to_pitch : to + 2 * kTileRow;
  asm volatile("" ::: "memory");  // tile loads are not known to read memory
  if constexpr (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, to, b.to_pitch);
    _tile_loadd(1, to + kTileRow, b.to_pitch);
    if (four) _tile_loadd(2, more, b.to_pitch);
    if (four) _tile_loadd(3, more + kTileRow, b.to_pitch);
  }
  const char* rows = b.rows;
  for (int64_t i = 0; i < b.steps; ++i, rows += kTileRow) step<R, V>(rows, b.row_pitch, at(i));
  _tile_stored(0, to, b.to_pitch);
  _tile_stored(1, to + kTileRow, b.to_pitch);
  if (four) _tile_stored(2, more, b.to_pitch);
  if (four) _tile_stored(3, more + kTileRow, b.to_pitch);
  asm volatile("" ::: "memory");
}

// block<R, V>(row, column) for all rows and `columns` times 16 columns, an even number. Rows past
// the last one are computed, too, from what the scratch holds. One pass over rows per column, so
// that its keys or values stay in L1.
template <class F>
void for_blocks(int rows, int columns, F&& block) {
  int v = 0;
  for (; rows <= kTileRows && v + 4 <= columns; v += 4) block.template operator()<1, 4>(0, v);
  for (; v < columns; v += 2)
    for (int r = 0; r < rows; r += 2 * kTileRows)
      if (rows - r > kTileRows)
        block.template operator()<2, 2>(r, v);
      else
        block.template operator()<1, 2>(r, v);
}

// ---- scores ------------------------------------------------------------------------------------

const char* keys_of(const AttentionCall& c, const KeyGroup& g) {
  return g.keys + c.packing.key(g.slot, 0) * kWord;
}
const char* values_of(const AttentionCall& c, const KeyGroup& g) {
  return g.values + c.packing.value(g.slot, 0) * kWord;
}

void scores(const AttentionCall& c, Scratch& s) {
  const int64_t pitch = c.size * kWord, strip = c.block * kGroup * kWord;
  for (int g = 0; g < s.tile.groups; ++g) s.key_words[g] = keys_of(c, s.tile.group[g]);
  for_blocks(s.rows, s.tile.groups, [&]<int R, int V>(int row, int group) {
    const char *keys[V], *values[V / 2];
    for (int v = 0; v < V; ++v) keys[v] = static_cast<const char*>(s.key_words[group + v]);
    for (int v = 0; v < V / 2; ++v) values[v] = values_of(c, s.tile.group[group + 2 * v]);
    const Block block = {
        reinterpret_cast<const char*>(s.query) + row * pitch, pitch, c.size / kPair,
        reinterpret_cast<char*>(s.scores + row * c.pitch() + group * int64_t{kGroup}),
        c.pitch() * kFloat};
    multiply<R, V, true>(
        block, [&](int64_t i) __attribute__((always_inline)) {
          for (int v = 0; row == 0 && v < V / 2; ++v)
            ask(values[v] + 2 * i * strip), ask(values[v] + (2 * i + 1) * strip);
          return [&keys, i](int v) { return keys[v] + i * kTileBytes; };
        });
  });
}

// ---- sums --------------------------------------------------------------------------------------

// In place where all of it is multiplied anyway, else copies: [pair][size/16] tiles.
void pack_values(const AttentionCall& c, Scratch& s) {
  s.value_stride = s.tile.all ? kGroup * c.block : kTileBytes / kWord;
  for (int g = 0; g < s.tile.groups; ++g) {
    const auto& from = s.tile.group[g];
    const char* p = values_of(c, from);
    s.value_words[g] = p;
    if (s.tile.all) continue;
    char* to = reinterpret_cast<char*>(s.values) + int64_t{g / 2} * kPair * c.size * kWord;
    to += g % 2 * (kTileBytes / 2);
    s.value_words[g] = to;
    const LiveKeys live(from);
    for (int64_t i = 0; i < c.size; i += kGroup, p += c.block * kGroup * kWord, to += kTileBytes)
      for (int t = 0; t < kGroup; t += 2) {
        const __m512i words = _mm512_maskz_loadu_epi16(live.words(t), p + t / 2 * kTileRow);
        _mm512_storeu_si512(to + t / 2 * kTileRow, words);
      }
  }
}

void scale_sums(const AttentionCall& c, Scratch& s) {
  for (int r = 0; r < s.rows; ++r) {
    if (s.decay[r] == 1.0f) continue;
    const __m512 decay = _mm512_set1_ps(s.decay[r]);
    float* to = s.sums + r * c.size;
    for (int64_t d = 0; d < c.size; d += 16)
      _mm512_storeu_ps(to + d, _mm512_mul_ps(_mm512_loadu_ps(to + d), decay));
  }
}

void sums(const AttentionCall& c, Scratch& s) {
  scale_sums(c, s);
  const char* next[kMostGroups];
  for (int g = 0; g < s.next.groups; ++g) next[g] = keys_of(c, s.next.group[g]);
  const int64_t strip = s.value_stride * kWord;
  for_blocks(s.rows, int(c.size / kGroup), [&]<int R, int V>(int row, int column) {
    const Block block = {reinterpret_cast<const char*>(s.scores + row * c.pitch()),
                         c.pitch() * kFloat, s.tile.groups / 2,
                         reinterpret_cast<char*>(s.sums + row * c.size + column * int64_t{kGroup}),
                         c.size * kFloat};
    multiply<R, V, false>(
        block, [&](int64_t i) __attribute__((always_inline)) {
          for (int64_t v = column / 2; row == 0 && 2 * i < s.next.groups && v < (column + V) / 2;
               ++v)
            ask(next[2 * i] + v * kTileBytes), ask(next[2 * i + 1] + v * kTileBytes);
          const char* values = static_cast<const char*>(s.value_words[2 * i]) + column * strip;
          return [values, strip](int v) { return values + v * strip; };
        });
  });
}

}  // namespace

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

bool amx_code(const AttentionCall& c, MatrixCode& code) {
  const bool tiles = c.packing.amx && c.args.key_cache.dtype == KVOPS_BF16 && features().amx_bf16;
  if (!tiles || !bf16_code(c, code)) return false;
  code.step = kPair;
  code.begin_unit = begin_unit, code.end_unit = end_unit;
  code.few_scores = nullptr, code.few_sums = nullptr;  // tiles of few rows are short
  code.scores = scores, code.pack_values = pack_values, code.sums = sums;
  return true;
}

}  // namespace kvops::cpu
