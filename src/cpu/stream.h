// When to write past the caches: a result that does not stay in the last one would only push out
// what is still needed, and an ordinary store reads the line first. What is read displaces as much
// as what is written, and the cache has other users: half of it is what a call may hope for.
#pragma once
#include <cstdint>

#include "core/view.h"

namespace kvops::cpu {

int64_t last_cache_bytes();

// For tests: as if the last cache had so many bytes; 0: the machine's own.
void pretend_last_cache(int64_t bytes);

// Entries of a paged cache are read later than the rows of a result, and others with them.
inline bool entries_stream(int64_t bytes) { return bytes > last_cache_bytes() / 4; }

inline bool whole_lines(int64_t bytes) { return bytes % 64 == 0; }
inline bool on_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// Are all rows aligned for streaming stores, and is more read and written than stays? read_bytes:
// for each row.
template <class T>
bool streams(const RowsView<T>& out, int64_t read_bytes) {
  if (out.rows * (out.size * int64_t(sizeof(T)) + read_bytes) <= last_cache_bytes() / 2)
    return false;
  bool aligned = on_line(out.data);
  for (int i = 0; i < out.levels; ++i)
    aligned &= out.extent[i] == 1 || whole_lines(out.stride[i] * int64_t(sizeof(T)));
  return aligned;
}

}  // namespace kvops::cpu
