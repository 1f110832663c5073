// Clusters of blocks on one GPC of an NVIDIA GPU of compute capability 9.0 on: they can wait for
// each other and read each other's shared memory. The host launches them where max_cluster() says
// so; the code of other devices has none of this.
#pragma once
#include "gpu/device.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define KVOPS_HAS_CLUSTERS 1

namespace kvops::gpu {

__device__ inline unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks; what one wrote before, all see afterwards.
__device__ inline void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where `p`, in shared memory, is in the same kernel's block of this rank.
template <class T>
__device__ T* of_peer(T* p, int rank) {
  T* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
  return there;
}

}  // namespace kvops::gpu
#else
#define KVOPS_HAS_CLUSTERS 0
#endif
