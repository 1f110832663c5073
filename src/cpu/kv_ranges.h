// How attention cuts the tokens that a query sees into ranges, each with a partial result of its
// own. Partial results are added up in the order of the ranges. The cut depends on the number of
// tokens alone, so that neither the rest of the batch nor threads nor the workspace can be seen in
// the bits.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/integers.h"

namespace kvops::cpu {

// Tokens [first, end) of a sequence of which the last one is the query's own, at end - 1.
struct Tokens {
  int64_t first, end;
  constexpr int64_t count() const { return end - first; }
};

// Ranges have at least so many tokens: some us of work, against which adding a partial result is
// nothing. Of a longer sequence there are 32 or 33, enough for that many threads.
struct Ranges {
  int64_t least;
  static constexpr int64_t kMost = 32;

  constexpr int64_t size(Tokens t) const {
    return least * std::max<int64_t>(1, ceil_div(t.count(), least * kMost));
  }
  constexpr int64_t count(Tokens t) const {
    return t.count() > 0 ? ceil_div(t.end, size(t)) - t.first / size(t) : 0;
  }
  constexpr int64_t most(int64_t tokens) const {
    return std::min(kMost, ceil_div(tokens, least)) + 1;
  }
  constexpr Tokens part(Tokens t, int64_t i) const {
    const int64_t begin = (t.first / size(t) + i) * size(t);
    return {std::max(t.first, begin), std::min(t.end, begin + size(t))};
  }
};

}  // namespace kvops::cpu
