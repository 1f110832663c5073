// When to write past the caches: a result that does not fit the last one would only push out what
// is still needed, and an ordinary store reads the line first.
#pragma once
#include <cstdint>

#include "core/view.h"

namespace kvops::cpu {

int64_t last_cache_bytes();

// For tests: as if the last cache had so many bytes; 0: the machine's own.
void pretend_last_cache(int64_t bytes);

// Are all rows aligned for streaming stores, and is there more of them than the cache holds?
template <class T>
bool streams(const RowsView<T>& out) {
  constexpr int64_t kAlignment = 64;
  if (out.rows * out.size * int64_t(sizeof(T)) <= last_cache_bytes()) return false;
  bool aligned = reinterpret_cast<uintptr_t>(out.data) % kAlignment == 0;
  for (int i = 0; i < out.levels; ++i)
    aligned &= out.extent[i] == 1 || out.stride[i] * int64_t(sizeof(T)) % kAlignment == 0;
  return aligned;
}

}  // namespace kvops::cpu
