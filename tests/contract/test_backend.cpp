// A CPU back end that has every operator and runs none: addresses may be invented.
#include "contract/test_backend.h"

#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "core/backend.h"
#include "cpu/onednn.h"
#include "kvcache_ops/onednn.h"

Recorded recorded;
bool recording = true;
kvops_status (*rms_norm_hook)(const kvops_rms_norm_args& args) = nullptr;

namespace kvops {
namespace {

template <class Args>
kvops_status record(const char* op, const Args& args) {
  if constexpr (std::is_same_v<Args, kvops_rms_norm_args>)
    if (rms_norm_hook) return rms_norm_hook(args);
  if (!recording) return KVOPS_OK;
  recorded.op = op;
  recorded.args.resize(sizeof args);
  std::memcpy(recorded.args.data(), &args, sizeof args);
  return KVOPS_OK;
}

kvops_status allocate(int32_t, int64_t bytes, void** data) {
  *data = std::aligned_alloc(256, size_t(bytes + 255) & ~size_t{255});
  return KVOPS_OK;
}
kvops_status release(int32_t, void* data) {
  std::free(data);
  return KVOPS_OK;
}

constexpr DeviceApi kDevice = {
    .count = [] { return 1; },
    .info = [](int32_t, kvops_device_info&) { return kvops_status{KVOPS_OK}; },
    .allocate = allocate,
    .release = release,
    .allocate_pinned = allocate,
    .release_pinned = release,
    .copy =
        [](int32_t, void*, void* dst, const void* src, int64_t bytes) {
          std::memcpy(dst, src, size_t(bytes));
          return kvops_status{KVOPS_OK};
        },
    .fill = nullptr,
    .stream_create =
        [](int32_t, void** stream) {
          *stream = nullptr;
          return kvops_status{KVOPS_OK};
        },
    .stream_destroy = [](int32_t, void*) { return kvops_status{KVOPS_OK}; },
    .synchronize = [](int32_t, void*) { return kvops_status{KVOPS_OK}; },
    .capturing = [](int32_t, void*) { return false; },
};

}  // namespace

const Backend kCpuBackend = {
    [] { return "test"; },
    &kDevice,
#define KVOPS_OP(op, ...) [](const kvops_##op##_args& a) { return record(#op, a); },
#define KVOPS_SIZE(op, ...) [](const kvops_##op##_args&) { return int64_t{kTestBytes}; },
#include "ops.def"
};

}  // namespace kvops

namespace kvops::cpu {
bool set_onednn(std::string_view) { return true; }
}  // namespace kvops::cpu

extern "C" {
int32_t kvops_cpu_attn_has_isa(int64_t) { return 0; }
int32_t kvops_is_onednn_acl_supported(void) { return 0; }
const char* kvops_onednn_library(void) { return ""; }
}
