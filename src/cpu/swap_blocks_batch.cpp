// swap_blocks_batch: independent copies between addresses, here of CPU memory.
#include "cpu/copies.h"

namespace kvops::cpu {

kvops_status swap_blocks_batch(const kvops_swap_blocks_batch_args& a) {
  if (auto s = check_copies(a)) return s;
  std::vector<Copy> runs;
  for_each_merged(a, a.sizes.shape[0], [&](Copy c) { runs.push_back(c); });
  copy_all(runs);
  return KVOPS_OK;
}

}  // namespace kvops::cpu
