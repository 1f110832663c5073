// Fills the CUDA column of the dispatch table and launches the kernels of src/gpu.
#include "cuda/backend.h"

#include <atomic>
#include <cstdio>

#include "cuda/device.h"
#include "gpu/early.h"

namespace kvops::cuda {

#define KVOPS_OP(op, on_cpu, on_cuda, on_hip, ...) KVOPS_DECLARE_##on_cuda(op)
#define KVOPS_SIZE(op, function, on_cpu, on_cuda, on_hip) KVOPS_DECLARE_SIZE_##on_cuda(op)
#include "ops.def"

namespace {

constexpr int64_t kUnaskedShared = 32 << 10;

constexpr Backend kBackend = {
    [] { return static_cast<const char*>(facts(0).arch); },
    &kDeviceApi,
#define KVOPS_OP(op, on_cpu, on_cuda, on_hip, ...) KVOPS_IF_##on_cuda(&cuda::op),
#define KVOPS_SIZE(op, function, on_cpu, on_cuda, on_hip) KVOPS_IF_##on_cuda(&cuda::op##_bytes),
#include "ops.def"
};

// Why there is no CUDA here; "" when there is.
struct Reason {
  char text[160] = "";

  Reason() {
    int driver = 0, count = 0;
    if (cudaDriverGetVersion(&driver) || !driver) {
      std::snprintf(text, sizeof text, "no NVIDIA driver is installed");
    } else if (driver / 1000 < CUDART_VERSION / 1000) {
      std::snprintf(text, sizeof text,
                    "the NVIDIA driver supports CUDA %d.%d, this library needs CUDA %d.0 "
                    "(driver %s or newer)",
                    driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, "580");
    } else if (auto error = cudaGetDeviceCount(&count)) {
      std::snprintf(text, sizeof text, "%s", cudaGetErrorString(error));
    } else if (!count) {
      std::snprintf(text, sizeof text, "the NVIDIA driver has no device");
    }
  }
};

// Each device is asked once: all kernels are compiled for the same ones.
bool is_code_for_90(int device, const void* kernel) {
  enum { kUnknown, kNo, kYes };
  static std::atomic<int> known[64];
  auto& answer = known[device % 64];
  if (answer == kUnknown || device >= 64) {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, kernel)) return false;
    answer = attributes.ptxVersion >= 90 ? kYes : kNo;
  }
  return answer == kYes;
}

kvops_status queue(const char* op, const void* kernel, const Grid& grid, const kvops_tensor& on,
                   void** parameters, bool early) {
  DeviceGuard guard(on.device.index);
  auto error = guard.error();
  if (!error) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(grid.x), unsigned(grid.y), unsigned(grid.z));
    config.blockDim = dim3(unsigned(grid.threads));
    config.dynamicSmemBytes = size_t(grid.shared);
    config.stream = static_cast<cudaStream_t>(on.stream);
    cudaLaunchAttribute attributes[2] = {};
    config.attrs = attributes;
    if (grid.cluster > 1) {
      auto& cluster = attributes[config.numAttrs++];
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim = {unsigned(grid.cluster), 1, 1};
    }
    if (early && is_code_for_90(on.device.index, kernel)) {
      auto& overlap = attributes[config.numAttrs++];
      overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      overlap.val.programmaticStreamSerializationAllowed = 1;
    }
    // What every kernel may have without asking is 48 KiB, static arrays included.
    if (grid.shared > kUnaskedShared)
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   int(grid.shared));
    if (!error) error = cudaLaunchKernelExC(&config, kernel, parameters);
  }
  if (error == cudaErrorNoKernelImageForDevice)
    return fail(KVOPS_UNAVAILABLE, op, "launch", "this library has no code for %s, only for %s",
                facts(on.device.index).arch, KVOPS_CUDA_ARCHITECTURES);
  return error ? fail_cuda(op, "launch", error) : KVOPS_OK;
}

}  // namespace

const Backend* backend(const char** why) {
  static const Reason reason;
  if (!reason.text[0]) return &kBackend;
  *why = reason.text;
  return nullptr;
}

int64_t compute_units(const kvops_tensor& on) { return facts(on.device.index).compute_units; }
int64_t shared_memory(const kvops_tensor& on) { return limits(on.device.index).shared_bytes; }
int max_cluster(const kvops_tensor& on) { return limits(on.device.index).cluster; }
bool is_code_for_90(const kvops_tensor& on, const void* kernel) {
  return is_code_for_90(on.device.index, kernel);
}

kvops_status launch_kernel(const char* op, const void* kernel, const Grid& grid,
                           const kvops_tensor& on, void** parameters) {
  return queue(op, kernel, grid, on, parameters, false);
}
kvops_status launch_early_kernel(const char* op, const void* kernel, const Grid& grid,
                                 const kvops_tensor& on, void** parameters) {
  return queue(op, kernel, grid, on, parameters, true);
}

}  // namespace kvops::cuda
