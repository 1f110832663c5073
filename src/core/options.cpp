// kvops_set_option() and the environment variables of the same meaning; kvops_set_log().
#include "core/options.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "core/debug.h"
#include "core/error.h"
#include "cpu/isa.h"
#include "cpu/onednn.h"
#include "kvcache_ops/options.h"

namespace kvops {

std::atomic<unsigned> debug_flags{0};

namespace {

struct Settings {
  std::mutex mutex;
  std::string impl;
  kvops_log log = nullptr;
  void* log_context = nullptr;
};
// Never destroyed: operators may still run while the process ends.
Settings& settings() {
  static auto& s = *new Settings;
  return s;
}

// Calls f with each part of "a,b,c", without spaces; stops at the first that it refuses.
template <class F>
bool each_part(std::string_view list, F&& f) {
  while (!list.empty()) {
    auto part = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), part.size() + 1));
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    if (!part.empty() && !f(part)) return false;
  }
  return true;
}

bool set_debug(std::string_view value) {
  unsigned flags = 0;
  bool known = each_part(value, [&](std::string_view name) {
    unsigned flag = name == "bounds" ? unsigned{kDebugBounds}
                    : name == "log"  ? unsigned{kDebugLog}
                    : name == "sync" ? unsigned{kDebugSync}
                                     : 0U;
    flags |= flag;
    return flag != 0;
  });
  if (known) debug_flags = flags;
  return known;
}

// The operators that have several implementations, on any back end, and ask forced_implementation()
// for one; the others have none to choose from.
struct Implementations {
  const char* op;
  const char* names;
};
constexpr Implementations kImplementations[] = {
    {"cpu_attention_with_kv_cache", "portable bf16 amx"},
    {"onednn_mm", "onednn highway"},
    {"onednn_scaled_mm", "onednn highway"},
    {"paged_attention_v1", "mma portable"},
};

bool has_implementation(std::string_view op, std::string_view name) {
  for (auto& i : kImplementations)
    for (std::string_view rest = i.op == op ? i.names : ""; !rest.empty();) {
      auto one = rest.substr(0, rest.find(' '));
      if (one == name) return true;
      rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    }
  return false;
}

bool set_impl(std::string_view value) {
  bool known = each_part(value, [](std::string_view part) {
    auto op = part.substr(0, part.find(':'));
    return has_implementation(op, part.substr(std::min(op.size() + 1, part.size())));
  });
  if (!known) return false;
  std::lock_guard lock(settings().mutex);
  settings().impl = value;
  return true;
}

struct Option {
  const char* name;
  const char* variable;
  bool (*set)(std::string_view value);
  const char* values;

  std::string expected() const {
    std::string text = values;
    if (set == set_impl)
      for (auto& i : kImplementations)
        text.append(&i == kImplementations ? ": " : "; ")
            .append(i.op)
            .append(" has ")
            .append(i.names);
    return text;
  }
};
constexpr Option kOptions[] = {
    {"debug", "KVOPS_DEBUG", set_debug, "a list of bounds, log, sync"},
    {"impl", "KVOPS_IMPL", set_impl, "a list of operator:implementation"},
    {"cpu_isa", "KVOPS_CPU_ISA", cpu::set_isa, "one of scalar sse4 avx2 avx3 that this CPU has"},
    {"onednn", "KVOPS_ONEDNN", cpu::set_onednn, "the path of oneDNN's library, or off"},
};

// A bad variable is ignored and becomes the last error of the loading thread, where `kvops doctor`
// looks for it: the library does not print.
[[gnu::constructor]] void read_environment() {
  for (auto& option : kOptions) {
    const char* value = std::getenv(option.variable);
    if (value && !option.set(value))
      fail(KVOPS_UNSUPPORTED, option.variable, "", "is \"%s\", expected %s; ignored", value,
           option.expected().c_str());
  }
}

}  // namespace

std::string forced_implementation(const char* op) {
  std::lock_guard lock(settings().mutex);
  std::string found;
  each_part(settings().impl, [&](std::string_view part) {
    auto colon = part.find(':');
    if (part.substr(0, colon) == op) found = part.substr(colon + 1);
    return true;
  });
  return found;
}

void log_line(const char* line) {
  // Called without the lock: the callback may set another one.
  std::unique_lock lock(settings().mutex);
  auto log = settings().log;
  auto* context = settings().log_context;
  lock.unlock();
  if (log)
    log(context, line);
  else
    std::fprintf(stderr, "kvops: %s\n", line);
}

}  // namespace kvops

using namespace kvops;

extern "C" {

kvops_status kvops_set_option(const char* name, const char* value) {
  constexpr auto* f = "kvops_set_option";
  if (!name || !value) return fail(KVOPS_INVALID_ARGUMENT, f, name ? "value" : "name", "is NULL");
  for (auto& option : kOptions) {
    if (std::string_view(option.name) != name) continue;
    return option.set(value) ? KVOPS_OK
                             : fail(KVOPS_UNSUPPORTED, f, "value", "of %s is \"%s\", expected %s",
                                    name, value, option.expected().c_str());
  }
  return fail(KVOPS_UNSUPPORTED, f, "name", "is \"%s\", expected one of debug impl cpu_isa onednn",
              name);
}

kvops_status kvops_set_log(kvops_log function, void* context) {
  std::lock_guard lock(settings().mutex);
  settings().log = function, settings().log_context = context;
  return KVOPS_OK;
}

}  // extern "C"
