// bench_validation FILE...: nanoseconds of one call up to the back end, for every operator: the
// slowest legal call of its lines in tests/contract with every optional tensor, and a back end that
// does nothing. Prints the least of several runs, which other work on the machine disturbs least; a
// benchmark, not a test.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "contract/calls.h"
#include "contract/shapes.h"
#include "contract/test_backend.h"
#include "core/call.h"

namespace {

double least_ns(const kvops::Entry& entry, const ArgsCall& call) {
  constexpr int kRuns = 40, kCalls = 2000;
  double least = 1e9;
  for (int r = 0; r < kRuns; ++r) {
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; ++i)
      if (kvops::call(entry, call.bytes.data())) return -1;
    std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    least = std::min(least, took.count() / kCalls);
  }
  return least;
}

int tensors(const ArgsCall& c) {
  int n = 0;
  for (size_t i = 0; i < c.op->num_args; ++i)
    n += c.op->args[i]->kind == KVOPS_ARG_TENSOR && c.present(c.op->args[i]);
  return n;
}

}  // namespace

int main(int argc, char** argv) {
  auto cases = read_cases({argv + 1, argv + argc});
  size_t count;
  auto* ops = kvops_ops(&count);
  double worst = 0;
  recording = false;
  for (size_t i = 0; i < count; ++i) {
    double most = 0;
    int most_tensors = 0;
    for (auto& c : cases) {
      if (!c.legal || c.call.op != ops[i] || c.call.bytes.size() != ops[i]->args_size) continue;
      auto call = with_all(c.call);
      double ns = least_ns(kvops::kEntries[i], call);
      if (ns > most) most = ns, most_tensors = tensors(call);
    }
    if (most == 0) continue;
    std::printf("%-44s %2d tensors %5zu bytes %6.0f ns\n", ops[i]->name, most_tensors,
                ops[i]->args_size, most);
    worst = std::max(worst, most);
  }
  std::printf("largest: %.0f ns\n", worst);
  return 0;
}
