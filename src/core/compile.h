// Compiles the rows of src/ops.def at build time. Every mistake in the table is a compile error: a
// row that is not the next member of the struct, a member without a row, an unknown name in a rule,
// a malformed shape.
#pragma once
#include <array>

#include "core/rows.h"

namespace kvops {

constexpr int kMaxShapes = 48, kMaxDims = 96, kMaxTerms = 160;

struct Counts {
  size_t args = 0, rules = 0, shapes = 0, dims = 0, terms = 0, symbols = 0;
};
template <size_t Args, size_t Rules, size_t Shapes, size_t Dims, size_t Terms, size_t Symbols>
struct Tables {
  std::array<Arg, Args> args{};
  std::array<Rule, Rules> rules{};
  std::array<Shape, Shapes> shapes{};
  std::array<Dim, Dims> dims{};
  std::array<Term, Terms> terms{};
  std::array<std::string_view, Symbols> symbols{};
};

template <size_t N>
struct Compiler {
  Tables<N, N, kMaxShapes, kMaxDims, kMaxTerms, kMaxSymbols> t;
  Counts n;
  size_t first_size = 0;

  static constexpr bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.';
  }
  static constexpr std::string_view word(std::string_view& s) {
    size_t i = 0;
    while (i < s.size() && is_word(s[i])) ++i;
    auto w = s.substr(0, i);
    s.remove_prefix(i);
    return w;
  }
  static constexpr void skip_spaces(std::string_view& s) {
    while (!s.empty() && s[0] == ' ') s.remove_prefix(1);
  }
  constexpr int find_arg(std::string_view name) const {
    for (size_t i = 0; i < n.args; ++i)
      if (t.args[i].name == name) return int(i);
    return -1;
  }
  constexpr uint8_t arg(std::string_view name) const {
    int i = find_arg(name);
    if (i < 0) throw "a rule names an unknown argument";
    return uint8_t(i);
  }
  constexpr uint8_t symbol(std::string_view name, bool create) {
    for (size_t i = 0; i < n.symbols; ++i)
      if (t.symbols[i] == name) return uint8_t(i);
    if (!create) throw "a rule names an unknown dimension";
    t.symbols.at(n.symbols) = name;
    return uint8_t(n.symbols++);
  }
  constexpr void push(Op op, int value = 0) { t.terms.at(n.terms++) = {op, value}; }

  constexpr void atom(std::string_view& s, bool create) {
    bool minus = !s.empty() && s[0] == '-';
    if (minus) s.remove_prefix(1);
    auto w = word(s);
    if (w.empty()) throw "an expression lacks an operand";
    if (w[0] >= '0' && w[0] <= '9') {
      int value = 0;
      for (char c : w) value = value * 10 + (c - '0');
      return push(Op::number, minus ? -value : value);
    }
    if (!s.empty() && s[0] == '(') {
      s.remove_prefix(1);
      auto a = arg(word(s));
      if (s.empty() || s[0] != ')') throw "a function takes one argument";
      s.remove_prefix(1);
      if (w != "rank" && w != "bytes" && w != "numel") throw "unknown function";
      return push(w == "rank" ? Op::rank : w == "bytes" ? Op::size : Op::numel, a);
    }
    for (auto& c : kConstants)
      if (c.name == w) return push(Op::number, c.value);
    push(Op::symbol, symbol(w, create));
  }
  // The operator at the head of s, if it is one of `ops`, else 0. Rules may put spaces around it.
  static constexpr char take(std::string_view& s, std::string_view ops, bool spaces) {
    bool spaced = spaces && s.size() > 2 && s[0] == ' ' && s[2] == ' ';
    size_t at = spaced ? 1 : 0;
    if (s.size() <= at || ops.find(s[at]) == ops.npos) return 0;
    char c = s[at];
    s.remove_prefix(spaced ? 3 : 1);
    return c;
  }
  constexpr void product(std::string_view& s, bool create) {
    atom(s, create);
    while (char c = take(s, "*/%", !create)) {
      atom(s, create);
      push(c == '*' ? Op::mul : c == '/' ? Op::div : Op::mod);
    }
  }
  constexpr Expr expr(std::string_view& s, bool create) {
    auto first = n.terms;
    product(s, create);
    while (char c = take(s, "+-", !create)) {
      product(s, create);
      push(c == '+' ? Op::add : Op::sub);
    }
    return {uint8_t(first), uint8_t(n.terms - first)};
  }

