// Cache lines that work to come will need: line i of row r is rows[r] + i * step bytes. They are
// asked for a few at a time between the arithmetic at hand, which hides the memory's latency; the
// hardware does not see where a block table leads.
#pragma once
#include <algorithm>
#include <cstdint>

namespace kvops::cpu {

template <int kRows>
struct AheadOf {
  const char* rows[kRows];
  int num_rows = 0, lines = 0;
  int64_t step = 0;
  int row = 0, line = 0;

  void clear() { num_rows = row = line = 0; }
  bool left() const { return row < num_rows; }
  [[gnu::always_inline]] inline void fetch(int n) {
    while (n > 0 && row < num_rows) {
      const int some = std::min(n, lines - line);
      const char* p = rows[row] + line * step;
      for (int i = 0; i < some; ++i, p += step) __builtin_prefetch(p, 0, 3);
      n -= some, line += some;
      if (line == lines) line = 0, ++row;
    }
  }
};

}  // namespace kvops::cpu
