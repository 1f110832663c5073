// contract [-v] FILE...: holds calls against the table, through the public API, with a back end
// that runs nothing: the lines of the files, and what derive() makes of every legal line. -v prints
// every message.
#include <cstdio>
#include <map>

#include "contract/calls.h"
#include "contract/derive.h"
#include "contract/shapes.h"
#include "contract/test_backend.h"

using std::string;

namespace {

int failures = 0;

void complain(const string& what, const string& line) {
  std::printf("FAILED: %s\n    %s\n    %s\n", line.c_str(), what.c_str(), kvops_last_error());
  ++failures;
}

kvops_error last_error() {
  kvops_error e = {};
  e.struct_size = sizeof e;
  kvops_get_error(&e);
  return e;
}

// "<op>: <argument>: ..." with both of them real.
bool well_formed(const kvops_op_info* op, const kvops_error& e) {
  string prefix = string(op->name) + ": " + e.argument + ": ", message = e.message;
  ArgsCall any(op);
  bool known = any.find(e.argument) || string(e.argument) == "struct_size";
  return known && message.starts_with(prefix) && message.size() > prefix.size() &&
         message.back() != '.';
}

// What kvops_query() cannot see: addresses, and the workspace.
bool of_addresses(const string& message) {
  for (auto* text : {"data is", "overlaps", "(bytes)", "is absent"})
    if (message.find(text) != string::npos) return true;
  return false;
}

// The call, and kvops_query() beside it. false: they disagree. A call may fail at an address before
// it reaches what kvops_query() complains about.
bool call_both(const ArgsCall& c, kvops_status& status, bool& reached) {
  kvops_clear_error();
  auto query = kvops_query(c.op->name, c.bytes.data(), nullptr);
  string query_text = kvops_last_error();
  recorded.op.clear();
  kvops_clear_error();
  status = kvops_call(c.op->name, c.bytes.data());
  reached = recorded.op == c.op->name;
  if (!status) return !query;
  return of_addresses(kvops_last_error()) || (query == status && query_text == kvops_last_error());
}

// kvops_query() takes a legal call without addresses; scalars without one would be absent.
bool taken_without_addresses(ArgsCall c) {
  for (size_t i = 0; i < c.op->num_args; ++i) {
    auto* a = c.op->args[i];
    if (a->kind != KVOPS_ARG_TENSOR) continue;
    auto t = c.tensor(a);
    if (t.rank) t.data = nullptr;
    c.put(a, t);
  }
  return kvops_query(c.op->name, c.bytes.data(), nullptr) == KVOPS_OK;
}

void run_line(const Case& c, bool verbose) {
  kvops_status status;
  bool reached;
  bool agree = call_both(c.call, status, reached);
  auto e = last_error();
  if (verbose && status) std::printf("  %s\n", kvops_last_error());
  if (!agree) complain("kvops_query() and the call disagree", c.line);
  if (c.legal) {
    if (status) complain("refused", c.line);
    if (!status && !taken_without_addresses(c.call)) complain("needs addresses", c.line);
    return;
  }
  if (!status || reached) return complain("accepted", c.line);
  if (c.status != kvops_status_string(status))
    complain(string("is ") + kvops_status_string(status), c.line);
  if (c.blamed != e.argument && c.blamed != "none") complain("names another argument", c.line);
}

// An argument other than the one that was changed may be blamed when the change only shows there.
void run_derived(const Derived& d, const string& line) {
  kvops_status status;
  bool reached;
  bool agree = call_both(d.call, status, reached);
  auto e = last_error();
  string what = string(d.arg ? d.arg->name : "args") + ": " + d.change;
  if (!agree) complain(what + ": kvops_query() and the call disagree", line);
  if (d.expect == Expect::refused && status != KVOPS_INVALID_ARGUMENT)
    complain(what + ": not refused", line);
  if (d.expect == Expect::taken && status) complain(what + ": refused", line);
  if (status && reached) complain(what + ": ran and failed", line);
  if (status == KVOPS_INVALID_ARGUMENT && !well_formed(d.call.op, e))
    complain(what + ": the message does not name operator and argument", line);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<string> paths(argv + 1, argv + argc);
  bool verbose = !paths.empty() && paths[0] == "-v";
  if (verbose) paths.erase(paths.begin());
  struct Counts {
    int good = 0, bad = 0, derived = 0;
  };
  std::map<string, Counts> counts;
  for (auto& c : read_cases(paths)) {
    auto& n = counts[c.call.op->name];
    ++(c.legal ? n.good : n.bad);
    run_line(c, verbose);
    if (!c.legal) continue;
    for (auto& base : {c.call, with_all(c.call)})
      for (auto& d : derive(base)) run_derived(d, c.line), ++n.derived;
  }
  Counts sum;
  size_t num_ops;
  auto* ops = kvops_ops(&num_ops);
  for (size_t i = 0; i < num_ops; ++i) {
    auto& c = counts[ops[i]->name];
    sum.good += c.good, sum.bad += c.bad, sum.derived += c.derived;
    bool ours = string(ops[i]->name).starts_with("test_");
    if (!ours && (!c.good || c.bad < 3))
      std::printf("too few cases: %s\n", ops[i]->name), ++failures;
  }
  std::printf("%zu operators: %d legal and %d illegal lines, %d derived calls, %d failures\n",
              num_ops, sum.good, sum.bad, sum.derived, failures);
  return failures != 0;
}
