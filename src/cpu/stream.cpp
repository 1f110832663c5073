// The size of the last cache: what the system says, or 32 MiB where it says nothing.
#include "cpu/stream.h"

#include <unistd.h>

#include <atomic>

namespace kvops::cpu {

namespace {
std::atomic<int64_t> pretended{0};
}

void pretend_last_cache(int64_t bytes) { pretended = bytes; }

int64_t last_cache_bytes() {
  if (const int64_t bytes = pretended.load(std::memory_order_relaxed)) return bytes;
  static const int64_t bytes = [] {
    const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return size > 0 ? int64_t(size) : int64_t{32} << 20;
  }();
  return bytes;
}

}  // namespace kvops::cpu
