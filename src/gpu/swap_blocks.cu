// swap_blocks: blocks from tensor to tensor, in the order of the pairs. Pairs are queued in
// stretches that do not depend on each other: no block that a stretch writes is written twice or
// read in it. What copies them: see copies.h.
#include <algorithm>

#include "core/error.h"
#include "gpu/copies.h"

namespace kvops::KVOPS_GPU {
namespace {

constexpr const char* kOp = "swap_blocks";
using Args = kvops_swap_blocks_args;

bool on_cpu(const kvops_tensor& t) { return t.device.type == KVOPS_CPU; }

// The blocks that a stretch has read or written: a table with open addressing, whose entries are
// forgotten by counting rounds.
class Blocks {
 public:
  void clear() {
    round_ += 2;
    if (!round_) std::fill(slots_.begin(), slots_.end(), Slot{}), round_ = 2;
  }
  // False, where the block has been written.
  bool read(int64_t block) {
    auto& s = slot(block);
    if (s.stamp == (round_ | 1)) return false;
    s = {block, round_};
    return true;
  }
  // False, where it has been read or written.
  bool write(int64_t block) {
    auto& s = slot(block);
    if ((s.stamp & ~1u) == round_) return false;
    s = {block, round_ | 1};
    return true;
  }

 private:
  static constexpr size_t kSlots = 4096;  // two of a pair, of at most 1500
  struct Slot {
    int64_t block = 0;
    uint32_t stamp = 0;  // the round, and 1 if written
  };
  Slot& slot(int64_t block) {
    auto i = size_t(uint64_t(block) * 0x9E3779B97F4A7C15u >> 52);
    while ((slots_[i].stamp & ~1u) == round_ && slots_[i].block != block) i = (i + 1) % kSlots;
    return slots_[i];
  }
  std::vector<Slot> slots_ = std::vector<Slot>(kSlots);
  uint32_t round_ = 0;
};

// Cuts the pairs into stretches.
class Stretches {
 public:
  explicit Stretches(const Args& a) : args_(a), blocks_(scratch()) {
    auto *src = static_cast<const char*>(a.src.data), *dst = static_cast<const char*>(a.dst.data);
    apart_ = on_cpu(a.src) != on_cpu(a.dst) || src >= dst + bytes_above(a.dst) ||
             dst >= src + bytes_above(a.src);
    same_grid_ = (src - dst) % a.block_size_in_bytes == 0;
    shift_ = apart_ ? 0 : (src - dst) / a.block_size_in_bytes;
  }
  // The end of the stretch that begins with a pair: at most so many, but that a run of blocks is
  // not broken soon.
  int64_t end(int64_t first, int64_t most) {
    int64_t n = args_.block_mapping.shape[0], last = first;
    if (!apart_ && !same_grid_) return first + 1;
    blocks_.clear();
    while (last < n && last - first < kRun && (last - first < most || continues(last)) &&
           enter(last))
      ++last;
    return last;
  }

 private:
  static constexpr int64_t kRun = 1500;

  static Blocks& scratch() {
    static thread_local Blocks all;
    return all;
  }

  const int64_t* pair(int64_t i) const {
    auto& m = args_.block_mapping;
    return static_cast<const int64_t*>(m.data) + i * m.stride[0];
  }
  bool continues(int64_t i) const {
    auto other = args_.block_mapping.stride[1];
    return pair(i)[0] == pair(i - 1)[0] + 1 && pair(i)[other] == pair(i - 1)[other] + 1;
  }
  // Blocks are counted on the grid of dst.
  bool enter(int64_t i) {
    int64_t from = pair(i)[0] + shift_, to = pair(i)[args_.block_mapping.stride[1]];
    if (apart_) return blocks_.write(to);
    return from == to || (blocks_.read(from) && blocks_.write(to));
  }

  const Args& args_;
  Blocks& blocks_;
  bool apart_, same_grid_;
  int64_t shift_;
};

// A graph keeps addresses, and pageable memory has none that lasts.
kvops_status refuse_pageable(const Args& a, Copies& copies) {
  kvops_status status = KVOPS_OK;
  for_each_merged(a, a.block_mapping.shape[0], [&](const Copy& c) {
    bool from = copies.is_reachable(c.from, c.bytes), to = copies.is_reachable(c.to, c.bytes);
    if (status || (from && to)) return;
    status =
        fail_at(c.element, KVOPS_UNSUPPORTED, kOp, from ? "dst" : "src",
                "is in pageable memory, expected pinned memory (the stream is being captured)");
  });
  return status;
}

}  // namespace

kvops_status swap_blocks(const Args& a) {
  if (auto s = check_pairs(a)) return s;
  const kvops_tensor& on = on_cpu(a.src) ? a.dst : a.src;
  Copies copies(kOp, on, false);
  for (auto* t : {&a.src, &a.dst})
    if (!on_cpu(*t)) copies.know(*t);
  if ((on_cpu(a.src) || on_cpu(a.dst)) && is_capturing(on))
    if (auto s = refuse_pageable(a, copies)) return s;
  Stretches stretches(a);
  kvops_status status = KVOPS_OK;
  for (int64_t first = 0, most = kSome; first < a.block_mapping.shape[0] && !status; most = kMost) {
    int64_t last = stretches.end(first, most);
    for_each_merged(a, first, last, [&](const Copy& c) {
      if (!status) status = copies.add(c);
    });
    if (!status) status = copies.flush();
    first = last;
  }
  return status;
}

}  // namespace kvops::KVOPS_GPU
