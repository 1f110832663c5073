// The scales of the sparse indexer's keys, for host and device: the same bytes on every back end.
#pragma once
#include "core/numeric.h"

namespace kvops {

// Of a group whose largest magnitude is amax. 224 leaves fnuz headroom.
KVOPS_HD inline float indexer_scale(float amax, bool fnuz, bool pow2) {
  float scale = div_rn(amax > 1e-4f ? amax : 1e-4f, fnuz ? 224.0f : 448.0f);
  return pow2 ? pow2_ceil(scale) : scale;
}

}  // namespace kvops
