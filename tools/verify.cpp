// `kvops verify`: the golden cases of the installation, on every device that is here, and a trial
// of each operator that can have none.
#include <algorithm>
#include <cstdio>

#include "commands.h"
#include "golden.h"
#include "json.h"
#include "trials.h"

namespace kvops {
namespace {

struct Report {
  bool json = false;
  Json out = {};
  int passed = 0, failed = 0, skipped = 0, calls = 0;

  void add(const golden_result& r) {
    static const char* const kOutcomes[] = {"passed", "failed", "skipped"};
    passed += r.outcome == GOLDEN_PASSED;
    failed += r.outcome == GOLDEN_FAILED;
    skipped += r.outcome == GOLDEN_SKIPPED;
    calls += r.calls;
    progress(std::string(r.op) + " " + r.name + " " + r.backend + " " + r.device);
    if (json) {
      out.open('{').field("op", r.op).field("case", r.name).field("backend", r.backend);
      out.field("device", r.device).field("outcome", kOutcomes[r.outcome]);
      out.field("calls", r.calls).field("worst", r.worst).field("argument", r.worst_arg);
      out.field("text", r.text).close('}');
    } else if (r.outcome == GOLDEN_FAILED) {
      progress("");
      std::printf("FAILED  %s %s on %s %s: %s\n", r.op, r.name, r.backend, r.device, r.text);
    }
  }
};

}  // namespace

int verify(const VerifyOptions& options) {
  auto root = data_folder(options.data) + "/golden";
  Report report{.json = options.json};
  golden_options golden = {};
  golden.root = root.c_str();
  golden.device_type = options.device.empty() ? 0 : device_named(options.device).type;
  golden.report = [](void* context, const golden_result* r) {
    static_cast<Report*>(context)->add(*r);
  };
  golden.context = &report;
  report.out.open('{').field("version", version_text(kvops_version())).key("cases").open('[');
  const auto wanted = [&](const char* op) {
    return options.ops.empty() || std::ranges::count(options.ops, op);
  };
  if (golden.device_type == 0 || golden.device_type == KVOPS_CPU) {
    for (auto& trial : run_trials()) {
      if (!wanted(trial.op)) continue;
      const int outcome = trial.problem.empty() ? GOLDEN_PASSED : GOLDEN_FAILED;
      report.add({trial.op, "trial", "cpu", trial.device.c_str(), outcome, 1, 0, "",
                  trial.problem.c_str()});
    }
  }
  auto ops = options.ops.empty() ? std::vector<std::string>{""} : options.ops;
  int missing = 0;
  for (auto& op : ops) {
    if (has_trial(op)) continue;
    golden.op = op.empty() ? nullptr : op.c_str();
    if (golden_run(&golden) >= 0) continue;
    std::fprintf(stderr, "kvops: no golden cases in %s%s%s\n", root.c_str(), op.empty() ? "" : "/",
                 op.c_str());
    ++missing;
  }
  progress("");
  report.out.close(']').field("passed", report.passed).field("failed", report.failed);
  report.out.field("skipped", report.skipped).field("calls", report.calls).close('}');
  if (options.json) {
    report.out.print();
  } else {
    std::printf("%d passed, %d failed, %d skipped; %d calls\n", report.passed, report.failed,
                report.skipped, report.calls);
  }
  return missing || report.failed || !report.passed;
}

}  // namespace kvops
