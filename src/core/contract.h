// The contract of an operator, as compile.h makes it from src/ops.def, and bind(), which holds a
// call against it.
//
// Text forms are compiled to small arrays at build time: a shape is a list of dimensions, a
// dimension is an expression over symbols, a rule is a predicate. Symbols are the names in shapes
// ("tokens") and the integer arguments.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/dtype.h"

namespace kvops {

inline constexpr int kMaxSymbols = 24;

// Reverse Polish. The first five push a value (three of them about an argument), the rest combine
// two.
enum class Op : uint8_t { symbol, number, rank, size, numel, add, sub, mul, div, mod };
struct Term {
  Op op;
  int32_t value;  // index of the symbol or argument, or the number
};
struct Expr {
  uint8_t first = 0, count = 0;  // in Contract::terms
};

struct Dim {
  // "tokens", "2", "size/x", "...", "*"
  enum Kind : uint8_t { symbol, number, expr, group, wildcard };
  Kind kind = symbol;
  bool packed = false;  // "!": the stride is that of a dense row-major tensor
  int32_t value = 0;    // the symbol or the number
  Expr terms;
  std::string_view text;
};
struct Shape {                   // one alternative of a row
  uint8_t first = 0, count = 0;  // in Contract::dims
  int8_t open = -1;              // index of "..." or "*" among them
  bool exprs = false;            // some dimension is an expression
  bool inner = false;            // a dimension before the last one is packed
};

enum class Kind : uint8_t { tensor, real, integer, dtype };
struct Arg {
  const char* name;
  uint32_t offset;
  Kind kind;
  uint8_t flags;        // KVOPS_ARG_READ | ...
  Types types;          // tensor, dtype
  const char* text;     // tensor: shape; integer: names of the allowed values, or ">= low"
  uint64_t values = 0;  // integer: bit i = i is allowed; 0: any from `low` on
  int64_t low = INT64_MIN;
  uint8_t first = 0, count = 0;  // tensor: alternatives in Contract::shapes
  uint8_t symbol = 0;            // integer
  int32_t compare = KVOPS_COMPARE_EXACT;
  double tolerance[2] = {};  // f32; 16-bit and narrower dtypes
};

enum class RuleKind : uint8_t {
  when,
  require,
  alias,
  overlap,
  scales,
  list,
  noop,
  index,
  blocks,
  gather
};
// Rules about what is in memory, which only KVOPS_DEBUG=bounds looks at.
constexpr bool checks_values(RuleKind kind) {
  return kind >= RuleKind::index || kind == RuleKind::scales || kind == RuleKind::list;
}
enum class Form : uint8_t { compare, is, is_not, given, absent, positive, finite, pages };
enum class Cmp : uint8_t { eq, ne, le, ge, lt, gt };
struct Rule {
  RuleKind kind = RuleKind::require;
  const char* text = nullptr;
  Form form = Form::compare;
  Cmp cmp = Cmp::eq;
  Expr lhs, rhs;
  uint8_t arg = 0, other = 0;  // arguments
  uint8_t limit = 0;           // of a list: the lengths that bound it, or the list itself
  DtypeSet set = 0;
};

struct Contract {
  const char* op;
  size_t args_size;
  size_t first_size;  // of the struct in the operator's first release
  std::span<const Arg> args;
  std::span<const Rule> rules;
  const Shape* shapes;
  const Dim* dims;
  const Term* terms;
  const std::string_view* symbols;
  int num_symbols;
};

// What a successful bind() knows.
struct Bound {
  kvops_device device;  // of the call
  void* stream;
  bool empty;                 // nothing to do
  const kvops_tensor* sized;  // the workspace or plan; nullptr: there is none, or it is absent
  const char* sized_name;
  bool sized_optional;  // the operator works without it
  bool wild_strides;    // of extents of 1, which reach nothing, but whose bytes may overflow
};

enum class Mode { run, query };  // query: data may be NULL, overlap and workspace are not looked at
kvops_status bind(const Contract& contract, const void* args, Mode mode, Bound& bound);

}  // namespace kvops
