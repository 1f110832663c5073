// One call: complete a shorter struct, bind, find the back end, check the workspace, run.
#include "core/call.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "core/debug.h"
#include "core/error.h"
#include "core/view.h"

namespace kvops {
namespace {

struct alignas(8) Copy {
  char bytes[kMaxArgsSize];
};

// Did the struct ever end here? Its releases end between two members.
bool is_release(const Contract& c, size_t size) {
  if (size < c.first_size) return false;
  for (auto& a : c.args)
    if (a.offset == size) return true;
  return size > c.args_size && size % 8 == 0 && size <= c.args_size + 4096;
}

// The caller's struct, completed with zeros when it is older and shorter than ours.
kvops_status complete(const Contract& c, const void*& args, Copy& copy) {
  size_t ours = c.args_size, theirs = 0;
  if (!args) return fail(KVOPS_INVALID_ARGUMENT, c.op, "args", "is NULL");
  std::memcpy(&theirs, args, sizeof theirs);
  if (theirs == ours) return KVOPS_OK;
  if (!is_release(c, theirs))
    return fail(KVOPS_INVALID_ARGUMENT, c.op, "struct_size",
                "is %zu, expected %zu (sizeof kvops_%s_args)", theirs, ours, c.op);
  auto* from = static_cast<const char*>(args);
  for (size_t i = ours; i < theirs; ++i)
    if (from[i])
      return fail(KVOPS_UNSUPPORTED, c.op, "struct_size",
                  "is %zu with values past byte %zu, which is all that this library knows", theirs,
                  ours);
  std::memset(copy.bytes, 0, ours);
  std::memcpy(copy.bytes, args, std::min(ours, theirs));
  args = copy.bytes;
  return KVOPS_OK;
}

const char* device_name(int32_t type) {
  return type == KVOPS_CPU ? "cpu" : type == KVOPS_CUDA ? "cuda" : "hip";
}

struct Plan {
  Bound bound;
  const Backend* backend = nullptr;
  int64_t bytes = 0;
};

kvops_status check_workspace(const Contract& c, const Plan& plan) {
  auto& bound = plan.bound;
  if (!bound.sized && bound.sized_optional) return KVOPS_OK;
  int64_t have = bound.sized ? bound.sized->shape[0] : 0;
  if (have < plan.bytes)
    return fail(KVOPS_INVALID_ARGUMENT, c.op, bound.sized_name,
                "shape[0] is %lld, expected at least %lld (bytes)", (long long)have,
                (long long)plan.bytes);
  if (bound.sized && reinterpret_cast<uintptr_t>(bound.sized->data) % 64)
    return fail(KVOPS_INVALID_ARGUMENT, c.op, bound.sized_name,
                "data is %p, expected a multiple of 64", bound.sized->data);
  return KVOPS_OK;
}

// All that comes before the back end.
kvops_status prepare(const Entry& e, const void* args, Mode mode, Plan& plan) {
  auto* op = e.contract.op;
  if (auto s = bind(e.contract, args, mode, plan.bound)) return s;
  auto type = plan.bound.device.type;
  if (!(e.backends >> type & 1))
    return fail(KVOPS_UNSUPPORTED, op, "", "does not exist for %s", device_name(type));
  const char* why = "";
  plan.backend = backend_of(type, &why);
  if (!plan.backend) return fail(KVOPS_UNAVAILABLE, op, "", "%s", why);
  if (!e.has(*plan.backend))
    return fail(KVOPS_UNSUPPORTED, op, "", "is not in this build's %s back end", device_name(type));
  int32_t count = plan.backend->device->count(), index = plan.bound.device.index;
  if (index < 0 || index >= count)
    return fail(KVOPS_UNAVAILABLE, op, "", "there is no %s:%d, only %d devices", device_name(type),
                index, count);
  if (!e.bytes || plan.bound.empty) return KVOPS_OK;
  plan.bytes = e.bytes(*plan.backend, args);
  return mode == Mode::run ? check_workspace(e.contract, plan) : KVOPS_OK;
}

// The same call with dense strides for extents of 1: back ends compute with strides.
const void* tamed(const Contract& c, const void* args, Copy& copy) {
  if (args != copy.bytes) std::memcpy(copy.bytes, args, c.args_size);
  for (auto& a : c.args) {
    if (a.kind != Kind::tensor || a.flags & KVOPS_ARG_PLACE) continue;
    auto* t = reinterpret_cast<kvops_tensor*>(copy.bytes + a.offset);
    if (!is_empty(*t)) *t = with_plain_strides(*t);
  }
  return copy.bytes;
}

kvops_status run(const Entry& e, const void* args) {
  Copy copy;
  if (auto s = complete(e.contract, args, copy)) return s;
  Plan plan;
  if (auto s = prepare(e, args, Mode::run, plan)) return s;
  if (plan.bound.empty) return KVOPS_OK;
  if (plan.bound.wild_strides) args = tamed(e.contract, args, copy);
  return debugging() ? debug_call(e, *plan.backend, plan.bound, args) : e.call(*plan.backend, args);
}

// Nothing of ours throws; what a library below throws ends here.
template <class F>
kvops_status guarded(const char* op, F&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return fail(KVOPS_OUT_OF_MEMORY, op, "", "the host has no memory left");
  } catch (const std::exception& e) {
    return fail(KVOPS_INTERNAL, op, "", "%s", e.what());
  } catch (...) {
    return fail(KVOPS_INTERNAL, op, "", "unknown exception");
  }
}

}  // namespace

