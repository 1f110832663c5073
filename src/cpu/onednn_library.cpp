// Opens oneDNN: once per path, apart from every other copy in the process.
#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "cpu/matmul.h"
#include "cpu/onednn_api.h"
#include "kvcache_ops/cpu.h"
#include "kvcache_ops/onednn.h"

namespace kvops::cpu {
namespace dnnl {
namespace {

template <class F>
bool look_up(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  return function != nullptr;
}

// Why it cannot be used; "" when it can.
std::string connect(void* handle, Library& l) {
#define KVOPS_LOOK_UP(result, name, parameters) \
  if (!look_up(handle, "dnnl_" #name, l.api.name)) return "it has no dnnl_" #name;
  KVOPS_ONEDNN_API(KVOPS_LOOK_UP)
#undef KVOPS_LOOK_UP
  const Version& v = *l.api.version();
  l.state.version =
      std::to_string(v.major) + "." + std::to_string(v.minor) + "." + std::to_string(v.patch);
  if (v.major != 3) return "it is version " + l.state.version + ", expected 3";
  if (v.cpu_runtime == kOpenMp) {
    bool all = look_up(handle, "omp_set_num_threads", l.set_threads) &&
               look_up(handle, "omp_get_max_threads", l.max_threads) &&
               look_up(handle, "omp_in_parallel", l.in_parallel);
    if (!all) return "its OpenMP runtime cannot be found";
  } else if (v.cpu_runtime != kSequential) {
    return "its threading is number " + std::to_string(v.cpu_runtime) + ", expected OpenMP's (2)";
  }
  if (l.api.engine_create(&l.engine, kCpuEngine, 0)) return "it has no CPU engine";
  Dl_info where = {};
  if (dladdr(reinterpret_cast<void*>(l.api.version), &where) && where.dli_fname)
    l.state.path = where.dli_fname;
  return "";
}

// Beside this library, then in the lib folder of the Python environment that its wheel is installed
// in, then where the dynamic linker looks.
void* open_default() {
  constexpr const char* kName = "libdnnl.so.3";
  Dl_info here = {};
  if (dladdr(reinterpret_cast<void*>(&set_onednn), &here) && std::strchr(here.dli_fname, '/')) {
    std::string folder = here.dli_fname;
    folder.erase(folder.rfind('/') + 1);
    for (const char* way : {"", "../../../"})
      if (auto* handle = dlopen((folder + way + kName).c_str(), RTLD_LOCAL | RTLD_NOW))
        return handle;
  }
  return dlopen(kName, RTLD_LOCAL | RTLD_NOW);
}

Library* open_library(const std::string& path) {
  auto* l = new Library;
  if (path == "off") {
    l->state.missing = "it is turned off";
    return l;
  }
  void* handle = path.empty() ? open_default() : dlopen(path.c_str(), RTLD_LOCAL | RTLD_NOW);
  if (!handle) {
    const char* why = dlerror();
    l->state.missing = why ? why : path;
    return l;
  }
  auto problem = connect(handle, *l);
  if (!problem.empty()) {
    *l = {};
    l->state.missing = (path.empty() ? "libdnnl.so.3" : path) + ": " + problem;
    dlclose(handle);
  }
  return l;
}

struct Choice {
  std::string path;
  std::map<std::string, const Library*> opened;
};
Choice& choice() {
  static auto& c = *new Choice;
  return c;
}

}  // namespace

const Library& library() {
  std::lock_guard lock(matmul_mutex);
  auto& c = choice();
  auto& found = c.opened[c.path];
  if (!found) {
    auto* opened = open_library(c.path);
    auto& s = opened->state;
    s.text = opened->engine ? s.version + " " + s.path : "none: " + s.missing;
    found = opened;
  }
  return *found;
}

}  // namespace dnnl

bool set_onednn(std::string_view path) {
  std::lock_guard lock(matmul_mutex);
  dnnl::choice().path = path;
  return true;
}

const OneDnnState& onednn_state() { return dnnl::library().state; }

}  // namespace kvops::cpu

extern "C" {
// What PyPI and Debian have for x86 is not built over the Arm Compute Library.
int32_t kvops_is_onednn_acl_supported(void) { return 0; }
const char* kvops_onednn_library(void) { return kvops::cpu::onednn_state().text.c_str(); }
}
