// proof [--seed N] FOLDER [PART [OPERATOR]]
//
// What every operator of the CUDA column must hold beside its results, which the sweep proves, over
// the cases of FOLDER/<op>.txt (tests/cases): the parts of proof.h. An operator without a usable
// case fails. A line per part and operator; exit status 77: no such device.
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "proof.h"

namespace {

using namespace proof;

constexpr struct {
  const char* name;
  Prove prove;
} kParts[] = {{"graph", prove_graph}, {"memory", prove_memory}, {"threads", prove_threads},
              {"noise", prove_noise}, {"bounds", prove_bounds}, {"large", prove_large}};

bool parse(int argc, char** argv, Options* o, std::string* part) {
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--seed" && i + 1 < argc) {
      o->seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      (o->folder.empty() ? o->folder : part->empty() ? *part : o->op) = word;
    }
  }
  bool known = part->empty();
  for (auto& p : kParts) known = known || *part == p.name;
  return known && !o->folder.empty();
}

// 1: it fails.
int prove(const Options& o, const kvops_op_info& op, const char* part, Prove run) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  int cases = 0;
  std::string error;
  try {
    error = run(o, op, &cases);
  } catch (const std::exception& e) {
    error = e.what();
  }
  if (error == kNothing) return 0;
  if (error.empty() && !cases) error = "there is no case to try";
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::printf("%-8s %-32s %3d cases %6.2f s  %s\n", part, op.name, cases, seconds,
              error.empty() ? "holds" : error.c_str());
  std::fflush(stdout);
  return !error.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  std::string part;
  if (!parse(argc, argv, &o, &part)) {
    std::fprintf(stderr, "usage: proof [--seed N] FOLDER [PART [OPERATOR]]; the parts are");
    for (auto& p : kParts) std::fprintf(stderr, " %s", p.name);
    return std::fprintf(stderr, "\n"), 2;
  }
  int32_t devices = 0;
  kvops_device_count(KVOPS_CUDA, &devices);
  if (!devices) return std::printf("skipped: there is no CUDA device\n"), 77;
  cudaFree(nullptr);  // this program's runtime has its context before any memory is counted
  int proved = 0, failures = 0;
  size_t count = 0;
  auto* ops = kvops_ops(&count);
  for (auto& p : kParts) {
    for (size_t i = 0; i < count; ++i) {
      const bool wanted = o.op.empty() || o.op == ops[i]->name;
      if (!wanted || !(ops[i]->backends >> KVOPS_CUDA & 1)) continue;
      if (!part.empty() && part != p.name) continue;
      failures += prove(o, *ops[i], p.name, p.prove);
      ++proved;
    }
  }
  std::printf("%d proofs, %d failed\n", proved, failures);
  return failures || !proved;
}
