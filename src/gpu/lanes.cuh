// What the lanes of a warp tell each other, beside gpu/device.cuh.
#pragma once
#include "gpu/scan.cuh"

namespace kvops::gpu {

#if defined(__HIP__)
__device__ inline int64_t shuffle(int64_t x, int lane) {
  return __shfl(static_cast<long long>(x), lane);
}
__device__ inline float shuffle(float x, int lane) { return __shfl(x, lane); }
// Of a mask with at least one lane.
__device__ inline int last_lane(LaneMask lanes) { return 63 - __clzll(int64_t(lanes)); }
#else
__device__ inline int64_t shuffle(int64_t x, int lane) { return __shfl_sync(0xFFFFFFFFu, x, lane); }
__device__ inline float shuffle(float x, int lane) { return __shfl_sync(0xFFFFFFFFu, x, lane); }
// Of a mask with at least one lane.
__device__ inline int last_lane(LaneMask lanes) { return 31 - __clz(int(lanes)); }
#endif

}  // namespace kvops::gpu
