// Indices in tensors of i32 or i64, and which of them lead somewhere.
#pragma once
#include <cstdint>

#include "kvcache_ops/types.h"

namespace kvops::cpu {

inline int64_t index_at(const kvops_tensor& t, int64_t offset) {
  return t.dtype == KVOPS_I32 ? static_cast<const int32_t*>(t.data)[offset]
                              : static_cast<const int64_t*>(t.data)[offset];
}

// Is there an entry `index` of `bound`? Below 0 it is padding, from `bound` on a fault.
inline bool valid(int64_t index, int64_t bound, int64_t& faults) {
  faults += index >= bound;
  return index >= 0 && index < bound;
}

}  // namespace kvops::cpu
