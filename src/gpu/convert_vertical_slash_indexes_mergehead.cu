// convert_vertical_slash_indexes_mergehead: the same with list lengths of their own for every head.
#include "gpu/convert_vertical_slash_indexes.cuh"
#include "kvcache_ops.h"

namespace kvops::KVOPS_GPU {

kvops_status convert_vertical_slash_indexes_mergehead(
    const kvops_convert_vertical_slash_indexes_mergehead_args& a) {
  return convert_vertical_slash("convert_vertical_slash_indexes_mergehead", VerticalSlash(a),
                                a.block_count);
}

}  // namespace kvops::KVOPS_GPU
