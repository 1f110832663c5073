// How attention cuts the tokens that a query sees into ranges, each with a partial result of its
// own. Partial results are added up in the order of the ranges. The cut depends on the number of
// tokens alone, so that neither the rest of the batch nor threads nor the workspace can be seen in
// the bits.
#pragma once
#include <algorithm>
#include <cstdint>

namespace kvops::cpu {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Tokens [first, end) of a sequence of which the last one is the query's own, at end - 1.
struct Tokens {
  int64_t first, end;
  constexpr int64_t count() const { return end - first; }
};

// Ranges have at least 512 tokens: a few us of work, against which adding a partial result is
// nothing. Of a longer sequence there are 32 or 33, enough for that many threads.
inline constexpr int64_t kRange = 512, kRanges = 32;
constexpr int64_t range_size(Tokens t) {
  return kRange * std::max<int64_t>(1, ceil_div(t.count(), kRange * kRanges));
}
constexpr int64_t num_ranges(Tokens t) {
  int64_t size = range_size(t);
  return t.count() > 0 ? ceil_div(t.end, size) - t.first / size : 0;
}
constexpr int64_t most_ranges(int64_t tokens) {
  return std::min(kRanges, ceil_div(tokens, kRange)) + 1;
}
constexpr Tokens range(Tokens t, int64_t i) {
  int64_t size = range_size(t), begin = (t.first / size + i) * size;
  return {std::max(t.first, begin), std::min(t.end, begin + size)};
}

}  // namespace kvops::cpu
