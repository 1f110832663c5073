// How the host side of src/gpu queues a kernel; implemented by src/cuda and src/hip.
#pragma once
#include "core/view.h"
#include "kvcache_ops.h"

namespace kvops::KVOPS_GPU {

// Blocks of up to 2^31 - 1 by 65535 by 65535.
struct Grid {
  int64_t x = 1, y = 1, z = 1;
  int threads = 256;
  int64_t shared = 0;  // bytes of dynamic shared memory, at most shared_memory()
  int cluster = 1;     // blocks along x that are on the device together, at most max_cluster()
};

// Queues a kernel on the device and the stream of the tensor `on`, whatever device is current.
// Implemented by the back end; the status is that of the launch call itself.
kvops_status launch_kernel(const char* op, const void* kernel, const Grid& grid,
                           const kvops_tensor& on, void** parameters);

// Of the device that the tensor is on: SMs or CUs, bytes of shared memory that a block may have,
// blocks of a cluster (1: it has none).
int64_t compute_units(const kvops_tensor& on);
int64_t shared_memory(const kvops_tensor& on);
int max_cluster(const kvops_tensor& on);

// Is the kernel's code on that device for compute capability 9.0 or more: with clusters, with a
// wait for the work ahead? Newer devices may run older code.
bool is_code_for_90(const kvops_tensor& on, const void* kernel);

template <class... P, class... A>
kvops_status launch(const char* op, void (*kernel)(P...), const Grid& grid, const kvops_tensor& on,
                    const A&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A));
  auto queue = [&](P... parameters) {
    void* pointers[] = {&parameters...};
    return launch_kernel(op, reinterpret_cast<const void*>(kernel), grid, on, pointers);
  };
  return queue(arguments...);
}

}  // namespace kvops::KVOPS_GPU
