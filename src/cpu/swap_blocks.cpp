// swap_blocks and swap_blocks_batch: bytes from place to place.
//
// Pairs of swap_blocks take effect one after the other. They run in parallel where the order cannot
// be seen: src and dst are apart and no destination is named twice.
#include <algorithm>
#include <cstring>

#include "cpu/copies.h"
#include "cpu/parallel.h"

namespace kvops::cpu {

void copy_all(const std::vector<Copy>& copies) {
  constexpr int64_t kPiece = 256 << 10;  // of a long copy; short ones are joined up to this size
  int64_t total = 0;
  for (auto& c : copies) total += c.bytes;
  std::vector<Copy> cut;
  cut.reserve(copies.size() + size_t(total / kPiece));
  for (auto c : copies)
    for (; c.bytes > 0; c.to += kPiece, c.from += kPiece, c.bytes -= kPiece)
      cut.push_back({c.to, c.from, std::min(c.bytes, kPiece)});
  auto n = int64_t(cut.size());
  parallel_for(n, kPiece / std::max<int64_t>(1, total / std::max<int64_t>(1, n)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   std::memmove(cut[size_t(i)].to, cut[size_t(i)].from,
                                size_t(cut[size_t(i)].bytes));
               });
}

static bool ordered(const kvops_swap_blocks_args& a, int64_t n) {
  auto *from = static_cast<const char*>(a.src.data), *to = static_cast<const char*>(a.dst.data);
  if (from < to + bytes_above(a.dst) && to < from + bytes_above(a.src)) return true;
  std::vector<const char*> written;
  written.reserve(size_t(n));
  for (int64_t i = 0; i < n; ++i) written.push_back(copy_of(a, i).to);
  std::sort(written.begin(), written.end());
  return std::adjacent_find(written.begin(), written.end()) != written.end();
}

kvops_status swap_blocks(const kvops_swap_blocks_args& a) {
  if (auto s = check_pairs(a)) return s;
  int64_t n = a.block_mapping.shape[0];
  if (ordered(a, n)) {
    for_each_merged(a, n, [](Copy c) { std::memmove(c.to, c.from, size_t(c.bytes)); });
    return KVOPS_OK;
  }
  std::vector<Copy> runs;
  for_each_merged(a, n, [&](Copy c) { runs.push_back(c); });
  copy_all(runs);
  return KVOPS_OK;
}

}  // namespace kvops::cpu
