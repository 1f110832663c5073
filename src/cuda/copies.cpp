// What gpu/copies.h asks of CUDA: what memory an address leads to, and the driver's own copies,
// as a batch where the driver has that (CUDA 12.8).
#include "gpu/copies.h"

#include <cuda.h>
#include <cudaTypedefs.h>

#include <algorithm>

#include "cuda/device.h"

namespace kvops::cuda {
namespace {

// Longer batches of unequal copies have hung drivers of CUDA 13.
constexpr int64_t kBatch = 4096;

struct Functions {
  PFN_cuPointerGetAttributes_v7000 attributes;
  PFN_cuMemcpyBatchAsync_v12080 batch;

  Functions() {
    find_driver_function("cuPointerGetAttributes", 7000, attributes);
    find_driver_function("cuMemcpyBatchAsync", 12080, batch);
  }
};
const Functions& functions() {
  static const Functions found;
  return found;
}

cudaStream_t stream_of(const kvops_tensor& on) { return static_cast<cudaStream_t>(on.stream); }

kvops_status fail_copy(const char* op, const Copy& copy, cudaError_t error) {
  auto status = error == cudaErrorMemoryAllocation ? KVOPS_OUT_OF_MEMORY : KVOPS_DEVICE_ERROR;
  return fail_at(copy.element, status, op, "copy", "[%lld]: %s", (long long)copy.element,
                 cudaGetErrorString(error));
}

kvops_status one_by_one(const char* op, const kvops_tensor& on, const Copy* copies, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    auto& c = copies[i];
    auto error = cudaMemcpyAsync(c.to, c.from, size_t(c.bytes), cudaMemcpyDefault, stream_of(on));
    if (error) return fail_copy(op, c, error);
  }
  return KVOPS_OK;
}

kvops_status one_batch(const char* op, const kvops_tensor& on, const Copy* copies, int64_t n,
                       const Batch& how) {
  std::vector<CUdeviceptr> to, from;
  std::vector<size_t> bytes;
  for (auto* c = copies; c < copies + n; ++c) {
    to.push_back(reinterpret_cast<CUdeviceptr>(c->to));
    from.push_back(reinterpret_cast<CUdeviceptr>(c->from));
    bytes.push_back(size_t(c->bytes));
  }
  CUmemcpyAttributes attributes = {};
  attributes.srcAccessOrder =
      how.any_order ? CU_MEMCPY_SRC_ACCESS_ORDER_ANY : CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  size_t first = 0, failed = SIZE_MAX;
  auto error = functions().batch(to.data(), from.data(), bytes.data(), size_t(n), &attributes,
                                 &first, 1, &failed, stream_of(on));
  if (error == CUDA_ERROR_NOT_SUPPORTED) return one_by_one(op, on, copies, n);
  return error ? fail_copy(op, copies[failed < size_t(n) ? failed : 0], cudaError_t(error))
               : KVOPS_OK;
}

}  // namespace

Memory memory_at(const void* address, const kvops_tensor& on) {
  Memory memory;
  DeviceGuard guard(on.device.index);
  if (!functions().attributes) return memory;
  CUmemorytype type = {};
  CUdeviceptr begin = 0, device_pointer = 0;
  size_t bytes = 0;
  int device = -1;
  unsigned managed = 0;
  CUpointer_attribute what[] = {
      CU_POINTER_ATTRIBUTE_MEMORY_TYPE,    CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
      CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_IS_MANAGED,
      CU_POINTER_ATTRIBUTE_RANGE_SIZE,     CU_POINTER_ATTRIBUTE_RANGE_START_ADDR};
  void* answers[] = {&type, &device_pointer, &device, &managed, &bytes, &begin};
  auto here = reinterpret_cast<CUdeviceptr>(address);
  if (functions().attributes(6, what, answers, here)) return memory;
  memory.host = type == CU_MEMORYTYPE_HOST && !managed;
  bool own = memory.host || managed || (type == CU_MEMORYTYPE_DEVICE && device == on.device.index);
  memory.reachable = own && device_pointer;
  if (!memory.reachable) return memory;
  memory.shift = int64_t(device_pointer - here);
  if (begin <= here && here - begin < bytes) memory.begin = begin, memory.end = begin + bytes;
  return memory;
}

bool is_capturing(const kvops_tensor& on) {
  return kDeviceApi.capturing(on.device.index, on.stream);
}

kvops_status driver_copies(const char* op, const kvops_tensor& on, const Copy* copies, int64_t n,
                           const Batch* batch) {
  DeviceGuard guard(on.device.index);
  if (auto error = guard.error()) return fail_cuda(op, "copy", error);
  bool legacy = !on.stream || on.stream == cudaStreamLegacy;  // batches refuse it, graphs them
  if (!batch || n < 2 || legacy || !functions().batch || is_capturing(on))
    return one_by_one(op, on, copies, n);
  for (int64_t i = 0; i < n; i += kBatch)
    if (auto s = one_batch(op, on, copies + i, std::min(kBatch, n - i), *batch)) return s;
  return KVOPS_OK;
}

}  // namespace kvops::cuda
