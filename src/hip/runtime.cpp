// Stands between the objects that hipcc makes and libamdhip64. The objects register their kernels
// while libkvops.so is being loaded: that is only written down here. On first use the first
// libamdhip64 found is opened, and what was written down is registered with it. The entry points
// have the names that hipcc generates calls to; they are local to libkvops.so.
#include "hip/runtime.h"

#include <dlfcn.h>

#include <cstdio>
#include <deque>
#include <string>

namespace kvops::hip {
namespace {

struct Kernel {
  const void* host;
  char* device;
  const char* name;
};
struct Module {
  const void* binary;
  std::deque<Kernel> kernels;
};
// Constructed by the first registration, which runs before any other code of this library.
std::deque<Module>& modules() {
  static std::deque<Module> all;
  return all;
}

// One that is in the process already comes first: streams of the caller are made by it.
void* open_library() {
  constexpr const char* kNames[] = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5",
                                    "libamdhip64.so", "/opt/rocm/lib/libamdhip64.so"};
  for (int flags : {RTLD_NOW | RTLD_NOLOAD, RTLD_NOW})
    for (auto* name : kNames)
      if (void* library = dlopen(name, flags)) return library;
  return nullptr;
}

template <class F>
bool find(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  return function != nullptr;
}

struct Opened : Runtime {
  std::string why;

  Opened() {
    void* library = open_library();
    if (!library) {
      why = "libamdhip64 is not installed";
      return;
    }
    bool complete = find(library, "hipGetErrorString", GetErrorString);
#define KVOPS_FIND(name, parameters) complete = find(library, "hip" #name, name) && complete;
    KVOPS_HIP_FUNCTIONS(KVOPS_FIND)
#undef KVOPS_FIND
    find(library, "hipGetDeviceProperties", GetDeviceProperties);
    find(library, "hipPointerGetAttributes", PointerGetAttributes);
    if (!complete) {
      why = "libamdhip64 lacks functions of HIP 5";
      return;
    }
    auto error = GetDeviceCount(&devices);
    if (error == hipErrorNoDevice || (!error && !devices)) {
      why = "libamdhip64 finds no device";
    } else if (error) {
      why = GetErrorString(error);
    } else {
      register_kernels(library);
    }
  }

  void register_kernels(void* library) {
    void** (*register_binary)(const void*) = nullptr;
    void (*register_function)(void**, const void*, char*, const char*, unsigned, void*, void*,
                              void*, void*, int*) = nullptr;
    if (!find(library, "__hipRegisterFatBinary", register_binary) ||
        !find(library, "__hipRegisterFunction", register_function)) {
      why = "libamdhip64 cannot register kernels";
      return;
    }
    for (auto& module : modules()) {
      void** handle = register_binary(module.binary);
      for (auto& k : module.kernels)
        register_function(handle, k.host, k.device, k.name, ~0u, nullptr, nullptr, nullptr, nullptr,
                          nullptr);
    }
  }
};

}  // namespace

const Runtime* runtime(const char** why) {
  static const Opened opened;
  if (opened.why.empty()) return &opened;
  *why = opened.why.c_str();
  return nullptr;
}

}  // namespace kvops::hip

using kvops::hip::runtime;

extern "C" {

void** __hipRegisterFatBinary(const void* binary) {
  auto& all = kvops::hip::modules();
  all.push_back({binary, {}});
  return reinterpret_cast<void**>(&all.back());
}

void __hipRegisterFunction(void** module, const void* host, char* device, const char* name,
                           unsigned, void*, void*, void*, void*, int*) {
  reinterpret_cast<kvops::hip::Module*>(module)->kernels.push_back({host, device, name});
}

// libkvops.so is never unloaded, and at exit the runtime may be gone before us.
void __hipUnregisterFatBinary(void**) {}

// The kernels' host stubs refer to these three. launch_kernel() does not go through them.
hipError_t __hipPushCallConfiguration(dim3, dim3, size_t, hipStream_t) {
  return hipErrorNotSupported;
}
hipError_t __hipPopCallConfiguration(dim3*, dim3*, size_t*, hipStream_t*) {
  return hipErrorNotSupported;
}
hipError_t hipLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** parameters,
                           size_t shared, hipStream_t stream) {
  const char* why;
  auto* r = runtime(&why);
  return r ? r->LaunchKernel(kernel, grid, block, parameters, shared, stream) : hipErrorNoDevice;
}

}  // extern "C"
