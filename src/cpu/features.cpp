// cpuid, and for AMX also the operating system: it saves tile registers only of processes that have
// asked for them, which is done once.
#include "cpu/features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "cpu/isa.h"

namespace kvops::cpu {
namespace {

// Does the system save tile configuration and tile data (bits 17 and 18 of XCR0)?
bool saves_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kOsXsave = 1U << 27, kTiles = 3U << 17;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & kTiles) == kTiles;
}

bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return saves_tiles() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Features detect() {
  Features f = {};
  f.bf16_dot = __builtin_cpu_supports("avx512bf16");
  f.int8_dot = __builtin_cpu_supports("avx512vnni");
  f.byte_permutes = __builtin_cpu_supports("avx512vbmi");
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  constexpr unsigned kBf16 = 1U << 22, kTile = 1U << 24, kInt8 = 1U << 25;
  const bool bf16 = d & kBf16, int8 = d & kInt8;
  if (!(d & kTile) || !(bf16 || int8) || !may_use_tiles()) return f;
  f.amx_bf16 = bf16, f.amx_int8 = int8;
  return f;
}

}  // namespace

Features features() {
  static const Features found = detect();
  return isa() == Isa::avx3 ? found : Features{};
}

}  // namespace kvops::cpu
