// Why a change of the table changes no result.
#include "contract/equivalent.h"

using namespace kvops;
using std::string;

namespace {

bool typed(const Arg& a) { return a.kind == Kind::tensor || a.kind == Kind::dtype; }

// Do all rows but one of the arguments that carry a dtype have another variable, so that it binds
// nothing?
bool alone_with_variable(const Contract& c, const Arg& a) {
  for (auto& b : c.args)
    if (&b != &a && typed(b) &&
        (b.types.var == a.types.var || (a.types.var == Var::t && b.types.or_t)))
      return false;
  return true;
}

// An earlier argument that is always there has fixed the dtype of this one.
bool fixed_before(const Contract& c, const Arg& a) {
  for (auto& b : c.args) {
    if (&b == &a) return false;
    if (typed(b) && b.types.var == a.types.var && a.types.var != Var::none &&
        !(b.flags & KVOPS_ARG_OPTIONAL))
      return true;
  }
  return false;
}

// A name that only this row has, at most once in each alternative: it is compared with nothing.
bool said_once(const Contract& c, const Arg& a, std::string_view name) {
  auto says = [&](Expr e) {
    int n = 0;
    for (int i = e.first; i < e.first + e.count; ++i)
      n += c.terms[i].op == Op::symbol && c.symbols[c.terms[i].value] == name;
    return n;
  };
  for (auto& b : c.args) {
    if (b.kind == Kind::integer && b.name == name) return false;
    for (int s = b.first; s < b.first + b.count; ++s) {
      int n = 0;
      auto& shape = c.shapes[s];
      for (int d = shape.first; d < shape.first + shape.count; ++d) n += says(c.dims[d].terms);
      if (n > (&b == &a)) return false;
    }
  }
  for (auto& r : c.rules)
    if (r.kind < RuleKind::index && (says(r.lhs) || says(r.rhs))) return false;
  return true;
}

bool writes_more(const Contract& c, const Arg& a) {
  for (auto& b : c.args)
    if (&b != &a && b.flags & KVOPS_ARG_WRITTEN && !(b.flags & KVOPS_ARG_SIZED)) return true;
  return false;
}

}  // namespace

const char* equivalent(const Contract& c, const string& mutant) {
  if (mutant.ends_with("\"1\" dense")) return "the stride of an extent of 1 is not read";
  for (auto& a : c.args) {
    string prefix = string(a.name) + ": ";
    if (!mutant.starts_with(prefix)) continue;
    string what = mutant.substr(prefix.size());
    if (what == "not counter" && !writes_more(c, a)) return "nothing else is written";
    if (what == "of any of its dtypes" && alone_with_variable(c, a))
      return "no other row has this variable";
    if (what.starts_with("with ") && fixed_before(c, a)) return "an earlier row fixes the dtype";
    if (what[0] == '"' && what.ends_with("\" any") &&
        said_once(c, a, std::string_view(what).substr(1, what.size() - 6)))
      return "no other row has this name";
    for (auto& r : c.rules) {
      string rule = r.text;
      if (what.starts_with("with ") && r.form == Form::is && c.args.data() + r.arg == &a &&
          rule == string(a.name) + " is float")
        return "rules name its dtypes in every case";
      if (what == "\"m\" any" && rule == "numel(" + string(a.name) + ") == numel(input_scale)")
        return "its size is that of another argument";
      if (what.starts_with("from ") && a.low > 0 && rule.starts_with(string(a.name) + " % "))
        return "no number below is a multiple of what a rule demands";
    }
  }
  return nullptr;
}
