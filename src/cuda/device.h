// What the CUDA back end's files share: the current device while a call runs, and its facts.
#pragma once
#include <cuda_runtime_api.h>

#include "core/backend.h"
#include "core/error.h"

namespace kvops::cuda {

// Makes a device current and restores at the end what was before: the context, which a user of the
// driver interface may have made. In most calls the device is current already.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int former_ = 0;
  void* context_ = nullptr;
  bool restores_ = false;
  cudaError_t error_;
};

// A function of the driver, found through the runtime, with the interface that it had in a version
// of CUDA (12080: 12.8); nullptr: this driver has none. libcuda is not linked.
template <class F>
void find_driver_function(const char* name, unsigned version, F& function) {
  cudaDriverEntryPointQueryResult result;
  void* found = nullptr;
  if (cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result))
    found = nullptr;
  function = reinterpret_cast<F>(found);
}

// "<function>: <argument>: <driver text>".
kvops_status fail_cuda(const char* function, const char* argument, cudaError_t error);

// Facts of a device below count(), read once.
const kvops_device_info& facts(int32_t device);
struct Limits {
  int64_t shared_bytes;  // dynamic shared memory of a block
  int cluster;           // blocks that every device of its generation runs together
};
const Limits& limits(int32_t device);
int32_t device_count();

extern const DeviceApi kDeviceApi;

}  // namespace kvops::cuda
