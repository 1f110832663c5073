// Making, checking and reading plans; see attn_plan.h. O(requests), no memory but the plan's.
#include "cpu/attn_plan.h"

#include <bit>
#include <cstring>

#include "core/error.h"
#include "cpu/parallel.h"

namespace kvops::cpu {
namespace {

constexpr uint64_t kMagic = 0x4E414C5073706F6Bu, kVersion = 1;  // "kopsPLAN"
// A unit with more than this part of all work is cut.
constexpr double kShare = 1.0 / 128;

// The window beside a query's own key, in at most 33 bits.
constexpr int64_t reach(int64_t window) {
  constexpr int64_t kAll = int64_t{1} << 32;
  return window < 0 ? kAll : std::min(window, kAll);
}

PlanRequest request_of(const AttnShape& s, const AttnLengths& l, int64_t r) {
  PlanRequest p = {};
  p.request = r;
  p.query = l.query_start_loc[r];
  p.queries = l.query_start_loc[r + 1] - p.query;
  p.length = l.seq_lens[r];
  p.causal = l.dynamic_causal ? l.dynamic_causal[r] != 0 : s.causal != 0;
  // Tiles of about equal size.
  const int64_t most = most_rows(s.size) / std::max<int64_t>(1, s.heads_per_unit());
  const int64_t tiles = ceil_div(p.queries, most);
  p.tile = int32_t(tiles ? ceil_div(p.queries, tiles) : 1);
  p.ranges = 1;
  return p;
}

// Keys that any of queries [first, first + n) sees.
Tokens visible(const AttnShape& s, const PlanRequest& p, int64_t first, int64_t n) {
  const int64_t position = int64_t{p.length} - p.queries + first;
  const int64_t left = reach(s.window_left), right = p.causal ? 0 : reach(s.window_right);
  const Tokens t = {std::max<int64_t>(0, position - left),
                    std::min<int64_t>(p.length, position + n - 1 + right + 1)};
  return t.count() > 0 ? t : Tokens{0, 0};
}

int64_t tiles_of(const PlanRequest& p) { return ceil_div(p.queries, p.tile); }
int64_t units_of(const AttnShape& s, const PlanRequest& p) {
  return tiles_of(p) * p.ranges * s.lanes();
}
int64_t joins_of(const AttnShape& s, const PlanRequest& p) { return p.ranges > 1 ? s.lanes() : 0; }
int64_t parts_of(const AttnShape& s, const PlanRequest& p) {
  return p.ranges > 1 ? s.heads * p.queries * p.ranges : 0;
}

// Pairs of a query and a key in the last and largest unit.
int64_t largest_unit(const AttnShape& s, const PlanRequest& p) {
  const int64_t n = std::min(p.queries, p.tile);
  return n * visible(s, p, p.queries - n, n).count();
}
double pairs_of(const AttnShape& s, const PlanRequest& p) {
  return double(p.queries) * double(visible(s, p, 0, p.queries).count());
}

// Ranges that the units of p are cut at when `parts` rows are taken already.
int32_t cuts(const PlanHeader& h, const PlanRequest& p) {
  const double all = h.pairs * double(h.shape.lanes());
  if (!h.split || tiles_of(p) != 1 || pairs_of(h.shape, p) <= all * kShare) return 1;
  const int64_t ranges = kPlanRanges.count(visible(h.shape, p, 0, p.queries));
  const int64_t rows = h.shape.heads * p.queries;
  return ranges > 1 && rows <= (kPartRows - h.parts) / ranges ? int32_t(ranges) : 1;
}

// Of all bytes after the checksum itself.
uint64_t checksum(const char* plan, int64_t bytes) {
  uint64_t sum = 0xCBF29CE484222325u;
  const int64_t first = int64_t(offsetof(PlanHeader, checksum) + sizeof sum);
  for (int64_t i = first; i < bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, plan + i, sizeof word);
    sum = std::rotl((sum ^ word) * 0x9E3779B97F4A7C15u, 29);
  }
  return sum;
}

void place(const PlanRequest& p, int64_t at, char* records) {
  std::memcpy(records + at * int64_t(sizeof p), &p, sizeof p);
}

}  // namespace

