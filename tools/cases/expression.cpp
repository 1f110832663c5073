// A recursive-descent evaluator: sums of products of names, numbers and calls; no parentheses.
#include "cases/expression.h"

#include <cctype>

namespace kvops::cases {
namespace {

struct Parser {
  std::string_view text;
  const Lookup& lookup;

  void skip_spaces() {
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  }

  char peek() {
    skip_spaces();
    return text.empty() ? '\0' : text.front();
  }

  std::optional<int64_t> factor() {
    skip_spaces();
    size_t end = 0;
    if (peek() == '-') {
      text.remove_prefix(1);
      auto value = factor();
      return value ? std::optional(-*value) : std::nullopt;
    }
    auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
    while (end < text.size() && is_word(text[end])) ++end;
    if (end < text.size() && text[end] == '(') end = text.find(')', end) + 1;
    auto word = text.substr(0, end);
    if (word.empty()) return std::nullopt;
    text.remove_prefix(end);
    if (!std::isdigit(static_cast<unsigned char>(word.front()))) return lookup(word);
    int64_t number = 0;
    for (char c : word) number = number * 10 + (c - '0');
    return number;
  }

  std::optional<int64_t> product() {
    auto value = factor();
    while (value && (peek() == '*' || peek() == '/' || peek() == '%')) {
      char op = text.front();
      text.remove_prefix(1);
      auto right = factor();
      if (!right || (op != '*' && *right == 0)) return std::nullopt;
      if (op == '/' && *value % *right) return std::nullopt;
      value = op == '*' ? *value * *right : op == '/' ? *value / *right : *value % *right;
    }
    return value;
  }

  std::optional<int64_t> sum() {
    auto value = product();
    while (value && (peek() == '+' || peek() == '-')) {
      bool plus = text.front() == '+';
      text.remove_prefix(1);
      auto right = product();
      if (!right) return std::nullopt;
      value = plus ? *value + *right : *value - *right;
    }
    return value;
  }
};

}  // namespace

std::optional<int64_t> evaluate(std::string_view text, const Lookup& lookup) {
  Parser parser{text, lookup};
  auto value = parser.sum();
  return parser.peek() ? std::nullopt : value;
}

bool split_comparison(std::string_view text, Comparison& parts) {
  for (std::string_view op : {" == ", " != ", " <= ", " >= ", " < ", " > "}) {
    auto at = text.find(op);
    if (at == std::string_view::npos) continue;
    parts = {text.substr(0, at), op.substr(1, op.size() - 2), text.substr(at + op.size())};
    return true;
  }
  return false;
}

bool compare(int64_t left, std::string_view op, int64_t right) {
  if (op == "==") return left == right;
  if (op == "!=") return left != right;
  if (op == "<=") return left <= right;
  if (op == ">=") return left >= right;
  return op == "<" ? left < right : left > right;
}

}  // namespace kvops::cases