  // "[] | 1 | heads size!"
  constexpr void shapes(Arg& a) {
    std::string_view s = a.text;
    a.first = uint8_t(n.shapes);
    Shape shape{uint8_t(n.dims)};
    for (bool more = true; more;) {
      skip_spaces(s);
      if (s.empty() || s[0] == '|') {
        t.shapes.at(n.shapes++) = shape;
        ++a.count;
        more = !s.empty();
        if (more) s.remove_prefix(1);
        shape = {uint8_t(n.dims)};
        continue;
      }
      if (s.starts_with("[]")) {
        s.remove_prefix(2);
        continue;
      }
      Dim d;
      auto start = s;
      if (s.starts_with("... ") || s.starts_with("...!") || s == "...") {
        d.kind = Dim::group;
        s.remove_prefix(3);
      } else if (s[0] == '*') {
        d.kind = Dim::wildcard;
        s.remove_prefix(1);
      } else {
        d.terms = expr(s, true);
        auto term = t.terms[d.terms.first];
        d.kind = d.terms.count > 1 ? Dim::expr : term.op == Op::number ? Dim::number : Dim::symbol;
        d.value = term.value;
      }
      d.text = start.substr(0, start.size() - s.size());
      if (!s.empty() && s[0] == '!') {
        d.packed = true;
        s.remove_prefix(1);
      }
      if (!s.empty() && s[0] != ' ') throw "malformed shape";
      if (d.kind >= Dim::group) shape.open = int8_t(shape.count);
      shape.exprs |= d.kind == Dim::expr;
      shape.inner |= d.packed && (!s.empty() || d.kind == Dim::group);
      t.dims.at(n.dims++) = d;
      if (++shape.count > KVOPS_MAX_RANK) throw "too many dimensions";
    }
  }

  // "entry == latent+rope", "key_cache is f8", "kv_scale given"
  constexpr void predicate(Rule& r) {
    std::string_view s = r.text;
    auto name = word(s);
    struct {
      std::string_view text;
      Form form;
    } const forms[] = {{" given", Form::given},
                       {" absent", Form::absent},
                       {" positive", Form::positive},
                       {" finite", Form::finite},
                       {" pages", Form::pages}};
    for (auto& f : forms)
      if (s == f.text) return void((r.form = f.form, r.arg = arg(name)));
    if (s.starts_with(" is ") || s.starts_with(" not ")) {
      r.form = s[1] == 'i' ? Form::is : Form::is_not;
      r.arg = arg(name);
      s.remove_prefix(s[1] == 'i' ? 4 : 5);
      for (auto& named : kNamedSets)
        if (named.name == s) return void(r.set = named.set);
      throw "unknown set of dtypes";
    }
    s = r.text;
    r.lhs = expr(s, false);
    struct {
      std::string_view text;
      Cmp cmp;
    } const cmps[] = {{" == ", Cmp::eq}, {" != ", Cmp::ne}, {" <= ", Cmp::le},
                      {" >= ", Cmp::ge}, {" < ", Cmp::lt},  {" > ", Cmp::gt}};
    for (auto& c : cmps) {
      if (!s.starts_with(c.text)) continue;
      r.cmp = c.cmp;
      s.remove_prefix(c.text.size());
      r.rhs = expr(s, false);
      if (!s.empty()) throw "text after a rule";
      return;
    }
    throw "a rule is: expr == expr, arg is set, arg given";
  }

  // "ascending", "descending", "ascending below kv_seq_lens"; the counts of its valid entries
  constexpr void list(Rule& r, std::string_view counts) {
    std::string_view s = r.text;
    auto order = word(s);
    if (order != "ascending" && order != "descending") throw "a list is ascending or descending";
    r.cmp = order == "ascending" ? Cmp::le : Cmp::ge;
    r.limit = r.arg;
    if (s.starts_with(" below ")) s.remove_prefix(7), r.limit = arg(word(s));
    if (!s.empty()) throw "text after a list";
    r.other = counts.empty() ? r.arg : arg(counts);
  }

