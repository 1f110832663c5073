// kvops_ops(): the table as C data.
#include <string>
#include <vector>

#include "core/table.h"

namespace kvops {
namespace {

struct Description {
  std::vector<kvops_op_info> ops;
  std::vector<const kvops_op_info*> op_list;
  std::vector<kvops_arg_info> args;
  std::vector<const kvops_arg_info*> arg_list;
  std::vector<std::string> rules;
  std::vector<const char*> rule_list;

  Description() {
    size_t num_args = 0, num_rules = 0;
    for (auto& e : kEntries)
      num_args += e.contract.args.size(), num_rules += e.contract.rules.size();
    // Pointers into these are handed out below: they must not grow again.
    ops.reserve(kNumOps), args.reserve(num_args), arg_list.reserve(num_args);
    rules.reserve(num_rules), rule_list.reserve(num_rules);
    for (auto& e : kEntries) add(e);
    for (auto& op : ops) op_list.push_back(&op);
    op_list.push_back(nullptr);
  }

  void add(const Entry& e) {
    auto& c = e.contract;
    ops.push_back({c.op, c.args_size, c.args.size(), arg_list.data() + arg_list.size(),
                   c.rules.size(), rule_list.data() + rule_list.size(), e.backends});
    for (auto& a : c.args) args.push_back(info(a)), arg_list.push_back(&args.back());
    for (auto& r : c.rules) rules.push_back(text(c, r)), rule_list.push_back(rules.back().c_str());
  }

  static kvops_arg_info info(const Arg& a) {
    bool typed = a.kind == Kind::tensor || a.kind == Kind::dtype;
    return {a.name,
            a.offset,
            a.kind == Kind::tensor ? KVOPS_ARG_TENSOR
            : a.kind == Kind::real ? KVOPS_ARG_REAL
                                   : KVOPS_ARG_INT,
            a.flags,
            typed ? a.types.set | (a.types.or_t ? T.set : 0) : a.values,
            typed ? a.types.name : "",
            a.text,
            a.compare,
            a.tolerance[0],
            a.tolerance[1]};
  }

  static std::string text(const Contract& c, const Rule& r) {
    static const char* const verbs[] = {"if",   "require", "alias", "overlap", "scales",
                                        "list", "noop",    "index", "blocks",  "gather"};
    std::string line = verbs[int(r.kind)];
    bool names_argument = r.kind >= RuleKind::alias && r.kind != RuleKind::noop;
    if (names_argument) line.append(" ").append(c.args[r.arg].name);
    if (*r.text) line.append(" ").append(r.text);
    const bool counted = r.kind == RuleKind::list && r.other != r.arg;
    if (r.kind >= RuleKind::blocks || counted) line.append(" ").append(c.args[r.other].name);
    return line;
  }
};

}  // namespace
}  // namespace kvops

extern "C" const kvops_op_info* const* kvops_ops(size_t* count) {
  static const kvops::Description description;
  if (count) *count = kvops::kNumOps;
  return description.op_list.data();
}
