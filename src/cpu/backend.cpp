// The CPU's column of the dispatch table, and device.h for it.
#include "core/backend.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"

namespace kvops {
namespace cpu {

#define KVOPS_OP(op, on_cpu, on_cuda, on_hip, ...) KVOPS_DECLARE_##on_cpu(op)
#define KVOPS_SIZE(op, function, on_cpu, on_cuda, on_hip) KVOPS_DECLARE_SIZE_##on_cpu(op)
#include "ops.def"

namespace {

int64_t positive(long value) { return value > 0 ? value : 0; }

// "model name" of /proc/cpuinfo; "CPU" where there is none.
void read_name(char* name, size_t size) {
  std::snprintf(name, size, "CPU");
  std::FILE* file = std::fopen("/proc/cpuinfo", "r");
  char line[256];
  while (file && std::fgets(line, sizeof line, file)) {
    const char* value = std::strchr(line, ':');
    if (std::strncmp(line, "model name", 10) != 0 || !value) continue;
    std::snprintf(name, size, "%.*s", int(std::strcspn(value + 2, "\n")), value + 2);
    break;
  }
  if (file) std::fclose(file);
}

kvops_status info(int32_t, kvops_device_info& i) {
  read_name(i.name, sizeof i.name);
  std::snprintf(i.arch, sizeof i.arch, "%s", isa_name());
  i.memory_bytes = positive(sysconf(_SC_PHYS_PAGES)) * positive(sysconf(_SC_PAGESIZE));
  i.cache_bytes = last_cache_bytes();
  i.compute_units = num_threads();
  i.warp_size = 1;
  i.fp8_e4m3 = KVOPS_F8_E4M3;
  return KVOPS_OK;
}

kvops_status allocate(int32_t, int64_t bytes, void** data) {
  constexpr int64_t kAlignment = 256;
  if (bytes <= INT64_MAX - kAlignment)
    *data = std::aligned_alloc(kAlignment, size_t((bytes + kAlignment - 1) & -kAlignment));
  return *data ? KVOPS_OK
               : fail(KVOPS_OUT_OF_MEMORY, "kvops_malloc", "bytes", "is %lld", (long long)bytes);
}
kvops_status release(int32_t, void* data) {
  std::free(data);
  return KVOPS_OK;
}

kvops_status only_null(const char* function, void* stream) {
  return stream ? fail(KVOPS_INVALID_ARGUMENT, function, "stream",
                       "is %p, expected NULL (on the cpu)", stream)
                : KVOPS_OK;
}
kvops_status copy(int32_t, void* stream, void* dst, const void* src, int64_t bytes) {
  if (auto s = only_null("kvops_copy", stream)) return s;
  std::memmove(dst, src, size_t(bytes));
  return KVOPS_OK;
}
kvops_status fill(int32_t, void* stream, void* dst, int32_t byte, int64_t bytes) {
  if (auto s = only_null("kvops_fill", stream)) return s;
  std::memset(dst, byte, size_t(bytes));
  return KVOPS_OK;
}

constexpr DeviceApi kDevice = {
    .count = [] { return 1; },
    .info = info,
    .allocate = allocate,
    .release = release,
    .allocate_pinned = allocate,
    .release_pinned = release,
    .copy = copy,
    .fill = fill,
    .stream_create =
        [](int32_t, void** stream) {
          *stream = nullptr;
          return kvops_status{KVOPS_OK};
        },
    .stream_destroy = [](int32_t, void* s) { return only_null("kvops_stream_destroy", s); },
    .synchronize = [](int32_t, void* s) { return only_null("kvops_stream_synchronize", s); },
    .capturing = [](int32_t, void*) { return false; },
};

}  // namespace
}  // namespace cpu

const Backend kCpuBackend = {
    cpu::isa_name,
    &cpu::kDevice,
#define KVOPS_OP(op, on_cpu, on_cuda, on_hip, ...) KVOPS_IF_##on_cpu(&cpu::op),
#define KVOPS_SIZE(op, function, on_cpu, on_cuda, on_hip) KVOPS_IF_##on_cpu(&cpu::op##_bytes),
#include "ops.def"
};

}  // namespace kvops

extern "C" {
// All packings are read and written by every instruction set.
int32_t kvops_cpu_attn_has_isa(int64_t isa) {
  return isa >= KVOPS_CPU_ISA_VEC && isa <= KVOPS_CPU_ISA_AMX;
}
}
