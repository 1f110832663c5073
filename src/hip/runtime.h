// libamdhip64, opened on first use: the functions of it that this library calls.
#pragma once
#include <hip/hip_runtime_api.h>

#include <cstddef>

namespace kvops::hip {

// X(name, parameters): hipError_t hip<name> parameters.
#define KVOPS_HIP_FUNCTIONS(X)                                             \
  X(GetDeviceCount, (int*))                                                \
  X(GetDevice, (int*))                                                     \
  X(SetDevice, (int))                                                      \
  X(Malloc, (void**, size_t))                                              \
  X(Free, (void*))                                                         \
  X(HostMalloc, (void**, size_t, unsigned))                                \
  X(HostFree, (void*))                                                     \
  X(MemcpyAsync, (void*, const void*, size_t, hipMemcpyKind, hipStream_t)) \
  X(MemsetAsync, (void*, int, size_t, hipStream_t))                        \
  X(StreamCreateWithFlags, (hipStream_t*, unsigned))                       \
  X(StreamDestroy, (hipStream_t))                                          \
  X(StreamSynchronize, (hipStream_t))                                      \
  X(StreamIsCapturing, (hipStream_t, hipStreamCaptureStatus*))             \
  X(LaunchKernel, (const void*, dim3, dim3, void**, size_t, hipStream_t))

struct Runtime {
#define KVOPS_FIELD(name, parameters) hipError_t(*name) parameters = nullptr;
  KVOPS_HIP_FUNCTIONS(KVOPS_FIELD)
#undef KVOPS_FIELD
  const char* (*GetErrorString)(hipError_t) = nullptr;
  // In HIP 6 this symbol still has the layout of HIP 5's struct; nullptr where it is gone.
  hipError_t (*GetDeviceProperties)(hipDeviceProp_t*, int) = nullptr;
  // Of its struct only the type's numbers have changed.
  hipError_t (*PointerGetAttributes)(hipPointerAttribute_t*, const void*) = nullptr;
  int devices = 0;
};

// The opened library, its kernels registered; nullptr, with the reason in *why, when there is none
// or it has no device.
const Runtime* runtime(const char** why);

}  // namespace kvops::hip
