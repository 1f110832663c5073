// Divisions of counts, rounded up.
#pragma once
#include <cstdint>

namespace kvops {

constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }
constexpr int64_t round_up(int64_t n, int64_t d) { return ceil_div(n, d) * d; }

}  // namespace kvops
