// Device type -> back end, and what to say where there is none.
#include "core/backend.h"

#if KVOPS_HAS_CUDA
#include "cuda/backend.h"
#endif
#if KVOPS_HAS_HIP
#include "hip/backend.h"
#endif

namespace kvops {

const Backend* backend_of(int32_t device_type, const char** why) {
  switch (device_type) {
    case KVOPS_CPU:
      return &kCpuBackend;
    case KVOPS_CUDA:
#if KVOPS_HAS_CUDA
      return cuda::backend(why);
#else
      *why = "this build of the library has no CUDA back end";
      return nullptr;
#endif
    case KVOPS_HIP:
#if KVOPS_HAS_HIP
      return hip::backend(why);
#else
      *why = "this build of the library has no HIP back end";
      return nullptr;
#endif
    default:
      *why = "there is no such type of device";
      return nullptr;
  }
}

}  // namespace kvops
