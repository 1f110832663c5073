// What differs between CUDA and HIP in device code. A file of src/gpu is compiled as both;
// KVOPS_GPU, set by the CMake directory, names the back end's namespace. Device helpers live in
// kvops::gpu; host functions in kvops::KVOPS_GPU, so that the two back ends never share a symbol.
#pragma once
#include "gpu/launch.h"
#if defined(__HIP__)
#include <hip/hip_runtime.h>
#endif

// Before a kernel's parameter that is looked at by index or address: read where it is, not copied
// to every thread's stack first.
#if defined(__HIP__)
#define KVOPS_IN_PLACE const
#else
#define KVOPS_IN_PLACE const __grid_constant__
#endif

namespace kvops::gpu {

#if defined(__HIP__)
// Lanes of a wavefront. Device code only: on a 64-lane target the host pass sees 32.
#if defined(__AMDGCN_WAVEFRONT_SIZE)
inline constexpr int kWarp = __AMDGCN_WAVEFRONT_SIZE;
#else
inline constexpr int kWarp = 32;
#endif
__device__ inline float shuffle_xor(float x, int mask) { return __shfl_xor(x, mask); }
__device__ inline int shuffle_up(int x, int lanes) { return __shfl_up(x, unsigned(lanes)); }
__device__ inline int shuffle(int x, int lane) { return __shfl(x, lane); }
using LaneMask = unsigned long long;
__device__ inline LaneMask ballot(bool x) { return __ballot(x); }
#else
inline constexpr int kWarp = 32;
__device__ inline float shuffle_xor(float x, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, x, mask);
}
__device__ inline int shuffle_up(int x, int lanes) {
  return __shfl_up_sync(0xFFFFFFFFu, x, unsigned(lanes));
}
__device__ inline int shuffle(int x, int lane) { return __shfl_sync(0xFFFFFFFFu, x, lane); }
using LaneMask = unsigned;
__device__ inline LaneMask ballot(bool x) { return __ballot_sync(0xFFFFFFFFu, x); }
#endif

// The counter of bad index entries; nullptr when the caller does not ask.
__device__ inline void add_fault(int64_t* faults) {
  if (faults) atomicAdd(reinterpret_cast<unsigned long long*>(faults), 1ull);
}

// Quotient and remainder of n / d, both not negative. A 64-bit division takes far longer than a
// 32-bit one, which is nearly always enough.
struct Split {
  int64_t quotient, remainder;
};
static __device__ __noinline__ Split split_long(int64_t n, int64_t d) { return {n / d, n % d}; }
__device__ inline Split split(int64_t n, int64_t d) {
  if ((n | d) > INT32_MAX) return split_long(n, d);
  return {uint32_t(n) / uint32_t(d), uint32_t(n) % uint32_t(d)};
}

// The same by a divisor that the host knows: where n has 31 bits, a multiplication by 2^(31+s) / d,
// rounded up, s = ceil(log2 d); its error times n stays below one unit of the quotient.
struct Splitter {
  int64_t d;
  uint32_t factor = 0;  // 0: d has more bits than n
  int shift = 0;

  explicit Splitter(int64_t divisor) : d(divisor) {
    if (d > INT32_MAX) return;
    while ((int64_t(1) << shift) < d) ++shift;
    factor = uint32_t(((uint64_t(1) << (31 + shift)) + uint64_t(d) - 1) / uint64_t(d));
  }
  struct Short {
    uint32_t quotient, remainder;
  };
  __device__ Short operator()(uint32_t n) const {  // n < 2^31
    uint32_t quotient = __umulhi(n << 1, factor) >> shift;
    return {quotient, n - quotient * uint32_t(d)};
  }
  __device__ Split operator()(int64_t n) const {
    if (n > INT32_MAX) return split_long(n, d);
    auto at = (*this)(uint32_t(n));
    return {at.quotient, at.remainder};
  }
};

// No thread block is larger: launch bounds and shared memory count on it.
inline constexpr int kMaxThreads = 1024;

}  // namespace kvops::gpu