  constexpr uint64_t enum_values(std::string_view s) {
    uint64_t values = 0;
    while (!s.empty()) {
      auto w = word(s);
      skip_spaces(s);
      int value = w == "0" ? 0 : w == "1" ? 1 : -1;
      for (auto& c : kConstants)
        if (c.name == w) value = c.value;
      if (value < 0 || value > 63) throw "unknown constant";
      values |= uint64_t{1} << value;
    }
    return values;
  }

  // "ulp(1)", "ulp(5, 2)", "rows(4)", "scratch()", "set()", or "": exact
  constexpr void comparison(Arg& a, std::string_view s) {
    if (s.empty()) return;
    auto name = word(s);
    a.compare = name == "ulp"       ? KVOPS_COMPARE_ULP
                : name == "rows"    ? KVOPS_COMPARE_ROWS
                : name == "scratch" ? KVOPS_COMPARE_SCRATCH
                : name == "set"     ? KVOPS_COMPARE_SET
                                    : throw "unknown comparison";
    if (!s.starts_with("(") || !s.ends_with(")")) throw "a comparison is name(numbers)";
    s.remove_prefix(1);
    int given = 0;
    for (; s != ")"; ++given) {
      double value = 0;
      auto digits = word(s);
      if (given == 2 || digits.empty()) throw "a comparison has at most two numbers";
      for (char c : digits) value = value * 10 + (c - '0');
      a.tolerance[given] = value;
      if (s.starts_with(", ")) s.remove_prefix(2);
    }
    if (given == 1) a.tolerance[1] = a.tolerance[0];
  }

  template <class Args>
  constexpr void run(const Row (&rows)[N]) {
    size_t end = sizeof(size_t);  // of the members seen so far
    for (auto& row : rows) {
      if (row.kind == kSince && !first_size) first_size = end;
      if (row.kind >= kRule) continue;
      Arg a{row.name, uint32_t(row.offset), Kind(row.kind), row.flags, row.types, row.text};
      comparison(a, row.compare);
      if (row.offset != end) throw "rows must follow the struct, in order, without gaps";
      end += a.kind == Kind::tensor ? sizeof(kvops_tensor) : 8;
      if (a.kind == Kind::integer) {
        std::string_view text = a.text;
        a.symbol = symbol(a.name, true);
        if (!text.starts_with(">= ")) {
          a.values = enum_values(text);
        } else {
          text.remove_prefix(3);
          atom(text, false);  // a number
          a.low = t.terms[--n.terms].value;
        }
      }
      t.args[n.args++] = a;
    }
    if (end != sizeof(Args)) throw "a struct member has no row";
    if (!first_size) first_size = end;
    for (size_t i = 0; i < n.args; ++i)
      if (t.args[i].kind == Kind::tensor) shapes(t.args[i]);
    for (auto& row : rows) {
      if (row.kind < kRule || row.kind == kSince) continue;
      Rule r;
      r.kind = RuleKind(row.kind - kRule), r.text = row.text;
      std::string_view s = row.text;
      if (r.kind == RuleKind::alias || r.kind == RuleKind::overlap) r.other = arg(s);
      if (r.kind >= RuleKind::blocks) r.other = arg(row.compare);
      if (*row.name) r.arg = arg(row.name);
      if (r.kind == RuleKind::list) list(r, row.compare);
      if (r.kind == RuleKind::when || r.kind == RuleKind::require) predicate(r);
      if (r.kind >= RuleKind::noop) r.lhs = expr(s, false);
      t.rules[n.rules++] = r;
    }
  }
};

template <class Args, size_t N>
consteval auto compile(const Row (&rows)[N]) {
  Compiler<N> c;
  c.template run<Args>(rows);
  return c;
}

// Copies what was used into arrays of the right size.
template <const auto& compiled>
consteval auto trim() {
  constexpr Counts n = compiled.n;
  Tables<n.args, n.rules, n.shapes, n.dims, n.terms, n.symbols> t;
  auto copy = [](auto& from, auto& to) {
    for (size_t i = 0; i < to.size(); ++i) to[i] = from[i];
  };
  copy(compiled.t.args, t.args), copy(compiled.t.rules, t.rules), copy(compiled.t.shapes, t.shapes);
  copy(compiled.t.dims, t.dims), copy(compiled.t.terms, t.terms),
      copy(compiled.t.symbols, t.symbols);
  return t;
}

}  // namespace kvops
