// The instruction set that the CPU back end uses. Kernels are compiled once per target by Highway's
// foreach_target.h; this chooser replaces HWY_EXPORT, so that no libhwy is needed at run time.
#pragma once
#include <array>
#include <string_view>

namespace kvops::cpu {

// Highway's EMU128, SSE4, AVX2 and AVX3 (AVX-512 F, BW, DQ, VL, CD).
enum class Isa { scalar, sse4, avx2, avx3 };

Isa isa();
const char* isa_name();
bool is_best_isa();  // not a lower one by set_isa()

// "scalar", ..., or "" for the best that this CPU has; false, and no change, for any other.
bool set_isa(std::string_view name);

}  // namespace kvops::cpu

// After the namespaces of all targets, under HWY_ONCE: a function of the chosen target, and
// op(args) by means of it.
#define KVOPS_CPU_CHOSEN(...)                                                     \
  (std::array{&N_EMU128::__VA_ARGS__, &N_SSE4::__VA_ARGS__, &N_AVX2::__VA_ARGS__, \
              &N_AVX3::__VA_ARGS__}[size_t(isa())])
#define KVOPS_CPU_EXPORT(op) \
  kvops_status op(const kvops_##op##_args& a) { return KVOPS_CPU_CHOSEN(op)(a); }
