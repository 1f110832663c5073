// How cpu_attention_with_kv_cache works on a unit of its plan (attn_plan.h): rows are (query,
// head) pairs that read the same kv head; keys come in tiles, whose bounds depend on the head size
// only:
//
//   scores   [rows][keys]   = query . keys          one product of the matrix code below
//   weights  [rows][keys]   = exp(logit - top)       row by row; 0 where a row does not see a key
//   sums     [rows][size]   = sums * decay + weights . values     a second one
//
// Tile operands are what the matrix code wants: it packs keys and values of any cache dtype and
// packing. A row's bits depend on its own keys alone: not on the rows beside it, nor on how the
// queries were cut. The arithmetic is one of the implementations below; kernels never look at a
// request, a block table or a window.
#pragma once
#include <algorithm>
#include <cmath>

#include "core/view.h"
#include "cpu/ahead.h"
#include "cpu/attn_packing.h"
#include "cpu/attn_plan.h"

namespace kvops::cpu {

using AttentionArgs = kvops_cpu_attention_with_kv_cache_args;

// Keys are addressed in groups of 16, all in one block; `first` to `end` of them exist.
inline constexpr int kGroup = 16, kMostKeys = 128, kMostGroups = kMostKeys / kGroup;
inline constexpr int64_t kMostSize = 576;
inline constexpr int kMostRows = 64;
inline constexpr int64_t kMostRowElements = 9216;  // rows * size
// Rows of scores lie apart by more than the tile's keys: softmax touches whole vectors.
inline constexpr int kSlack = 16;
// Rows of lines that a tile may have: each group's, or 16 elements' of each group.
inline constexpr int kMostAhead = kMostGroups * 16;

struct KeyGroup {
  const char *keys, *values;  // of the (block, head)
  int32_t slot;               // of its first token, in the block
  int32_t first, end;
  int64_t token;
};

// Of a group: bits of the keys that exist, and of the 16-bit elements of words of keys t and t + 1.
struct LiveKeys {
  uint32_t bits;
  explicit LiveKeys(const KeyGroup& g) : bits(((1U << g.end) - 1) & ~((1U << g.first) - 1)) {}
  bool has(int64_t t) const { return bits >> t & 1; }
  uint32_t words(int64_t t) const {
    return (has(t) ? 0x55555555U : 0U) | (has(t + 1) ? 0xAAAAAAAAU : 0U);
  }
};

struct Tile {
  KeyGroup group[kMostGroups];
  int groups;
  bool all;  // every row sees every key
  int keys() const { return groups * kGroup; }
};

// Of each row: the largest logit, and the sum of the weights relative to it.
struct RowState {
  float *top, *sum;
};

// Units of few rows that read the same tokens, of several heads, take turns at each tile, so that
// memory is read in long pieces. Each has a seat; so many of them there are:
inline constexpr int kMostSeats = 8;
// Rows of a unit that are few: beyond, packing a tile once is cheaper.
inline constexpr int kFewRows = 8;
// AMX computes whole tiles of rows, past the last one, unless there is one tile only.
inline constexpr int kTileRows = 16;
inline int64_t seats_for(int64_t rows, int64_t size) {
  if (rows > kTileRows) return 1;
  const int64_t most = std::max<int64_t>(1, rows);
  return std::clamp<int64_t>(std::min(kMostRows / most, kMostRowElements / (most * size)), 1,
                             kMostSeats);
}

// What a unit works on; memory of the thread.
struct alignas(64) Scratch {
  float *sums, *total, *query;  // of the unit whose turn it is; total: of the ranges before
  RowState row, total_row;
  float scores[kMostRows * (kMostKeys + kSlack)];
  float keys[18432];  // a tile of 32 keys of 576 elements, 64 of 256; packed by the matrix code
  float values[18432];
  float behind[kMostKeys + kSlack];  // of one query: key - query, as ALiBi counts
  float decay[kMostRows];
  int32_t first[kMostRows], end[kMostRows];  // columns of the tile that a row sees
  const void *key_words[kMostGroups], *value_words[kMostGroups];  // bf16 operands of the groups
  int64_t value_stride;  // elements from 16 head elements to the next
  Tile tile, next;
  AheadOf<kMostAhead> next_keys, next_values;  // lines of `next`
  // Row r is query r / heads at position + r / heads, head r % heads, from `head` on.
  int rows, heads;
  int64_t position, head;

  alignas(64) float memory[3][kMostRowElements];
  float states[4][kMostRows];
  void take_seat(int64_t seat, int64_t size) {
    const int64_t row_at = seat * rows, at = row_at * size;
    sums = memory[0] + at, total = memory[1] + at, query = memory[2] + at;
    row = {states[0] + row_at, states[1] + row_at};
    total_row = {states[2] + row_at, states[3] + row_at};
  }
};

struct AttentionCall;

// One implementation for one pair of dtypes and one packing.
struct MatrixCode {
  int64_t tile;           // keys of a tile, at this size
  bool bf16_weights;      // weights are bf16, from the begin of each row of scores
  bool base_2;            // `top` is a multiple of ln 2
  int64_t step = kGroup;  // keys of a tile begin and end at multiples of it
  // Around the work on a unit, once its rows are known; may be null.
  void (*begin_unit)(const Scratch& s) = nullptr;
  void (*end_unit)() = nullptr;
  void (*load_query)(const void* from, int64_t size, int64_t row, Scratch& s);
  void (*scores)(const AttentionCall& c, Scratch& s);
  // Scores to weights, decay, and the state of each row.
  void (*weights)(const AttentionCall& c, Scratch& s);
  void (*pack_values)(const AttentionCall& c, Scratch& s);
  // Packed values that are not finite become 0; true if there are any.
  bool (*take_strange)(const AttentionCall& c, Scratch& s);
  void (*sums)(const AttentionCall& c, Scratch& s);
  // The same products for units of few rows, without packed values; null: there are none. They ask
  // for the lines that they will need by themselves.
  void (*few_scores)(const AttentionCall& c, Scratch& s) = nullptr;
  void (*few_sums)(const AttentionCall& c, Scratch& s) = nullptr;
  void (*store_out)(const float* from, float factor, int64_t size, void* to);
};

struct AttentionCall {
  const AttentionArgs& args;
  TensorView<const int32_t, 2> table;
  Plan plan = {};
  Packing packing = {};
  int64_t size = 0, block = 0, blocks = 0;
  int64_t cache_bytes = 0;  // of an element
  float scale = 0;          // of a dot product, k_scale included
  float softcap = 0;
  double value_scale = 1;
  const float* slopes = nullptr;
  MatrixCode code = {};
  void (*f32_weights)(const AttentionCall& c, Scratch& s) = nullptr;

  int64_t pitch() const { return code.tile + kSlack; }
  bool takes_few(const Scratch& s) const { return code.few_scores && s.rows <= kFewRows; }
  // One element of a value, as stored.
  float value(const KeyGroup& g, int64_t t, int64_t d) const;
  double sink(int64_t head) const;  // -inf: none
};

// f32 arithmetic of the chosen instruction set, for all dtypes.
MatrixCode portable_code(const AttentionCall& c);
// Replaces what is faster with products of bf16; false: not for these dtypes, or not on this CPU.
bool bf16_code(const AttentionCall& c, MatrixCode& code);
// Adds what is faster for few rows of a bf16 or fp8 cache.
void few_rows_code(const AttentionCall& c, MatrixCode& code);
// The same with AMX tiles, for caches of the amx packing; fp8 ones stay with the bf16 code.
bool amx_code(const AttentionCall& c, MatrixCode& code);

}  // namespace kvops::cpu
