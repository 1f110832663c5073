// Checks of the block pairs and copies that a call brings along in CPU memory.
#include "core/copies.h"

#include "core/dtype.h"
#include "core/error.h"

namespace kvops {

int64_t bytes_above(const kvops_tensor& t) {
  int64_t last = 0;
  for (int i = 0; i < t.rank; ++i) {
    if (t.shape[i] == 0) return 0;
    if (t.stride[i] > 0) last += (t.shape[i] - 1) * t.stride[i];
  }
  return (last + 1) * dtype(t.dtype).size;
}

kvops_status check_pairs(const kvops_swap_blocks_args& a) {
  const struct {
    const char* name;
    int64_t bytes, blocks;
  } sides[] = {{"src", bytes_above(a.src), bytes_above(a.src) / a.block_size_in_bytes},
               {"dst", bytes_above(a.dst), bytes_above(a.dst) / a.block_size_in_bytes}};
  auto& m = a.block_mapping;
  for (int64_t i = 0; i < m.shape[0]; ++i) {
    for (int side = 0; side < 2; ++side) {
      auto& [name, bytes, blocks] = sides[side];
      int64_t b = static_cast<const int64_t*>(m.data)[i * m.stride[0] + side * m.stride[1]];
      if (b >= 0 && b < blocks) continue;
      return fail_at(i, KVOPS_INVALID_ARGUMENT, "swap_blocks", "block_mapping",
                     "[%lld, %d] is %lld, expected 0 to %lld (blocks of %lld bytes in %s of %lld)",
                     (long long)i, side, (long long)b, (long long)blocks - 1,
                     (long long)a.block_size_in_bytes, name, (long long)bytes);
    }
  }
  return KVOPS_OK;
}

kvops_status check_copies(const kvops_swap_blocks_batch_args& a) {
  constexpr auto* op = "swap_blocks_batch";
  for (int64_t i = 0; i < a.sizes.shape[0]; ++i) {
    Copy c = copy_of(a, i);
    if (c.bytes < 0)
      return fail_at(i, KVOPS_INVALID_ARGUMENT, op, "sizes", "[%lld] is %lld, expected at least 0",
                     (long long)i, (long long)c.bytes);
    if (c.bytes && !(c.to && c.from))
      return fail_at(i, KVOPS_INVALID_ARGUMENT, op, c.to ? "src_ptrs" : "dst_ptrs",
                     "[%lld] is 0, expected an address (sizes[%lld] is %lld)", (long long)i,
                     (long long)i, (long long)c.bytes);
  }
  return KVOPS_OK;
}

}  // namespace kvops
