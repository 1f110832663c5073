// What the CUDA back end's files share: the current device while a call runs, and its facts.
#pragma once
#include <cuda_runtime_api.h>

#include "core/backend.h"
#include "core/error.h"

namespace kvops::cuda {

// Makes a device current and restores the former one at the end. In most calls it is the same.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&former_);
    if (!error_ && former_ != device) error_ = cudaSetDevice(device), restores_ = true;
  }
  ~DeviceGuard() {
    if (restores_) cudaSetDevice(former_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int former_ = 0;
  bool restores_ = false;
  cudaError_t error_;
};

// "<function>: <argument>: <driver text>".
kvops_status fail_cuda(const char* function, const char* argument, cudaError_t error);

// Facts of a device below count(), read once.
const kvops_device_info& facts(int32_t device);
int32_t device_count();

extern const DeviceApi kDeviceApi;

}  // namespace kvops::cuda
