// The dispatch table: struct Backend has one pointer per operator and one per size function, filled
// from the columns of src/ops.def by src/<back end>/backend.cpp.
#pragma once
#include "kvcache_ops.h"

namespace kvops {

// What kvcache_ops/device.h promises, for one type of device. The arguments have been checked:
// pointers are not NULL, sizes not negative, the index is below count().
struct DeviceApi {
  int32_t (*count)();
  kvops_status (*info)(int32_t index, kvops_device_info& info);
  kvops_status (*allocate)(int32_t index, int64_t bytes, void** data);
  kvops_status (*release)(int32_t index, void* data);
  kvops_status (*allocate_pinned)(int32_t index, int64_t bytes, void** data);
  kvops_status (*release_pinned)(int32_t index, void* data);
  kvops_status (*copy)(int32_t index, void* stream, void* dst, const void* src, int64_t bytes);
  kvops_status (*fill)(int32_t index, void* stream, void* dst, int32_t byte, int64_t bytes);
  kvops_status (*stream_create)(int32_t index, void** stream);
  kvops_status (*stream_destroy)(int32_t index, void* stream);
  kvops_status (*synchronize)(int32_t index, void* stream);
  bool (*capturing)(int32_t index, void* stream);  // is a graph being recorded?
};

struct Backend {
  const char* (*implementation)();  // what runs: "avx2", "sm_90"
  const DeviceApi* device;
#define KVOPS_OP(op, ...) kvops_status (*op)(const kvops_##op##_args&);
#define KVOPS_SIZE(op, ...) int64_t (*op##_bytes)(const kvops_##op##_args&);
#include "ops.def"
};

extern const Backend kCpuBackend;

// The back end of a device type; nullptr when there is none here, with the reason in *why.
const Backend* backend_of(int32_t device_type, const char** why);

// Column 1 or 0 of src/ops.def: the function, or nullptr.
#define KVOPS_IF_1(...) __VA_ARGS__
#define KVOPS_IF_0(...) nullptr
#define KVOPS_DECLARE_1(op) kvops_status op(const kvops_##op##_args&);
#define KVOPS_DECLARE_0(op)
#define KVOPS_DECLARE_SIZE_1(op) int64_t op##_bytes(const kvops_##op##_args&);
#define KVOPS_DECLARE_SIZE_0(op)

}  // namespace kvops
