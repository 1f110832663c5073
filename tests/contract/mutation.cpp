// mutation [-v] FILE...: drops one property of one row or rule at a time from a copy of the table
// and holds the calls of the contract test against it. A mutant survives when no call has another
// result than with the true table: status, argument, empty, workspace.
#include <cstdio>
#include <functional>
#include <map>

#include "contract/calls.h"
#include "contract/derive.h"
#include "contract/equivalent.h"
#include "contract/shapes.h"
#include "contract/values.h"
#include "core/contract.h"
#include "core/indices.h"
#include "core/table.h"

using namespace kvops;
using std::string;

namespace {

// A Contract whose parts can be changed.
struct Table {
  Contract contract;
  std::vector<Arg> args;
  std::vector<Rule> rules;
  std::vector<Shape> shapes;
  std::vector<Dim> dims;
  std::vector<Term> terms;
  std::vector<std::string_view> symbols;

  explicit Table(const Contract& c) : contract(c) {
    args.assign(c.args.begin(), c.args.end());
    rules.assign(c.rules.begin(), c.rules.end());
    size_t num_shapes = 0, num_dims = 0;
    for (auto& a : args) num_shapes = std::max<size_t>(num_shapes, size_t(a.first) + a.count);
    shapes.assign(c.shapes, c.shapes + num_shapes);
    for (auto& s : shapes) num_dims = std::max<size_t>(num_dims, size_t(s.first) + s.count);
    dims.assign(c.dims, c.dims + num_dims);
    size_t num_terms = 0;
    auto count = [&](Expr e) {
      num_terms = std::max<size_t>(num_terms, size_t(e.first) + e.count);
    };
    for (auto& d : dims) count(d.terms);
    for (auto& r : rules) count(r.lhs), count(r.rhs);
    terms.assign(c.terms, c.terms + num_terms);
    symbols.assign(c.symbols, c.symbols + c.num_symbols);
  }
  Table(const Table&) = delete;

  const Contract& get() {
    contract.args = args, contract.rules = rules;
    contract.shapes = shapes.data(), contract.dims = dims.data();
    contract.terms = terms.data();
    contract.symbols = symbols.data(), contract.num_symbols = int(symbols.size());
    return contract;
  }
  // A dimension of any extent: a name that is said nowhere else.
  void forget(Dim& d) {
    d.kind = Dim::symbol, d.value = int(symbols.size());
    d.terms = {uint8_t(terms.size()), 1};
    symbols.push_back("unbound");
    terms.push_back({Op::symbol, d.value});
  }
  // What shapes remember about their dimensions.
  void refresh() {
    for (auto& s : shapes) {
      s.inner = s.exprs = false;
      for (int i = 0; i < s.count; ++i) {
        auto& d = dims[size_t(s.first + i)];
        s.exprs |= d.kind == Dim::expr;
        s.inner |= d.packed && (i + 1 < s.count || d.kind == Dim::group);
      }
    }
  }
};

struct Mutant {
  string name;
  std::function<void(Table&)> change;
};

struct Result {
  kvops_status status;
  string argument;
  bool empty = false, sized = false, sized_optional = false;
  bool operator==(const Result&) const = default;
};

// A call; with real index tensors when the bounds are to be checked, too.
struct Probe {
  std::vector<char> args;
  bool bounds;
  Result expected;
};

Result hold(const Contract& c, const Probe& p) {
  Bound bound;
  kvops_clear_error();
  Result r;
  r.status = bind(c, p.args.data(), Mode::run, bound);
  if (!r.status)
    r.empty = bound.empty, r.sized = bound.sized != nullptr,
    r.sized_optional = bound.sized_optional;
  if (!r.status && p.bounds) r.status = check_indices(c, p.args.data(), *kCpuBackend.device, bound);
  kvops_error e = {};
  e.struct_size = sizeof e;
  kvops_get_error(&e);
  r.argument = e.argument;
  return r;
}

// ---- mutants -----------------------------------------------------------------------------------

struct Mutator {
  const Contract& c;
  std::vector<Mutant> list;

