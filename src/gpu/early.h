// How the host side of src/gpu queues a kernel that begins with await_queue() of gpu/early.cuh.
#pragma once
#include "gpu/launch.h"

namespace kvops::KVOPS_GPU {

// As launch_kernel(). On a device of compute capability 9.0 and more the kernel may be there, and
// wait, before the work ahead of it is done. Implemented by the back end.
kvops_status launch_early_kernel(const char* op, const void* kernel, const Grid& grid,
                                 const kvops_tensor& on, void** parameters);

template <class... P, class... A>
kvops_status launch_early(const char* op, void (*kernel)(P...), const Grid& grid,
                          const kvops_tensor& on, const A&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A));
  auto queue = [&](P... parameters) {
    void* pointers[] = {&parameters...};
    return launch_early_kernel(op, reinterpret_cast<const void*>(kernel), grid, on, pointers);
  };
  return queue(arguments...);
}

}  // namespace kvops::KVOPS_GPU