int64_t plan_bytes(int64_t reqs) {
  int64_t bytes;
  if (__builtin_mul_overflow(reqs, int64_t(sizeof(PlanRequest)), &bytes) ||
      __builtin_add_overflow(bytes, int64_t(sizeof(PlanHeader)), &bytes))
    return INT64_MAX;
  return bytes;
}

kvops_status AttnLengths::check(const char* op, int64_t reqs) const {
  constexpr auto kBad = KVOPS_INVALID_ARGUMENT;
  if (query_start_loc[0])
    return fail_at(0, kBad, op, "query_start_loc", "element 0 is %d, expected 0",
                   query_start_loc[0]);
  for (int64_t r = 0; r < reqs; ++r) {
    const int64_t begin = query_start_loc[r], end = query_start_loc[r + 1], length = seq_lens[r];
    auto bad = [&](int64_t i, const char* name, int64_t seen, const char* text, int64_t bound) {
      return fail_at(i, kBad, op, name, "element %lld is %lld, expected %s %lld", (long long)i,
                     (long long)seen, text, (long long)bound);
    };
    if (end < begin) return bad(r + 1, "query_start_loc", end, "at least", begin);
    if (end > max_queries) return bad(r + 1, "query_start_loc", end, "at most", max_queries);
    if (length < 0) return bad(r, "seq_lens", length, "at least", 0);
    if (length > max_keys) return bad(r, "seq_lens", length, "at most", max_keys);
    if (length && end - begin > length)
      return bad(r, "seq_lens", length, "0 or at least", end - begin);
  }
  return KVOPS_OK;
}

void make_plan(const AttnShape& shape, int64_t isa, bool split, const AttnLengths& lengths,
               char* bytes) {
  PlanHeader h = {};
  h.magic = kMagic, h.version = kVersion, h.shape = shape, h.isa = isa, h.split = split;
  h.queries = lengths.query_start_loc[shape.reqs];
  char* records = bytes + sizeof h;
  // Large units first, by the number of bits of their work.
  auto magnitude = [&](const PlanRequest& p) {
    return 63 - int(std::bit_width(uint64_t(largest_unit(shape, p))));
  };
  int64_t place_of[64] = {};
  for (int64_t r = 0; r < shape.reqs; ++r) {
    const auto p = request_of(shape, lengths, r);
    h.pairs += pairs_of(shape, p);
    const int m = magnitude(p);
    if (m < 63) ++place_of[m + 1];
  }
  for (int i = 1; i < 64; ++i) place_of[i] += place_of[i - 1];
  for (int64_t r = 0; r < shape.reqs; ++r) {
    const auto p = request_of(shape, lengths, r);
    place(p, place_of[magnitude(p)]++, records);
  }
  for (int64_t i = 0; i < shape.reqs; ++i) {
    PlanRequest p;
    std::memcpy(&p, records + i * int64_t(sizeof p), sizeof p);
    p.ranges = cuts(h, p);
    p.first_unit = h.units, p.first_join = h.joins, p.first_part = h.parts;
    place(p, i, records);
    h.units += units_of(shape, p), h.joins += joins_of(shape, p), h.parts += parts_of(shape, p);
  }
  std::memcpy(bytes, &h, sizeof h);
  h.checksum = checksum(bytes, plan_bytes(shape.reqs));
  std::memcpy(bytes, &h, sizeof h);
}

PlanRequest Plan::record(int64_t i) const {
  PlanRequest p;
  std::memcpy(&p, records_ + i * int64_t(sizeof p), sizeof p);
  return p;
}

kvops_status Plan::read(const char* op, const AttnShape& shape, const AttnLengths& lengths,
                        const kvops_tensor& bytes) {
  if (auto s = lengths.check(op, shape.reqs)) return s;
  const auto* data = static_cast<const char*>(bytes.data);
  auto bad = [&](const char* text) {
    return fail(KVOPS_INVALID_ARGUMENT, op, "scheduler_metadata", "%s", text);
  };
  const int64_t need = plan_bytes(shape.reqs);
  if (bytes.shape[0] < int64_t(sizeof header_)) return bad("is too short for a plan");
  std::memcpy(&header_, data, sizeof header_);
  if (header_.magic != kMagic || header_.version != kVersion)
    return bad("is no plan of this version of the library");
  if (header_.shape != shape)
    return bad("was planned for other requests, heads, sizes, dtypes, windows or causality");
  if (bytes.shape[0] < need || header_.checksum != checksum(data, need)) return bad("is damaged");
  records_ = data + sizeof header_;
  return matches(lengths) ? KVOPS_OK : bad("was planned for other lengths");
}

