// Expressions and rules as kvops_ops() prints them: "9*size/16", "bytes(key_cache)", "width ==
// size", "key_cache is f8". What a name means is the caller's affair.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace kvops::cases {

// A name, or a call such as "bytes(key_cache)"; nothing when it is not known.
using Lookup = std::function<std::optional<int64_t>(std::string_view name)>;

// Nothing when a name is unknown or a quotient is not whole.
std::optional<int64_t> evaluate(std::string_view text, const Lookup& lookup);

// "a cmp b" in its parts; false for any other text.
struct Comparison {
  std::string_view left, op, right;
};
bool split_comparison(std::string_view text, Comparison& parts);

bool compare(int64_t left, std::string_view op, int64_t right);

}  // namespace kvops::cases
