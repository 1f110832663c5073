// Kernels that are on the device before the work ahead of them in their stream is done, so that
// nothing but a wait lies between the two.
#pragma once
#include "gpu/device.cuh"
#include "gpu/early.h"

namespace kvops::gpu {

// Each thread of such a kernel calls it before it touches memory, on every path, and thereby allows
// the next kernel the same.
__device__ inline void await_queue() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n\tgriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Into L2, without waiting for it.
__device__ inline void prefetch([[maybe_unused]] const void* p) {
#if !defined(__HIP__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

}  // namespace kvops::gpu