// What the records say is what the lengths say, and they follow each other without a gap.
bool Plan::matches(const AttnLengths& lengths) const {
  auto& h = header_;
  int64_t units = 0, joins = 0, parts = 0;
  for (int64_t i = 0; i < h.shape.reqs; ++i) {
    const auto p = record(i);
    if (p.request < 0 || p.request >= h.shape.reqs) return false;
    auto want = request_of(h.shape, lengths, p.request);
    if (p.ranges != 1)
      want.ranges = int32_t(kPlanRanges.count(visible(h.shape, want, 0, want.queries)));
    want.first_unit = units, want.first_join = joins, want.first_part = parts;
    if (std::memcmp(&p, &want, sizeof p) != 0) return false;
    units += units_of(h.shape, p), joins += joins_of(h.shape, p), parts += parts_of(h.shape, p);
  }
  return h.units == units && h.joins == joins && h.parts == parts && parts <= kPartRows;
}

// The record that item i, counted by `first`, belongs to.
PlanRequest Plan::find(int64_t i, int64_t PlanRequest::*first) const {
  int64_t low = 0, high = header_.shape.reqs;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (record(middle).*first <= i ? low : high) = middle;
  }
  return record(low);
}

namespace {

// Lane: kv head and part of its group. Without the keys.
PlanUnit unit_of(const PlanHeader& h, const PlanRequest& p, int64_t lane, int64_t tile) {
  auto& s = h.shape;
  const int64_t skipped = lane % s.units_per_group() * s.heads_per_unit();
  PlanUnit u = {};
  u.request = p.request;
  u.kv_head = lane / s.units_per_group();
  u.head = u.kv_head * s.group() + skipped;
  u.heads = std::min(s.heads_per_unit(), s.group() - skipped);
  u.query = int64_t{p.query} + tile * p.tile;
  u.queries = std::min<int64_t>(p.tile, p.queries - tile * p.tile);
  u.position = int64_t{p.length} - p.queries + tile * p.tile;
  u.length = p.length;
  u.left = reach(s.window_left), u.right = p.causal ? 0 : reach(s.window_right);
  u.keys = visible(s, p, tile * p.tile, u.queries);
  u.range = h.split && tiles_of(p) == 1 ? kPlanRanges.size(u.keys) : int64_t{1} << 32;
  u.ranges = p.ranges;
  u.part = p.ranges > 1 ? p.first_part + u.head * p.queries * p.ranges : -1;
  return u;
}

}  // namespace

PlanUnit Plan::unit(int64_t i) const {
  const auto p = find(i, &PlanRequest::first_unit);
  i -= p.first_unit;
  // Of one tile, the heads' units of the same keys follow each other; of several, those of a head,
  // and of causal tiles the last has the most keys and comes first.
  const int64_t tiles = tiles_of(p), lanes = header_.shape.lanes();
  const int64_t lane = tiles == 1 ? i % lanes : i / tiles;
  const int64_t r = tiles == 1 ? i / lanes : 0, tile = tiles - 1 - i % tiles;
  auto u = unit_of(header_, p, lane, tile);
  if (p.ranges > 1) u.part = u.part_row(0, 0, r), u.keys = kPlanRanges.part(u.keys, r);
  return u;
}

PlanUnit Plan::join(int64_t i) const {
  const auto p = find(i, &PlanRequest::first_join);
  return unit_of(header_, p, i - p.first_join, 0);
}

int64_t Plan::units_per_piece() const {
  auto& h = header_;
  const double pairs = h.pairs * double(h.shape.heads) / double(std::max<int64_t>(1, h.units));
  return rows_per_piece(int64_t(std::min(pairs * 8 * double(h.shape.size), 1e15)));
}

}  // namespace kvops::cpu
