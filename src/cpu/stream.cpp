// The size of the last cache: of the part that one core fills, as Linux tells it. sysconf() counts
// all parts of a socket, of which an EPYC has twelve. 32 MiB where nobody says anything.
#include "cpu/stream.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>

namespace kvops::cpu {

namespace {
std::atomic<int64_t> pretended{0};

// 0 where it is unknown.
int64_t part_of_a_core() {
  std::FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
  long size = 0;
  char unit = 0;
  const bool known = file && std::fscanf(file, "%ld%c", &size, &unit) == 2 && unit == 'K';
  if (file) std::fclose(file);
  return known ? int64_t(size) << 10 : 0;
}

}  // namespace

void pretend_last_cache(int64_t bytes) { pretended = bytes; }

int64_t last_cache_bytes() {
  if (const int64_t bytes = pretended.load(std::memory_order_relaxed)) return bytes;
  static const int64_t bytes = [] {
    if (const int64_t part = part_of_a_core(); part > 0) return part;
    const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return size > 0 ? int64_t(size) : int64_t{32} << 20;
  }();
  return bytes;
}

}  // namespace kvops::cpu
