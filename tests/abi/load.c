/* load LIBRARY [hip]: dlopen() works without any device, creates nothing, and the CPU is served;
   with "hip", a HIP device past those that exist is then UNAVAILABLE, with the reason. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "kvcache_ops.h"

/* ISO C has no cast from an object pointer to a function pointer. */
static void* function(void* library, const char* name, void* target) {
  void* symbol = dlsym(library, name);
  if (!symbol) fprintf(stderr, "no %s\n", name);
  memcpy(target, &symbol, sizeof symbol);
  return symbol;
}

static int maps(const char* text) {
  char line[1024];
  int found = 0;
  FILE* file = fopen("/proc/self/maps", "r");
  while (file && fgets(line, sizeof line, file)) found |= strstr(line, text) != NULL;
  if (file) fclose(file);
  return found;
}

/* Memory and a call on a device of which there is one too few. */
static int no_hip(void* library, kvops_status (*rms_norm)(const kvops_rms_norm_args*)) {
  kvops_status (*device_count)(int32_t, int32_t*);
  kvops_status (*allocate)(kvops_device, int64_t, void**);
  const char* (*last_error)(void);
  kvops_device hip = {KVOPS_HIP, -1};
  float x[4] = {3, 3, 3, 3};
  int64_t n = 4;
  void* data = NULL;
  kvops_rms_norm_args a;
  if (!function(library, "kvops_device_count", &device_count)) return 1;
  if (!function(library, "kvops_malloc", &allocate)) return 1;
  if (!function(library, "kvops_last_error", &last_error)) return 1;
  if (device_count(KVOPS_HIP, &hip.index) || hip.index < 0) return 2;
  if (allocate(hip, 64, &data) != KVOPS_UNAVAILABLE || data) return 3;
  if (strncmp(last_error(), "kvops_malloc: device: ", 22)) return 4;
  memset(&a, 0, sizeof a);
  a.struct_size = sizeof a;
  a.input = kvops_dense(x, hip, NULL, KVOPS_F32, 1, &n);
  a.out = a.input;
  if (rms_norm(&a) != KVOPS_UNAVAILABLE || x[0] != 3) return 5;
  printf("%d devices; %s\n", (int)hip.index, last_error());
  return strncmp(last_error(), "rms_norm: ", 10) || strlen(last_error()) < 30 ? 6 : 0;
}

int main(int argc, char** argv) {
  int32_t (*version)(void);
  kvops_status (*rms_norm)(const kvops_rms_norm_args*);
  float x[4] = {3, 3, 3, 3}, y[4] = {0, 0, 0, 0};
  int64_t n = 4;
  kvops_device cpu = {KVOPS_CPU, 0};
  kvops_rms_norm_args a;
  void* library = dlopen(argc > 1 ? argv[1] : "libkvops.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
  if (maps("libcuda") || maps("libamdhip") || maps("libhsa"))
    return fprintf(stderr, "loading it opened a driver\n"), 1;
  if (!function(library, "kvops_version", &version)) return 1;
  if (!function(library, "kvops_rms_norm", &rms_norm)) return 1;
  if (version() != KVOPS_VERSION) return fprintf(stderr, "version %d\n", version()), 1;
  memset(&a, 0, sizeof a);
  a.struct_size = sizeof a;
  a.input = kvops_dense(x, cpu, NULL, KVOPS_F32, 1, &n);
  a.out = kvops_dense(y, cpu, NULL, KVOPS_F32, 1, &n);
  if (rms_norm(&a) || y[0] != 1) return fprintf(stderr, "rms_norm gives %g\n", (double)y[0]), 1;
  if (maps("libcuda") || maps("libamdhip"))
    return fprintf(stderr, "a call on the CPU opened a driver\n"), 1;
  return argc > 2 ? no_hip(library, rms_norm) : 0;
}
