// Walking a slot_mapping: which tokens are written, and where.
#pragma once
#include <algorithm>
#include <atomic>
#include <utility>

#include "core/view.h"
#include "cpu/parallel.h"

namespace kvops::cpu {

struct SlotMap {
  const int64_t* slots;
  int64_t tokens, blocks, block;

  // f(block, position) of a token that is written some time after t, if it has a slot.
  template <class F>
  [[gnu::always_inline]] inline void ahead(int64_t t, F&& f) const {
    constexpr int64_t kTokens = 8;
    const int64_t slot = t + kTokens < tokens ? slots[t + kTokens] : -1;
    if (slot >= 0 && slot < blocks * block) f(slot / block, slot % block);
  }
};

inline SlotMap slot_map(const kvops_tensor& slots, int64_t blocks, int64_t block) {
  return {static_cast<const int64_t*>(slots.data), slots.shape[0], blocks, block};
}

// Where a piece that would begin at token t does: with the first token from t on that no run
// reaches from before it. Runs end with their block, and at positions that `longest` divides.
inline int64_t begin_of_run(const SlotMap& map, int64_t longest, int64_t t) {
  for (int64_t i = t; t > 0 && i < std::min(t + longest, map.tokens); ++i) {
    const int64_t slot = map.slots[i];
    const bool goes_on = slot > 0 && slot - 1 == map.slots[i - 1];
    if (!goes_on || slot % map.block % longest == 0) return i;
  }
  return t;
}

// Calls write(t, b, o, n) for runs of n <= longest tokens t, t + 1, ... that go to the consecutive
// positions o, o + 1, ... of one block b, on all threads. Negative slots are skipped; larger ones
// than there are, too, and *faults (may be absent) grows by their number. token_bytes: moved per
// token, decides how the work is cut. done(): what a thread does after a piece of it.
template <class F, class Done>
void for_each_run(const SlotMap& map, int64_t longest, int64_t token_bytes,
                  const kvops_tensor& faults, F&& write, Done&& done) {
  int64_t grain = rows_per_piece(token_bytes) / longest * longest;
  int64_t capacity = map.blocks * map.block;
  std::atomic<int64_t> bad = 0;
  parallel_for(map.tokens, std::max(grain, longest), [&](int64_t begin, int64_t end) {
    int64_t skipped = 0, n;
    begin = begin_of_run(map, longest, begin);
    if (end < map.tokens) end = begin_of_run(map, longest, end);
    for (int64_t t = begin; t < end; t += n) {
      int64_t slot = map.slots[t];
      n = 1;
      if (slot < 0) continue;
      if (slot >= capacity) {
        ++skipped;
        continue;
      }
      int64_t b = slot / map.block, o = slot % map.block;
      int64_t most = std::min({longest - o % longest, map.block - o, end - t});
      while (n < most && map.slots[t + n] == slot + n) ++n;
      write(t, b, o, n);
    }
    done();
    if (skipped) bad.fetch_add(skipped, std::memory_order_relaxed);
  });
  if (bad && present(faults)) *static_cast<int64_t*>(faults.data) += bad;
}

template <class F>
void for_each_run(const SlotMap& map, int64_t longest, int64_t token_bytes,
                  const kvops_tensor& faults, F&& write) {
  for_each_run(map, longest, token_bytes, faults, std::forward<F>(write), [] {});
}

}  // namespace kvops::cpu
