// The size of the last cache: what the system says, or 32 MiB where it says nothing.
#include "cpu/stream.h"

#include <unistd.h>

namespace kvops::cpu {

int64_t last_cache_bytes() {
  static const int64_t bytes = [] {
    const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return size > 0 ? int64_t(size) : int64_t{32} << 20;
  }();
  return bytes;
}

}  // namespace kvops::cpu
