// convert_vertical_slash_indexes_mergehead: the same with list lengths of their own for every head.
#include "gpu/convert_vertical_slash_indexes.cuh"
#include "kvcache_ops.h"

namespace kvops::KVOPS_GPU {

kvops_status convert_vertical_slash_indexes_mergehead(
    const kvops_convert_vertical_slash_indexes_mergehead_args& a) {
  VerticalSlash job(a);
  job.vertical_counts = static_cast<const int32_t*>(a.vertical_indices_count.data);
  job.slash_counts = static_cast<const int32_t*>(a.slash_indices_count.data);
  return convert_vertical_slash("convert_vertical_slash_indexes_mergehead", job, a.block_count);
}

}  // namespace kvops::KVOPS_GPU
