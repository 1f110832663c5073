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

// The same without an order of what was written: for blocks whose memory was read by others, before
// they write it again or end. What was read has been used.
__device__ inline void cluster_leave() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where `p`, in shared memory, is in the same kernel's block of this rank.
template <class T>
__device__ T* of_peer(T* p, int rank) {
  T* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
  return there;
}

// What the blocks of a cluster tell each other once, in far less time than a barrier takes that
// orders all memory: every block opens its box for so many bytes, sends to all, and waits for them.
struct Mailbox {
  uint64_t barrier;

  __device__ void open(int bytes) {
    if (!threadIdx.x) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(this)) : "memory");
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(this)),
                   "r"(bytes)
                   : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  }
  // Before the first send: all boxes are open.
  __device__ void wait_for_all() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  }
  // To where `to` is in the block of that rank; 4 or 8 bytes.
  template <class T>
  __device__ void send(T* to, const T& value, int rank) {
    uint32_t there, box;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(to)), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(box) : "r"(address(this)), "r"(rank));
    if constexpr (sizeof(T) == 4)
      asm volatile(
          "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(there),
          "r"(__builtin_bit_cast(uint32_t, value)), "r"(box)
          : "memory");
    else
      asm volatile(
          "st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(there),
          "l"(__builtin_bit_cast(uint64_t, value)), "r"(box)
          : "memory");
  }
  __device__ void receive() {
    asm volatile(
        "{\n.reg .pred done;\n"
        "wait: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n"
        "@!done bra wait;\n}" ::"r"(address(this))
        : "memory");
  }

 private:
  __device__ static uint32_t address(const void* p) {
    return uint32_t(__cvta_generic_to_shared(p));
  }
};

}  // namespace kvops::gpu
#else
#define KVOPS_HAS_CLUSTERS 0

namespace kvops::gpu {

// Never run: the host launches no clusters of such code.
struct Mailbox {
  __device__ void open(int) {}
  __device__ void wait_for_all() {}
  template <class T>
  __device__ void send(T*, const T&, int) {}
  __device__ void receive() {}
};

}  // namespace kvops::gpu
#endif