  void add(string name, std::function<void(Table&)> change) {
    list.push_back({std::move(name), std::move(change)});
  }

  void flags(size_t i) {
    struct {
      const char* name;
      int bit;
    } const flags[] = {{"optional", KVOPS_ARG_OPTIONAL}, {"written", KVOPS_ARG_WRITTEN},
                       {"host", KVOPS_ARG_HOST},         {"anywhere", KVOPS_ARG_ANYWHERE},
                       {"sized", KVOPS_ARG_SIZED},       {"place", KVOPS_ARG_PLACE},
                       {"counter", KVOPS_ARG_COUNTER}};
    auto& a = c.args[i];
    for (auto& f : flags)
      if (a.flags & f.bit)
        add(string(a.name) + ": not " + f.name,
            [i, bit = f.bit](Table& t) { t.args[i].flags &= uint8_t(~bit); });
    if (!(a.flags & (KVOPS_ARG_OPTIONAL | KVOPS_ARG_PLACE)))
      add(string(a.name) + ": optional",
          [i](Table& t) { t.args[i].flags |= uint8_t(KVOPS_ARG_OPTIONAL); });
  }

  void dtypes(size_t i) {
    auto& a = c.args[i];
    if (a.flags & KVOPS_ARG_PLACE) return;
    for (int d = 1; d < kNumDtypes; ++d) {
      bool has = a.types.set >> d & 1;
      add(string(a.name) + (has ? ": without " : ": with ") + dtype(d).name,
          [i, d](Table& t) { t.args[i].types.set ^= DtypeSet{1} << d; });
    }
    if (a.types.var != Var::none)
      add(string(a.name) + ": of any of its dtypes",
          [i](Table& t) { t.args[i].types.var = Var::none; });
    if (a.types.or_t)
      add(string(a.name) + ": not as T", [i](Table& t) { t.args[i].types.or_t = false; });
  }

  void dims(size_t i, const Shape& s) {
    for (size_t d = s.first; d < size_t(s.first + s.count); ++d) {
      auto& dim = c.dims[d];
      string name = string(c.args[i].name) + ": \"" + string(dim.text) + "\" ";
      if (dim.kind == Dim::group)
        add(name + "any", [d](Table& t) { t.dims[d].kind = Dim::wildcard; });
      if (dim.kind < Dim::group && c.num_symbols < kMaxSymbols)
        add(name + "any", [d](Table& t) { t.forget(t.dims[d]); });
      if (!(c.args[i].flags & KVOPS_ARG_PLACE))
        add(name + (dim.packed ? "not dense" : "dense"),
            [d](Table& t) { t.dims[d].packed ^= true; });
    }
  }

  void argument(size_t i) {
    auto& a = c.args[i];
    if (a.kind == Kind::tensor) {
      flags(i), dtypes(i);
      for (int s = a.first; s < a.first + a.count; ++s) {
        dims(i, c.shapes[s]);
        if (a.count == 1) continue;
        add(string(a.name) + ": without shape " + std::to_string(s - a.first), [i, s](Table& t) {
          auto last = size_t(t.args[i].first + t.args[i].count - 1);
          for (auto k = size_t(s); k < last; ++k) t.shapes[k] = t.shapes[k + 1];
          --t.args[i].count;
        });
      }
    }
    if (a.kind == Kind::dtype) dtypes(i);
    if (a.kind != Kind::integer) return;
    for (int v = 0; a.values && v < 8; ++v)
      add(string(a.name) + (a.values >> v & 1 ? ": not " : ": also ") + std::to_string(v),
          [i, v](Table& t) { t.args[i].values ^= uint64_t{1} << v; });
    for (int step : {-1, 1})
      if (!a.values && a.low != INT64_MIN)
        add(string(a.name) + ": from " + std::to_string(a.low + step),
            [i, step](Table& t) { t.args[i].low += step; });
  }

