// The walk that all gathers share: row t of a result belongs to request b and is read from page
// pos / block of b's line in a block table, slot pos % block.
//
//   rows       | .. | b: .......|...............|..... | b+1: ....      pos = t - starts[b] + first
//   pages           |   column  |   column + 1  |                       of the request
//
// Work is cut by rows, so that one long request keeps all threads busy.
#pragma once
#include <algorithm>
#include <atomic>

#include "core/view.h"
#include "cpu/parallel.h"

namespace kvops::cpu {

struct GatherMap {
  const int32_t* starts;      // first row of each request
  const int32_t* seq_starts;  // position of that row in the request; nullptr: 0
  TensorView<const int32_t, 2> table;
  int64_t batch, blocks, block;
  int64_t first, rows;  // rows [first, rows) have an owner
  bool zero_invalid;

  // The last request that begins at or before row t >= first. Where starts decrease, bisection
  // still ends between one that does and one, or the end, that does not.
  int64_t owner(int64_t t) const {
    return std::upper_bound(starts + 1, starts + batch, t) - starts - 1;
  }
  int64_t position(int64_t t, int64_t b) const {
    return t - starts[b] + (seq_starts ? seq_starts[b] : 0);
  }
  int64_t block_of(int64_t b, int64_t page) const {
    return page >= 0 && page < table.shape[1] ? *table.at(b, page) : -1;
  }
};

// Args: those of a gather. starts: [batch + 1] with the end of the last request, or without, when
// that one owns all rows to the last.
template <class Args>
GatherMap gather_map(const Args& a, const kvops_tensor& starts, bool with_end, int64_t out_rows) {
  GatherMap m = {};
  m.starts = static_cast<const int32_t*>(starts.data);
  m.seq_starts = static_cast<const int32_t*>(a.seq_starts.data);
  m.table = view<const int32_t, 2>(a.block_table);
  m.batch = a.block_table.shape[0];
  m.blocks = a.kv_cache.shape[1] ? a.kv_cache.shape[0] : 0;
  m.block = std::max<int64_t>(a.kv_cache.shape[1], 1);
  m.rows = with_end ? std::clamp<int64_t>(m.starts[m.batch], 0, out_rows) : out_rows;
  m.first = std::clamp<int64_t>(m.starts[0], 0, m.rows);
  m.zero_invalid = a.zero_invalid != 0;
  return m;
}

// Calls read(t, b, o, n) for runs of n rows t, t + 1, ... that come from slots o, o + 1, ... of
// block b, and, if asked for, zero(t, n) for runs that come from nowhere: *faults (may be absent)
// grows by the number of their pages. Every piece of work ends with finish(). row_bytes: moved per
// row, decides how the work is cut.
template <class Read, class Zero, class Finish>
void for_each_page(const GatherMap& m, int64_t row_bytes, const kvops_tensor& faults, Read&& read,
                   Zero&& zero, Finish&& finish) {
  std::atomic<int64_t> bad = 0;
  parallel_for(m.rows - m.first, rows_per_piece(row_bytes), [&](int64_t begin, int64_t end) {
    begin += m.first, end += m.first;
    int64_t skipped = 0;
    for (int64_t t = begin, b = m.owner(t); t < end; ++b) {
      const int64_t next = b + 1 < m.batch ? m.starts[b + 1] : end, last = std::min(next, end);
      if (t >= last) continue;
      const int64_t pos = m.position(t, b), from = std::max<int64_t>(m.starts[b], 0);
      int64_t page = pos / m.block, o = pos % m.block, n;
      if (o < 0) o += m.block, --page;
      for (; t < last; t += n, ++page, o = 0) {
        n = std::min(m.block - o, last - t);
        const int64_t block = m.block_of(b, page);
        if (block >= 0 && block < m.blocks) {
          read(t, block, o, n);
          continue;
        }
        skipped += o == 0 || t == from;  // where the page begins, not where a piece does
        if (m.zero_invalid) zero(t, n);
      }
    }
    finish();
    if (skipped) bad.fetch_add(skipped, std::memory_order_relaxed);
  });
  if (bad && present(faults)) *static_cast<int64_t*>(faults.data) += bad;
}

}  // namespace kvops::cpu
