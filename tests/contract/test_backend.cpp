// A CPU back end that has every operator and runs none: addresses may be invented.
#include "contract/test_backend.h"

#include <cstdlib>
#include <cstring>

#include "core/backend.h"

Recorded recorded;
bool recording = true;

namespace kvops {
namespace {

template <class Args>
kvops_status record(const char* op, const Args& args) {
  if (!recording) return KVOPS_OK;
  recorded.op = op;
  recorded.args.resize(sizeof args);
  std::memcpy(recorded.args.data(), &args, sizeof args);
  return KVOPS_OK;
}

constexpr DeviceApi kDevice = {
    .count = [] { return 1; },
    .info = [](int32_t, kvops_device_info&) { return kvops_status{KVOPS_OK}; },
    .allocate = nullptr,
    .release = nullptr,
    .allocate_pinned = nullptr,
    .release_pinned = nullptr,
    .copy =
        [](int32_t, void*, void* dst, const void* src, int64_t bytes) {
          std::memcpy(dst, src, size_t(bytes));
          return kvops_status{KVOPS_OK};
        },
    .fill = nullptr,
    .stream_create = nullptr,
    .stream_destroy = nullptr,
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

extern "C" {
int32_t kvops_cpu_attn_has_isa(int64_t) { return 0; }
int32_t kvops_is_onednn_acl_supported(void) { return 0; }
}