  void rule(size_t i) {
    auto& r = c.rules[i];
    static const char* const kinds[] = {"IF",   "RULE", "ALIAS", "OVERLAP", "SCALES",
                                        "LIST", "NOOP", "INDEX", "BLOCKS",  "GATHER"};
    const bool named = r.kind == RuleKind::scales || r.kind == RuleKind::list;
    auto* what = named ? c.args[r.arg].name : r.text;
    string name = string(kinds[int(r.kind)]) + " \"" + what + "\" ";
    if (r.kind == RuleKind::list) {
      add(name + "in the other order",
          [i](Table& t) { t.rules[i].cmp = t.rules[i].cmp == Cmp::le ? Cmp::ge : Cmp::le; });
      if (r.limit != r.arg)
        add(name + "of any values", [i](Table& t) { t.rules[i].limit = t.rules[i].arg; });
      if (r.other != r.arg)
        add(name + "all entries", [i](Table& t) { t.rules[i].other = t.rules[i].arg; });
    }
    if (r.kind == RuleKind::when)  // what it governs always holds
      add(name + "always", [i](Table& t) { t.rules[i].kind = RuleKind::noop, lift(t, i); });
    else
      add(name + "dropped", [i](Table& t) { t.rules.erase(t.rules.begin() + int(i)); });
  }
  // Rules under the lifted IF must not fall under the one before it: put them first.
  static void lift(Table& t, size_t i) {
    size_t end = i + 1;
    while (end < t.rules.size() && t.rules[end].kind != RuleKind::when) ++end;
    std::vector<Rule> free(t.rules.begin() + int(i) + 1, t.rules.begin() + int(end));
    t.rules.erase(t.rules.begin() + int(i), t.rules.begin() + int(end));
    t.rules.insert(t.rules.begin(), free.begin(), free.end());
  }

  void run() {
    for (size_t i = 0; i < c.args.size(); ++i) argument(i);
    for (size_t i = 0; i < c.rules.size(); ++i) rule(i);
  }
};

// ---- probes ------------------------------------------------------------------------------------

std::vector<Probe> probes_of(const Contract& c, const std::vector<Case>& cases) {
  std::vector<Probe> probes;
  for (auto& k : cases) {
    if (string(c.op) != k.call.op->name || k.call.bytes.size() != c.args_size) continue;
    probes.push_back({k.call.bytes, false, {}});
    if (!k.legal) continue;
    for (auto& base : {k.call, with_all(k.call)})
      for (auto& d : derive(base))
        if (d.call.bytes.size() == c.args_size && d.arg)
          probes.push_back({d.call.bytes, false, {}});
    for (auto& call : calls_with_values(c, k.call)) probes.push_back({call.bytes, true, {}});
  }
  for (auto& p : probes) p.expected = hold(c, p);
  return probes;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<string> paths(argv + 1, argv + argc);
  bool verbose = !paths.empty() && paths[0] == "-v";
  if (verbose) paths.erase(paths.begin());
  auto cases = read_cases(paths);
  int mutants = 0, survivors = 0, excused = 0;
  size_t calls = 0;
  for (auto& e : kEntries) {
    auto& c = e.contract;
    if (string(c.op).starts_with("test_")) continue;
    auto probes = probes_of(c, cases);
    calls += probes.size();
    Mutator m{c, {}};
    m.run();
    for (auto& mutant : m.list) {
      Table table(c);
      mutant.change(table), table.refresh();
      auto& changed = table.get();
      bool killed = false;
      for (auto& p : probes)
        if ((killed = hold(changed, p) != p.expected)) break;
      ++mutants;
      if (killed) continue;
      if (auto* why = equivalent(c, mutant.name)) {
        ++excused;
        if (verbose) std::printf("equivalent: %s: %s (%s)\n", c.op, mutant.name.c_str(), why);
        continue;
      }
      ++survivors;
      std::printf("SURVIVED: %s: %s\n", c.op, mutant.name.c_str());
    }
  }
  std::printf("%d mutants of %zu operators under %zu calls: %d survive, %d are equivalent\n",
              mutants, kNumOps, calls, survivors, excused);
  return survivors != 0;
}
