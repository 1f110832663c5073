// The plan of cpu_attention_with_kv_cache: how one step's work is cut into units. Made once by
// cpu_attn_get_scheduler_metadata, read by every layer and any number of threads, at any address.
//
//   header   what the plan was made for, totals, a checksum of all that follows it
//   records  one of 64 bytes per request, in the order of work: large units first, by powers of two
//
// A unit is (request, kv head, up to 64 of its query heads, a tile of its queries, a range of
// its keys); all heads of a group share one pass over the keys. Units are not stored: unit(i) finds
// the record by bisection and computes the rest.
//
// With KV split, a request of one tile has a partial result for each range of kv_ranges.h, added up
// in their order. A unit that is a large part of all work is cut at its ranges: the partial results
// stand in the workspace, and a join adds them. Otherwise the unit adds each as it ends: the bits
// are those of a cut one. Nothing here depends on threads or on the cache's dtype and strides.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/view.h"
#include "cpu/kv_ranges.h"
#include "kvcache_ops/cpu.h"

namespace kvops::cpu {

// Rows of a unit, (query, head) pairs: 64 x 128 sums and as many query elements stay in a 64 KiB
// part of L2, and each key is loaded once for all of them. Larger heads have fewer rows.
constexpr int64_t most_rows(int64_t size) { return size <= 144 ? 64 : size <= 288 ? 32 : 16; }
// A short sequence of 8 kv heads still occupies 16 threads.
inline constexpr Ranges kPlanRanges = {256};
// Partial rows that all cut units may have together; bounds the workspace.
inline constexpr int64_t kPartRows = 8192;

// What a plan is made for. Windows as passed, -1: unlimited.
struct AttnShape {
  int64_t reqs, heads, kv_heads, size, dtype, causal, window_left, window_right;

  constexpr int64_t group() const { return kv_heads ? heads / kv_heads : 0; }
  constexpr int64_t heads_per_unit() const { return std::min(group(), most_rows(size)); }
  constexpr int64_t units_per_group() const { return ceil_div(group(), heads_per_unit()); }
  constexpr int64_t lanes() const { return kv_heads * units_per_group(); }  // units of a tile
  friend bool operator==(const AttnShape&, const AttnShape&) = default;
};

struct PlanHeader {
  uint64_t magic, version, checksum;
  AttnShape shape;
  int64_t isa, split;
  int64_t queries;              // of all requests: query_start_loc[reqs]
  int64_t units, joins, parts;  // totals; parts: rows
  double pairs;                 // about: (query, key) pairs of one head
};
static_assert(sizeof(PlanHeader) % 8 == 0);

struct PlanRequest {
  int64_t first_unit, first_join, first_part;  // of the records before
  int64_t request;
  int32_t query, queries;  // rows of the query tensor
  int32_t length;          // keys
  int32_t tile;            // queries of a unit
  int32_t ranges, causal;  // ranges: that units are cut at; 1: they are not cut
  int32_t reserved[2];
};
static_assert(sizeof(PlanRequest) == 64);

// One piece of work, or one join.
struct PlanUnit {
  int64_t request;               // row of block_table
  int64_t kv_head, head, heads;  // query heads [head, head + heads)
  int64_t query, queries;        // rows [query, query + queries) of query and out
  int64_t position;              // of the first of them; the next one's is 1 more
  int64_t length;                // keys of the request
  int64_t left, right;           // keys beside a query's own; causal is in `right`
  Tokens keys;                   // to be read; may be empty
  int64_t range;                 // partial results end at multiples of it
  int64_t ranges;                // of a join
  int64_t part;                  // partial row of (first query, first head), or -1: not cut

  // The keys of query i of the unit, within [0, length); first >= end: none.
  constexpr Tokens keys_of(int64_t i) const {
    const int64_t p = position + i;
    return {std::max<int64_t>(0, p - left), std::min(length, p + right + 1)};
  }
  // Partial row of (query i, head h) of this unit, or of range r of a join.
  constexpr int64_t part_row(int64_t i, int64_t h, int64_t r = 0) const {
    return part + (r * queries + i) * heads + h;
  }
};

// The values that a step's work follows from, and what they may not pass.
struct AttnLengths {
  const int32_t *query_start_loc, *seq_lens, *dynamic_causal;  // the last may be null
  int64_t max_queries = INT64_MAX, max_keys = INT64_MAX;

  // INVALID_ARGUMENT unless query_start_loc ascends from 0 to max_queries at most, lengths are in
  // [0, max_keys], and no request has more queries than keys; but with no keys it may have any.
  kvops_status check(const char* op, int64_t reqs) const;
};

// Bytes of a plan, a function of the number of requests.
int64_t plan_bytes(int64_t reqs);
// `lengths` were checked. `bytes`: plan_bytes(shape.reqs), a multiple of 8.
void make_plan(const AttnShape& shape, int64_t isa, bool split, const AttnLengths& lengths,
               char* bytes);

// A plan that was checked; the bytes must stay as they are.
class Plan {
 public:
  // INVALID_ARGUMENT unless the lengths are valid and `bytes` hold an undamaged plan of this
  // version for them and for this shape.
  kvops_status read(const char* op, const AttnShape& shape, const AttnLengths& lengths,
                    const kvops_tensor& bytes);

  const PlanHeader& header() const { return header_; }
  PlanUnit unit(int64_t i) const;  // 0 <= i < header().units
  PlanUnit join(int64_t i) const;  // 0 <= i < header().joins
  // Units that a thread takes at once: one, unless they are too little work to wake it for.
  int64_t units_per_piece() const;

 private:
  PlanRequest record(int64_t i) const;
  PlanRequest find(int64_t i, int64_t PlanRequest::*first) const;
  bool matches(const AttnLengths& lengths) const;

  PlanHeader header_ = {};
  const char* records_ = nullptr;
};

// Rows of partial results that any plan may have for so many query rows and keys per request.
constexpr int64_t most_part_rows(int64_t query_rows, int64_t keys) {
  if (keys <= kPlanRanges.least || !query_rows) return 0;
  return query_rows > kPartRows ? kPartRows
                                : std::min(kPartRows, query_rows * kPlanRanges.most(keys));
}

}  // namespace kvops::cpu
