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

// A set of blocks, by their last 20 bits: two that agree in these are taken for one, and a stretch
// ends early.
class Blocks {
 public:
  bool has(int64_t block) const { return words_[index(block)] >> (block & 63) & 1; }
  void add(int64_t block) { words_[index(block)] |= uint64_t(1) << (block & 63); }
  void remove(int64_t block) { words_[index(block)] = 0; }

 private:
  static size_t index(int64_t block) { return size_t(block >> 6 & 0x3FFF); }
  std::vector<uint64_t> words_ = std::vector<uint64_t>(0x4000);
};

// Cuts the pairs into stretches.
class Stretches {
 public:
  explicit Stretches(const Args& a) : args_(a), sets_(scratch()) {
    other_ = a.block_mapping.stride[1];
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
    while (last < n && last - first < kRun && (last - first < most || continues(last)) &&
           enter(pair(last)[0] + shift_, pair(last)[other_]))
      ++last;
    for (int64_t i = first; i < last; ++i) {
      sets_.written.remove(pair(i)[other_]);
      if (!apart_) sets_.read.remove(pair(i)[0] + shift_);
    }
    return last;
  }

 private:
  static constexpr int64_t kRun = 10'000;
  struct Sets {  // empty between two stretches
    Blocks read, written;
  };
  static Sets& scratch() {
    static thread_local Sets all;
    return all;
  }

  const int64_t* pair(int64_t i) const {
    auto& m = args_.block_mapping;
    return static_cast<const int64_t*>(m.data) + i * m.stride[0];
  }
  bool continues(int64_t i) const {
    return pair(i)[0] == pair(i - 1)[0] + 1 && pair(i)[other_] == pair(i - 1)[other_] + 1;
  }
  // Blocks are counted on the grid of dst.
  bool enter(int64_t from, int64_t to) {
    if (!apart_ && from == to) return true;
    if (sets_.written.has(to)) return false;
    if (!apart_) {
      if (sets_.written.has(from) || sets_.read.has(to)) return false;
      sets_.read.add(from);
    }
    sets_.written.add(to);
    return true;
  }

  const Args& args_;
  Sets& sets_;
  int64_t other_;  // from the first number of a pair to the second one
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
