// gpu_tests: what needs a GPU and its runtime. Exit status 77 where there is none.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <cstdio>

#include "kvcache_ops.h"

int main(int argc, char** argv) {
  int32_t devices = 0;
  kvops_device_count(KVOPS_CUDA, &devices);
  if (devices) return Catch::Session().run(argc, argv);
  std::printf("skipped: there is no CUDA device\n");
  return 77;
}
