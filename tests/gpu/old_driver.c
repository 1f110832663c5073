/* With LIBRARY: a stand-in for the libcuda.so.1 of a driver of CUDA 12.4. Without: a program that
   finds it and must hear both versions, while the CPU serves as ever. */
#ifdef LIBRARY

int cuDriverGetVersion(int* version);
int cuInit(unsigned flags);
int cuDeviceGetCount(int* count);

int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}
int cuInit(unsigned flags) { return (int)(flags & 0); }
int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}

#else

#include <stdio.h>
#include <string.h>

#include "kvcache_ops.h"

int main(void) {
  const kvops_device cuda = {KVOPS_CUDA, 0}, cpu = {KVOPS_CPU, 0};
  const int64_t shape[] = {1, 4};
  float x[4] = {1, 2, 3, 4};
  kvops_rms_norm_args a;
  void* data = NULL;
  const char* text;
  int32_t devices = -1;
  if (kvops_device_count(KVOPS_CUDA, &devices) || devices) return 1;
  if (kvops_malloc(cuda, 64, &data) != KVOPS_UNAVAILABLE) return 2;
  text = kvops_last_error();
  printf("%s\n", text);
  if (!strstr(text, "CUDA 12.4") || !strstr(text, "CUDA 13.0") || !strstr(text, "580")) return 3;
  memset(&a, 0, sizeof a);
  a.struct_size = sizeof a;
  a.input = kvops_dense(x, cpu, NULL, KVOPS_F32, 2, shape);
  a.out = a.input;
  if (kvops_rms_norm(&a) || x[0] < 0.36f || x[0] > 0.37f) return 4;
  return 0;
}

#endif
