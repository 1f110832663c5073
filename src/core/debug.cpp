// KVOPS_DEBUG: bounds, log, sync around one call.
#include "core/debug.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/indices.h"
#include "core/options.h"

namespace kvops {
namespace {

void append_tensor(std::string& line, const char* name, const kvops_tensor& t) {
  line.append(" ").append(name).append("=").append(dtype(t.dtype).name).append("[");
  for (int i = 0; i < t.rank; ++i) line.append(i ? "," : "").append(std::to_string(t.shape[i]));
  line.append("]");
}

// "rms_norm cuda:0 input=bf16[7,64] out=bf16[7,64] epsilon=1e-06 -> KVOPS_OK"
void log_call(const Contract& c, const Bound& bound, const void* args, kvops_status status) {
  auto* base = static_cast<const char*>(args);
  std::string line = c.op;
  auto type = bound.device.type;
  line.append(type == KVOPS_CPU ? " cpu:" : type == KVOPS_CUDA ? " cuda:" : " hip:");
  line.append(std::to_string(bound.device.index));
  for (auto& a : c.args) {
    auto* member = base + a.offset;
    char number[32];
    if (a.kind == Kind::tensor) {
      auto& t = *reinterpret_cast<const kvops_tensor*>(member);
      if (t.rank || t.data) append_tensor(line, a.name, t);
      continue;
    }
    if (a.kind == Kind::real)
      std::snprintf(number, sizeof number, "%g", *reinterpret_cast<const double*>(member));
    else
      std::snprintf(number, sizeof number, "%lld",
                    (long long)*reinterpret_cast<const int64_t*>(member));
    line.append(" ").append(a.name).append("=").append(number);
  }
  line.append(" -> ").append(kvops_status_string(status));
  log_line(line.c_str());
}

}  // namespace

kvops_status debug_call(const Entry& e, const Backend& backend, const Bound& bound,
                        const void* args) {
  unsigned flags = debug_flags;
  auto& device = *backend.device;
  int32_t index = bound.device.index;
  bool waits = !device.capturing(index, bound.stream);
  kvops_status status = KVOPS_OK;
  if (flags & kDebugBounds && waits) status = check_indices(e.contract, args, device, bound);
  if (!status) status = e.call(backend, args);
  if (!status && flags & kDebugSync && waits) status = device.synchronize(index, bound.stream);
  if (flags & kDebugLog) log_call(e.contract, bound, args, status);
  return status;
}

}  // namespace kvops
