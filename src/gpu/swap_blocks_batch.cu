// swap_blocks_batch: independent copies between addresses, neighbours merged; see copies.h.
#include "core/error.h"
#include "gpu/copies.h"

namespace kvops::KVOPS_GPU {

constexpr const char* kOp = "swap_blocks_batch";

kvops_status swap_blocks_batch(const kvops_swap_blocks_batch_args& a) {
  if (auto s = check_copies(a)) return s;
  Copies copies(kOp, a.queue, a.is_src_access_order_any != 0);
  int64_t n = a.sizes.shape[0];
  kvops_status status = KVOPS_OK;
  if (is_capturing(a.queue))  // a graph keeps addresses, and pageable memory has none that lasts
    for_each_merged(a, n, [&](const Copy& c) {
      bool from = copies.is_reachable(c.from, c.bytes), to = copies.is_reachable(c.to, c.bytes);
      if (status || (from && to)) return;
      status = fail_at(c.element, KVOPS_UNSUPPORTED, kOp, from ? "dst_ptrs" : "src_ptrs",
                       "[%lld] leads to pageable memory, expected pinned memory (the stream is "
                       "being captured)",
                       (long long)c.element);
    });
  for_each_merged(a, n, [&](const Copy& c) {
    if (!status) status = copies.add(c);
  });
  return status ? status : copies.flush();
}

}  // namespace kvops::KVOPS_GPU
