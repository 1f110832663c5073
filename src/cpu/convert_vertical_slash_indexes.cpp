// convert_vertical_slash_indexes: columns and diagonals of a head -> key blocks and columns of each
// row block. A thread takes some row blocks of one head. Where both lists are in order, which is
// checked, the ranges of the slashes come first: one grows by M as long as the next slash that
// reaches past it does so by at most M, and vectors find that slash. The columns are then the
// pieces of the vertical list between the ranges. Other lists take the steps of the header one by
// one. Integers, exact; 64-bit arithmetic, since a range may end anywhere.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/convert_vertical_slash_indexes.cpp"
#include <hwy/foreach_target.h>

#include "cpu/simd-inl.h"

// Everything that is compiled once only.
#include <algorithm>
#include <atomic>
#include <climits>

#include "cpu/convert_vertical_slash_indexes.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kNone = INT64_MAX;  // after the last vertical

// The lists of one head. Verticals outside [0, keys) are left out already if they are sorted.
struct Lists {
  const int32_t *vertical, *slash;
  int64_t verticals, slashes, keys, faults;
  bool sorted;
};

Lists lists_of(const VerticalSlash& job, int64_t b, int64_t h) {
  const auto valid = [h](const int32_t* counts, int64_t all) {
    return counts ? std::clamp<int64_t>(counts[h], 0, all) : all;
  };
  Lists l = {job.verticals.at(b, h),
             job.slashes.at(b, h),
             valid(job.vertical_counts, job.verticals.shape[2]),
             valid(job.slash_counts, job.slashes.shape[2]),
             job.kv_lengths[b],
             0,
             true};
  int disorder = 0;
  int64_t past = 0;
  for (int64_t i = 1; i < l.verticals; ++i) disorder |= l.vertical[i - 1] > l.vertical[i];
  for (int64_t i = 1; i < l.slashes; ++i) disorder |= l.slash[i - 1] < l.slash[i];
  for (int64_t i = 0; i < l.verticals; ++i) past += l.vertical[i] >= l.keys;
  l.sorted = !disorder, l.faults = past;
  if (l.sorted) {
    const int32_t *begin = l.vertical, *end = begin + l.verticals;
    l.vertical = std::lower_bound(begin, end, 0);
    l.verticals = std::max<int64_t>(0, end - past - l.vertical);
  }
  return l;
}

struct Range {
  int64_t begin, end;
};

// One row block: its first query row, the keys that its last row sees, what has been found.
struct Block {
  const VerticalSlash& job;
  const Lists& l;
  int64_t q, bound;
  int32_t *blocks, *columns;
  int64_t num_blocks = 0, num_columns = 0;

  void column(int64_t v) { columns[num_columns++] = int32_t(v); }
  void add(Range r) {
    const int64_t end = std::min(r.end, l.keys);
    if (r.begin < 0) return;
    for (int64_t x = r.begin; x < end; x += job.n) blocks[num_blocks++] = int32_t(x);
  }
  int64_t reach(int64_t slash) const { return std::max(bound - slash, job.m); }
  Range first(int64_t slash) const {
    const int64_t none = job.causal ? bound : l.keys;
    if (!l.slashes) return {none, none};
    if (slash > bound) return {none, none + job.n};
    return {reach(slash) - job.m, reach(slash)};
  }

  // The steps of the header.
  void walk() {
    int64_t iv = 0, is = 0, s = kNone;
    auto skip = [&] {
      while (iv < l.verticals && !inside(l.vertical[iv])) ++iv;
    };
    auto next = [&] { return skip(), iv < l.verticals ? l.vertical[iv++] : kNone; };
    while (is < l.slashes && s >= bound) s = l.slash[is++];
    int64_t v = next();
    for (Range r = first(s);;) {
      if (v < r.end) {
        if (v < r.begin) column(v);
        v = next();
      } else if (is < l.slashes && (job.causal || l.slash[is] >= q)) {
        const int64_t e = reach(l.slash[is++]);
        if (e > r.end + job.m) {
          add(r);
          r = {e - job.m, e};
        } else if (e > r.end) {
          r.end += job.m;
        }
      } else if (skip(); job.causal || iv == l.verticals) {
        if (!job.causal && v < kNone) column(v);
        return add(r);
      } else {
        add(r);
        r = {l.keys, l.keys + job.n};
        is = l.slashes;
      }
    }
  }
  bool inside(int64_t v) const { return v >= 0 && v < l.keys; }

