// kvcache_ops/device.h for CUDA, and facts of devices, each read once.
#include "cuda/device.h"

#include <cuda.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <vector>

namespace kvops::cuda {
namespace {

struct Facts {
  std::once_flag once;
  kvops_device_info info = {};
  Limits limits = {};
};

struct Contexts {
  CUresult (*get)(CUcontext*) = nullptr;
  CUresult (*set)(CUcontext) = nullptr;

  Contexts() {
    find_driver_function("cuCtxGetCurrent", CUDART_VERSION, get);
    find_driver_function("cuCtxSetCurrent", CUDART_VERSION, set);
  }
};
const Contexts& contexts() {
  static const Contexts found;
  return found;
}

int64_t attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, which, device) ? 0 : value;
}

void read_facts(int device, Facts& facts) {
  auto& i = facts.info;
  cudaDeviceProp properties;
  if (!cudaGetDeviceProperties(&properties, device)) {
    std::snprintf(i.name, sizeof i.name, "%.*s", int(sizeof i.name) - 1, properties.name);
    i.memory_bytes = int64_t(properties.totalGlobalMem);
  }
  std::snprintf(i.arch, sizeof i.arch, "sm_%d%d",
                int(attribute(cudaDevAttrComputeCapabilityMajor, device)),
                int(attribute(cudaDevAttrComputeCapabilityMinor, device)));
  i.cache_bytes = attribute(cudaDevAttrL2CacheSize, device);
  i.compute_units = std::max<int64_t>(1, attribute(cudaDevAttrMultiProcessorCount, device));
  i.warp_size = attribute(cudaDevAttrWarpSize, device);
  i.fp8_e4m3 = KVOPS_F8_E4M3;
  facts.limits = {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                  attribute(cudaDevAttrClusterLaunch, device) ? 8 : 1};
}

// Runs body with the device current.
template <class F>
kvops_status on(const char* function, const char* argument, int32_t device, F&& body) {
  DeviceGuard guard(device);
  auto error = guard.error();
  if (!error) error = body();
  return error ? fail_cuda(function, argument, error) : KVOPS_OK;
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

kvops_status info(int32_t device, kvops_device_info& i) {
  auto size = i.struct_size;
  i = facts(device);
  i.struct_size = size;
  return KVOPS_OK;
}

kvops_status allocate(int32_t device, int64_t bytes, void** data) {
  return on("kvops_malloc", "bytes", device, [&] { return cudaMalloc(data, size_t(bytes)); });
}
kvops_status release(int32_t device, void* data) {
  return on("kvops_free", "data", device, [&] { return cudaFree(data); });
}
kvops_status allocate_pinned(int32_t device, int64_t bytes, void** data) {
  return on("kvops_malloc_pinned", "bytes", device,
            [&] { return cudaHostAlloc(data, size_t(bytes), cudaHostAllocPortable); });
}
kvops_status release_pinned(int32_t device, void* data) {
  return on("kvops_free_pinned", "data", device, [&] { return cudaFreeHost(data); });
}

kvops_status copy(int32_t device, void* stream, void* dst, const void* src, int64_t bytes) {
  return on("kvops_copy", "", device, [&] {
    return cudaMemcpyAsync(dst, src, size_t(bytes), cudaMemcpyDefault, stream_of(stream));
  });
}
kvops_status fill(int32_t device, void* stream, void* dst, int32_t byte, int64_t bytes) {
  return on("kvops_fill", "", device,
            [&] { return cudaMemsetAsync(dst, byte, size_t(bytes), stream_of(stream)); });
}

kvops_status stream_create(int32_t device, void** stream) {
  return on("kvops_stream_create", "", device, [&] {
    cudaStream_t created = nullptr;
    auto error = cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking);
    *stream = created;
    return error;
  });
}
kvops_status stream_destroy(int32_t device, void* stream) {
  return on("kvops_stream_destroy", "stream", device,
            [&] { return cudaStreamDestroy(stream_of(stream)); });
}
kvops_status synchronize(int32_t device, void* stream) {
  return on("kvops_stream_synchronize", "stream", device,
            [&] { return cudaStreamSynchronize(stream_of(stream)); });
}

// The default stream cannot be asked while another stream captures: that answer is yes, too.
bool capturing(int32_t device, void* stream) {
  DeviceGuard guard(device);
  auto status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream_of(stream), &status) != cudaSuccess ||
         status != cudaStreamCaptureStatusNone;
}

}  // namespace

DeviceGuard::DeviceGuard(int device) {
  error_ = cudaGetDevice(&former_);
  if (error_ || former_ == device) return;
  CUcontext context = nullptr;
  if (contexts().get && !contexts().get(&context)) context_ = context;
  error_ = cudaSetDevice(device);
  restores_ = true;
}

// Without a context, the device is all that there was.
DeviceGuard::~DeviceGuard() {
  if (!restores_) return;
  if (context_ && contexts().set)
    contexts().set(static_cast<CUcontext>(context_));
  else
    cudaSetDevice(former_);
}

kvops_status fail_cuda(const char* function, const char* argument, cudaError_t error) {
  auto status = error == cudaErrorMemoryAllocation ? KVOPS_OUT_OF_MEMORY : KVOPS_DEVICE_ERROR;
  return fail(status, function, argument, "%s", cudaGetErrorString(error));
}

int32_t device_count() {
  static const int32_t count = [] {
    int n = 0;
    return cudaGetDeviceCount(&n) ? 0 : n;
  }();
  return count;
}

static const Facts& all_facts(int32_t device) {
  static std::vector<Facts> all(static_cast<size_t>(device_count()));
  auto& f = all[size_t(device)];
  std::call_once(f.once, [&] { read_facts(device, f); });
  return f;
}
const kvops_device_info& facts(int32_t device) { return all_facts(device).info; }
const Limits& limits(int32_t device) { return all_facts(device).limits; }

const DeviceApi kDeviceApi = {
    .count = device_count,
    .info = info,
    .allocate = allocate,
    .release = release,
    .allocate_pinned = allocate_pinned,
    .release_pinned = release_pinned,
    .copy = copy,
    .fill = fill,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .synchronize = synchronize,
    .capturing = capturing,
};

}  // namespace kvops::cuda
