// convert_vertical_slash_indexes_mergehead: the same with list lengths of their own for every head.
#include "cpu/convert_vertical_slash_indexes.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status convert_vertical_slash_indexes_mergehead(
    const kvops_convert_vertical_slash_indexes_mergehead_args& a) {
  return convert_vertical_slash(VerticalSlash(a));
}

}  // namespace kvops::cpu
