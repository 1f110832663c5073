// Fills the HIP column of the dispatch table, launches the kernels of src/gpu, and does what
// kvcache_ops/device.h promises.
#include "hip/backend.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "gpu/copies.h"
#include "gpu/early.h"
#include "hip/runtime.h"

namespace kvops::hip {

#define KVOPS_OP(op, on_cpu, on_cuda, on_hip, ...) KVOPS_DECLARE_##on_hip(op)
#define KVOPS_SIZE(op, function, on_cpu, on_cuda, on_hip) KVOPS_DECLARE_SIZE_##on_hip(op)
#include "ops.def"

namespace {

// Only called once backend() has answered, so the runtime is there.
const Runtime& api() {
  const char* why;
  return *runtime(&why);
}

// Runs body with the device current, and restores the former one.
template <class F>
hipError_t with_device(int device, F&& body) {
  int former = 0;
  if (auto error = api().GetDevice(&former)) return error;
  if (former == device) return body();
  if (auto error = api().SetDevice(device)) return error;
  auto error = body();
  auto restored = api().SetDevice(former);
  return error ? error : restored;
}

kvops_status fail_hip(const char* function, const char* argument, hipError_t error) {
  auto status = error == hipErrorOutOfMemory ? KVOPS_OUT_OF_MEMORY : KVOPS_DEVICE_ERROR;
  return fail(status, function, argument, "%s", api().GetErrorString(error));
}

template <class F>
kvops_status on(const char* function, const char* argument, int32_t device, F&& body) {
  auto error = with_device(device, body);
  return error ? fail_hip(function, argument, error) : KVOPS_OK;
}

hipStream_t stream_of(void* stream) { return static_cast<hipStream_t>(stream); }

// "gfx90a:sramecc+:xnack-" without its features; gfx94x has the fnuz formats.
void read_facts(int device, kvops_device_info& i) {
  i.compute_units = 64, i.warp_size = 64, i.fp8_e4m3 = KVOPS_F8_E4M3;
  // Room for later HIP versions, whose struct has grown at its end.
  union {
    hipDeviceProp_t properties;
    char room[8192];
  } u;
  std::memset(&u, 0, sizeof u);
  auto& p = u.properties;
  if (!api().GetDeviceProperties || api().GetDeviceProperties(&p, device)) return;
  std::snprintf(i.name, sizeof i.name, "%.*s", int(sizeof i.name) - 1, p.name);
  std::snprintf(i.arch, sizeof i.arch, "%.*s",
                std::min(int(std::strcspn(p.gcnArchName, ":")), int(sizeof i.arch) - 1),
                p.gcnArchName);
  i.memory_bytes = int64_t(p.totalGlobalMem);
  i.cache_bytes = p.l2CacheSize;
  i.compute_units = std::max(1, p.multiProcessorCount);
  i.warp_size = p.warpSize;
  if (!std::strncmp(i.arch, "gfx94", 5)) i.fp8_e4m3 = KVOPS_F8_E4M3FNUZ;
}

const kvops_device_info& facts(int32_t device) {
  static const std::vector<kvops_device_info> all = [] {
    std::vector<kvops_device_info> found(size_t(api().devices));
    for (int d = 0; d < api().devices; ++d) read_facts(d, found[size_t(d)]);
    return found;
  }();
  return all[size_t(device)];
}

kvops_status info(int32_t device, kvops_device_info& i) {
  auto size = i.struct_size;
  i = facts(device);
  i.struct_size = size;
  return KVOPS_OK;
}
kvops_status allocate(int32_t device, int64_t bytes, void** data) {
  return on("kvops_malloc", "bytes", device, [&] { return api().Malloc(data, size_t(bytes)); });
}
kvops_status release(int32_t device, void* data) {
  return on("kvops_free", "data", device, [&] { return api().Free(data); });
}
kvops_status allocate_pinned(int32_t device, int64_t bytes, void** data) {
  return on("kvops_malloc_pinned", "bytes", device,
            [&] { return api().HostMalloc(data, size_t(bytes), hipHostMallocPortable); });
}
kvops_status release_pinned(int32_t device, void* data) {
  return on("kvops_free_pinned", "data", device, [&] { return api().HostFree(data); });
}
kvops_status copy(int32_t device, void* stream, void* dst, const void* src, int64_t bytes) {
  return on("kvops_copy", "", device, [&] {
    return api().MemcpyAsync(dst, src, size_t(bytes), hipMemcpyDefault, stream_of(stream));
  });
}
kvops_status fill(int32_t device, void* stream, void* dst, int32_t byte, int64_t bytes) {
  return on("kvops_fill", "", device,
            [&] { return api().MemsetAsync(dst, byte, size_t(bytes), stream_of(stream)); });
}
kvops_status stream_create(int32_t device, void** stream) {
  return on("kvops_stream_create", "", device, [&] {
    hipStream_t created = nullptr;
    auto error = api().StreamCreateWithFlags(&created, hipStreamNonBlocking);
    *stream = created;
    return error;
  });
}
kvops_status stream_destroy(int32_t device, void* stream) {
  return on("kvops_stream_destroy", "stream", device,
            [&] { return api().StreamDestroy(stream_of(stream)); });
}
kvops_status synchronize(int32_t device, void* stream) {
  return on("kvops_stream_synchronize", "stream", device,
            [&] { return api().StreamSynchronize(stream_of(stream)); });
}
bool capturing(int32_t device, void* stream) {
  auto status = hipStreamCaptureStatusNone;
  auto error =
      with_device(device, [&] { return api().StreamIsCapturing(stream_of(stream), &status); });
  return error != hipSuccess || status != hipStreamCaptureStatusNone;
}

constexpr DeviceApi kDeviceApi = {
    .count = [] { return int32_t(api().devices); },
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

constexpr Backend kBackend = {
    [] { return static_cast<const char*>(facts(0).arch); },
    &kDeviceApi,
#define KVOPS_OP(op, on_cpu, on_cuda, on_hip, ...) KVOPS_IF_##on_hip(&hip::op),
#define KVOPS_SIZE(op, function, on_cpu, on_cuda, on_hip) KVOPS_IF_##on_hip(&hip::op##_bytes),
#include "ops.def"
};

}  // namespace

// Memory of this device has no address on the CPU, pinned memory has two. Both may be pieces of an
// allocation whose range HIP does not tell in one way for all.
Memory memory_at(const void* address, const kvops_tensor& on) {
  Memory memory;
  hipPointerAttribute_t found = {};
  auto error = with_device(on.device.index, [&] {
    return api().PointerGetAttributes ? api().PointerGetAttributes(&found, address)
                                      : hipErrorNotSupported;
  });
  if (error || !found.devicePointer) return memory;
  memory.host = found.hostPointer && !found.isManaged;
  memory.reachable = memory.host || found.isManaged || found.device == on.device.index;
  auto begin = reinterpret_cast<uintptr_t>(address);
  if (memory.host) {
    auto* own = static_cast<const char*>(found.hostPointer);
    auto* other = static_cast<const char*>(found.devicePointer);
    memory.shift = other - own;
  }
  memory.begin = begin, memory.end = begin + 1;
  return memory;
}

bool is_capturing(const kvops_tensor& on) { return capturing(on.device.index, on.stream); }

// One by one: the batch of ROCm 7 has changed its parameters between releases.
kvops_status driver_copies(const char* op, const kvops_tensor& on, const Copy* copies, int64_t n,
                           const Batch*) {
  for (auto* c = copies; c < copies + n; ++c) {
    auto error = with_device(on.device.index, [&] {
      return api().MemcpyAsync(c->to, c->from, size_t(c->bytes), hipMemcpyDefault,
                               stream_of(on.stream));
    });
    if (!error) continue;
    auto status = error == hipErrorOutOfMemory ? KVOPS_OUT_OF_MEMORY : KVOPS_DEVICE_ERROR;
    return fail_at(c->element, status, op, "copy", "[%lld]: %s", (long long)c->element,
                   api().GetErrorString(error));
  }
  return KVOPS_OK;
}

const Backend* backend(const char** why) { return runtime(why) ? &kBackend : nullptr; }

int64_t compute_units(const kvops_tensor& on) { return facts(on.device.index).compute_units; }
int64_t shared_memory(const kvops_tensor&) { return 64 << 10; }  // of every GPU that HIP supports
int max_cluster(const kvops_tensor&) { return 1; }
bool is_code_for_90(const kvops_tensor&, const void*) { return false; }

kvops_status launch_kernel(const char* op, const void* kernel, const Grid& grid,
                           const kvops_tensor& on, void** parameters) {
  auto error = with_device(on.device.index, [&] {
    return api().LaunchKernel(kernel, dim3(unsigned(grid.x), unsigned(grid.y), unsigned(grid.z)),
                              dim3(unsigned(grid.threads)), parameters, size_t(grid.shared),
                              stream_of(on.stream));
  });
  if (error == hipErrorNoBinaryForGpu || error == hipErrorInvalidDeviceFunction)
    return fail(KVOPS_UNAVAILABLE, op, "launch", "this library has no code for %s, only for %s",
                facts(on.device.index).arch, KVOPS_HIP_ARCHITECTURES);
  return error ? fail_hip(op, "launch", error) : KVOPS_OK;
}
kvops_status launch_early_kernel(const char* op, const void* kernel, const Grid& grid,
                                 const kvops_tensor& on, void** parameters) {
  return launch_kernel(op, kernel, grid, on, parameters);
}

}  // namespace kvops::hip
