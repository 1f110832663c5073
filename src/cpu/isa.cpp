// Which instruction set to use: the best one, or what KVOPS_CPU_ISA says.
#include "cpu/isa.h"

#include <atomic>

namespace kvops::cpu {
namespace {

constexpr const char* kNames[] = {"scalar", "sse4", "avx2", "avx3"};

bool has(Isa isa) {
  switch (isa) {
    case Isa::avx3:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512cd") && has(Isa::avx2);
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
             has(Isa::sse4);  // F16C came with, or before, FMA on every CPU
    case Isa::sse4:
      return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul") &&
             __builtin_cpu_supports("aes");
    case Isa::scalar:
      break;
  }
  return true;
}

Isa best() {
  for (Isa isa : {Isa::avx3, Isa::avx2, Isa::sse4})
    if (has(isa)) return isa;
  return Isa::scalar;
}

std::atomic<int> chosen{-1};  // -1: not asked for yet

}  // namespace

Isa isa() {
  int now = chosen.load(std::memory_order_relaxed);
  if (now < 0) chosen = now = int(best());
  return Isa(now);
}

const char* isa_name() { return kNames[int(isa())]; }

bool is_best_isa() { return isa() == best(); }

bool set_isa(std::string_view name) {
  if (name.empty()) {
    chosen = int(best());
    return true;
  }
  for (int i = 0; i < 4; ++i) {
    if (name != kNames[i] || !has(Isa(i))) continue;
    chosen = i;
    return true;
  }
  return false;
}

}  // namespace kvops::cpu
