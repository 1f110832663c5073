// What paged attention computes before any vector does: which tokens of a sequence take part, in
// which ranges they are cut, and which of them are faults. The same for every instruction set.
//
// A unit of work is (sequence, kv head, up to 64 of its query heads). Its tokens are cut into
// ranges, each with a partial result of its own; partial results are added up in the order of the
// ranges. The cut depends on the number of visible tokens alone, so that neither the rest of the
// batch nor threads nor the workspace can be seen in the bits.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/view.h"
#include "cpu/kv_ranges.h"
#include "kvcache_ops/attention.h"

namespace kvops::cpu {

// The block-sparse pattern for one query head (or kv head, when the step is negative).
struct Keep {
  uint64_t stride = 0, offset = 0;  // stride <= 1: all blocks are kept
  int64_t size = 1, near = 0;       // sparse blocks above `near` are kept, too

  bool operator()(int64_t first_token) const {
    if (stride <= 1) return true;
    int64_t c = first_token / size;
    return (uint64_t(c) + offset) % stride == 0 || c > near;
  }
};

struct Attention {
  const kvops_paged_attention_v1_args& args;
  TensorView<const int32_t, 2> table;
  TensorView<const int32_t, 1> lengths;
  int64_t seqs, heads, kv_heads, group, size, blocks, block;
  int64_t limit;           // of lengths
  int64_t heads_per_unit;  // at most
  int64_t units_per_group;

  explicit Attention(const kvops_paged_attention_v1_args& a);

  int64_t units() const { return kv_heads * units_per_group; }  // of one sequence
  Tokens tokens(int64_t seq) const;
  // The block that holds `token`, or -1 when the table has none there.
  int64_t block_of(int64_t seq, int64_t token) const {
    int64_t b = table(seq, token / block);
    return b >= 0 && b < blocks ? b : -1;
  }
  Keep keep(int64_t head, int64_t end) const;

  // Floats of a state of `heads_per_unit` heads: m, z, and the sums, a multiple of 64 bytes.
  int64_t padded_size() const { return round_up(size, 16); }
  int64_t state_floats() const { return round_up(heads_per_unit * (padded_size() + 2), 16); }
  int64_t workspace_bytes() const;
  // Units that a thread takes at once: one, unless they are too little work to wake it for.
  int64_t units_per_piece() const;
  void count_faults() const;
};

// A sequence that is cut over several threads because its units are a large part of all work.
struct Split {
  int64_t seq, ranges, first_item;  // items: units() * ranges, from first_item on
};
// With two threads, shorter ones are slower: they lose 10 % of a sequence alone.
inline constexpr Ranges kPagedRanges = {512};
// A unit is split when it has more than 1 / kShare of all tokens: so fewer than kShare units are.
inline constexpr int64_t kShare = 128;

struct Splits {
  Split list[kShare];
  int count = 0;
  int64_t items = 0;

  explicit Splits(const Attention& job, bool any);
  const Split* find(int64_t seq) const;
  const Split& of_item(int64_t item) const;
};

}  // namespace kvops::cpu