kvops_status call(const Entry& e, const void* args) noexcept {
  return guarded(e.contract.op, [&] { return run(e, args); });
}

kvops_status query(const Entry& e, const void* args, kvops_query_result* result) noexcept {
  return guarded(e.contract.op, [&]() -> kvops_status {
    if (result && result->struct_size < sizeof(size_t))
      return fail(KVOPS_INVALID_ARGUMENT, "kvops_query", "result", "struct_size is not set");
    Copy copy;
    if (auto s = complete(e.contract, args, copy)) return s;
    Plan plan;
    if (auto s = prepare(e, args, Mode::query, plan)) return s;
    if (!result) return KVOPS_OK;
    bool gpu = plan.bound.device.type != KVOPS_CPU;
    kvops_query_result r = {result->struct_size, plan.bytes, plan.backend->implementation(), gpu,
                            1};
    std::memcpy(result, &r, std::min(r.struct_size, sizeof r));
    return KVOPS_OK;
  });
}

kvops_status ask_bytes(const Entry& e, const void* args, int64_t* bytes) noexcept {
  if (!bytes) return fail(KVOPS_INVALID_ARGUMENT, e.contract.op, "bytes", "is NULL");
  kvops_query_result r = {sizeof r, 0, "", 0, 0};
  auto s = query(e, args, &r);
  if (!s) *bytes = r.bytes;
  return s;
}

}  // namespace kvops

using namespace kvops;

extern "C" {

#define KVOPS_OP(op, ...)                                  \
  kvops_status kvops_##op(const kvops_##op##_args* args) { \
    return call(kEntries[size_t(Id::op)], args);           \
  }
#define KVOPS_SIZE(op, function, ...)                                            \
  kvops_status kvops_##function(const kvops_##op##_args* args, int64_t* bytes) { \
    return ask_bytes(kEntries[size_t(Id::op)], args, bytes);                     \
  }
#include "ops.def"

static kvops_status unknown(const char* function, const char* op) {
  return fail(KVOPS_UNSUPPORTED, function, "op", "there is no operator \"%s\"", op ? op : "");
}

kvops_status kvops_call(const char* op, const void* args) {
  auto* e = find_entry(op);
  return e ? call(*e, args) : unknown("kvops_call", op);
}

kvops_status kvops_query(const char* op, const void* args, kvops_query_result* result) {
  auto* e = find_entry(op);
  return e ? query(*e, args, result) : unknown("kvops_query", op);
}

int32_t kvops_version(void) { return KVOPS_VERSION; }

}  // extern "C"
