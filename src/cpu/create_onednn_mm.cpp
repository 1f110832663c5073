// create_onednn_mm: packs a weight once and gives it a number; see matmul.h.
#include "cpu/matmul.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status create_onednn_mm(const kvops_create_onednn_mm_args& a) {
  auto packed = std::make_shared<MatmulWeight>();
  auto status =
      pack_weight("create_onednn_mm", "onednn_mm", a.weight, a.primitive_cache_size, *packed);
  if (!status) *static_cast<int64_t*>(a.handle.data) = add_weight(std::move(packed));
  return status;
}

}  // namespace kvops::cpu
