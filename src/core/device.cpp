// kvcache_ops/device.h: checks the arguments, then asks the back end of the device.
#include <algorithm>
#include <cstring>

#include "core/backend.h"
#include "core/error.h"

namespace kvops {
namespace {

// The functions for a device that exists; nullptr, and the error in *status, for any other.
const DeviceApi* api_of(const char* function, kvops_device device, kvops_status* status) {
  if (device.type != KVOPS_CPU && device.type != KVOPS_CUDA && device.type != KVOPS_HIP) {
    *status = fail(KVOPS_INVALID_ARGUMENT, function, "device", "type is %d, expected 1, 2 or 10",
                   device.type);
    return nullptr;
  }
  const char* why = "";
  auto* backend = backend_of(device.type, &why);
  if (!backend) {
    *status = fail(KVOPS_UNAVAILABLE, function, "device", "%s", why);
    return nullptr;
  }
  int32_t count = backend->device->count();
  if (device.index < 0 || device.index >= count) {
    *status = fail(KVOPS_UNAVAILABLE, function, "device", "index is %d, expected less than %d",
                   device.index, count);
    return nullptr;
  }
  return backend->device;
}

template <class F>
kvops_status on(const char* function, kvops_device device, F&& body) {
  kvops_status status = KVOPS_OK;
  auto* api = api_of(function, device, &status);
  return api ? body(*api) : status;
}

kvops_status is_null(const char* function, const char* argument) {
  return fail(KVOPS_INVALID_ARGUMENT, function, argument, "is NULL");
}
kvops_status negative(const char* function, int64_t bytes) {
  return fail(KVOPS_INVALID_ARGUMENT, function, "bytes", "is %lld, expected at least 0",
              (long long)bytes);
}

}  // namespace
}  // namespace kvops

using namespace kvops;

extern "C" {

kvops_status kvops_device_count(int32_t type, int32_t* count) {
  if (!count) return is_null("kvops_device_count", "count");
  const char* why = "";
  auto* backend = backend_of(type, &why);
  *count = backend ? backend->device->count() : 0;
  return KVOPS_OK;
}

kvops_status kvops_get_device_info(kvops_device device, kvops_device_info* info) {
  constexpr auto* f = "kvops_get_device_info";
  if (!info || info->struct_size < sizeof(size_t))
    return fail(KVOPS_INVALID_ARGUMENT, f, "info", "struct_size is not set");
  return on(f, device, [&](const DeviceApi& api) {
    kvops_device_info full = {};
    full.struct_size = info->struct_size;
    auto status = api.info(device.index, full);
    if (!status) std::memcpy(info, &full, std::min(info->struct_size, sizeof full));
    return status;
  });
}

#define KVOPS_ALLOCATION(name, allocate, release_name, release)          \
  kvops_status name(kvops_device device, int64_t bytes, void** data) {   \
    if (!data) return is_null(#name, "data");                            \
    if (bytes < 0) return negative(#name, bytes);                        \
    *data = nullptr;                                                     \
    return on(#name, device, [&](const DeviceApi& api) {                 \
      return bytes ? api.allocate(device.index, bytes, data) : KVOPS_OK; \
    });                                                                  \
  }                                                                      \
  kvops_status release_name(kvops_device device, void* data) {           \
    return on(#release_name, device, [&](const DeviceApi& api) {         \
      return data ? api.release(device.index, data) : KVOPS_OK;          \
    });                                                                  \
  }
KVOPS_ALLOCATION(kvops_malloc, allocate, kvops_free, release)
KVOPS_ALLOCATION(kvops_malloc_pinned, allocate_pinned, kvops_free_pinned, release_pinned)
#undef KVOPS_ALLOCATION

kvops_status kvops_copy(kvops_device device, void* stream, void* dst, const void* src,
                        int64_t bytes) {
  constexpr auto* f = "kvops_copy";
  if (bytes < 0) return negative(f, bytes);
  if (bytes && !(dst && src)) return is_null(f, dst ? "src" : "dst");
  return on(f, device, [&](const DeviceApi& api) {
    return bytes ? api.copy(device.index, stream, dst, src, bytes) : KVOPS_OK;
  });
}

kvops_status kvops_fill(kvops_device device, void* stream, void* dst, int32_t byte, int64_t bytes) {
  constexpr auto* f = "kvops_fill";
  if (bytes < 0) return negative(f, bytes);
  if (bytes && !dst) return is_null(f, "dst");
  return on(f, device, [&](const DeviceApi& api) {
    return bytes ? api.fill(device.index, stream, dst, byte, bytes) : KVOPS_OK;
  });
}

kvops_status kvops_stream_create(kvops_device device, void** stream) {
  constexpr auto* f = "kvops_stream_create";
  if (!stream) return is_null(f, "stream");
  return on(f, device,
            [&](const DeviceApi& api) { return api.stream_create(device.index, stream); });
}
kvops_status kvops_stream_destroy(kvops_device device, void* stream) {
  return on("kvops_stream_destroy", device, [&](const DeviceApi& api) {
    return stream ? api.stream_destroy(device.index, stream) : KVOPS_OK;
  });
}
kvops_status kvops_stream_synchronize(kvops_device device, void* stream) {
  return on("kvops_stream_synchronize", device,
            [&](const DeviceApi& api) { return api.synchronize(device.index, stream); });
}

}  // extern "C"