  // The same for lists in order.
  void merge() {
    const int32_t *s = l.slash, *end = s + l.slashes, *v = l.vertical, *last = v + l.verticals;
    auto below = [](const int32_t* from, const int32_t* to, int64_t limit) {  // the first
      return std::partition_point(from, to, [&](int32_t x) { return x >= limit; });
    };
    s = below(s, end, bound);
    Range r = first(s < end ? *s : l.slashes ? end[-1] : 0);
    if (s < end) ++s;
    if (!job.causal) end = std::max(s, below(l.slash, end, q));
    while ((s = first_below(s, end, bound - r.end)) < end) {
      const int64_t e = bound - *s++;
      if (e > r.end + job.m) {
        v = close(r, v, last);
        r = {e - job.m, e};
      } else {
        r.end += job.m;
      }
    }
    v = close(r, v, last);
    if (!job.causal)
      for (; v < last; ++v) column(*v);
  }

  // A range is complete: the verticals before it are columns, those in it are not. Returns the
  // first one past it.
  const int32_t* close(Range r, const int32_t* v, const int32_t* last) {
    add(r);
    for (; v < last && *v < r.begin; ++v) column(*v);
    while (v < last && *v < r.end) ++v;
    return v;
  }

  // The first of a descending list that is below `limit`.
  static const int32_t* first_below(const int32_t* s, const int32_t* end, int64_t limit) {
    const hn::ScalableTag<int32_t> d;
    const auto lanes = int64_t(hn::Lanes(d));
    if (limit <= INT32_MIN) return end;
    const auto most = hn::Set(d, int32_t(std::min<int64_t>(limit - 1, INT32_MAX)));
    for (; end - s >= lanes; s += lanes) {
      const auto below = hn::Not(hn::Gt(hn::LoadU(d, s), most));
      if (!hn::AllFalse(d, below)) return s + hn::FindFirstTrue(d, below);
    }
    while (s < end && *s >= limit) ++s;
    return s;
  }
};

// Row blocks [begin, end) of one head.
void convert(const VerticalSlash& job, const Lists& l, int64_t b, int64_t h, int64_t begin,
             int64_t end) {
  const int64_t queries = job.q_lengths[b];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t q = r * job.m;
    Block block = {job,
                   l,
                   q,
                   q + job.m + (job.causal ? l.keys - queries : l.keys),
                   job.block_offset.at(b, h, r),
                   job.column_index.at(b, h, r)};
    if (q < queries) l.sorted ? block.merge() : block.walk();
    job.block_count(b, h, r) = int32_t(block.num_blocks);
    job.column_count(b, h, r) = int32_t(block.num_columns);
  }
}

}  // namespace

kvops_status convert_vertical_slash(const VerticalSlash& job) {
  constexpr int64_t kRows =
      32;  // per thread: some us, against which looking at the lists is little
  const int64_t rows = job.rows(), pieces = (rows + kRows - 1) / kRows;
  const int64_t heads = job.heads();
  std::atomic<int64_t> faults = 0;
  const int64_t steps = kRows * (job.verticals.shape[2] + job.slashes.shape[2]) + kRows;
  parallel_for(
      job.batch() * heads * pieces, rows_per_piece(2 * steps), [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          const int64_t b = i / pieces / heads, h = i / pieces % heads, r = i % pieces * kRows;
          const Lists l = lists_of(job, b, h);
          if (!r && job.q_lengths[b] > 0) faults.fetch_add(l.faults, std::memory_order_relaxed);
          convert(job, l, b, h, r, std::min(rows, r + kRows));
        }
      });
  if (faults && job.faults) *job.faults += faults;
  return KVOPS_OK;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {

kvops_status convert_vertical_slash(const VerticalSlash& job) {
  return KVOPS_CPU_CHOSEN(convert_vertical_slash)(job);
}

kvops_status convert_vertical_slash_indexes(const kvops_convert_vertical_slash_indexes_args& a) {
  return convert_vertical_slash(VerticalSlash(a));
}

}  // namespace kvops::cpu
#endif
