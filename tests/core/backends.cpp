// Back ends whose driver or runtime is not here: the library serves the CPU and says what is
// missing. Where the devices exist, they count.
#include <catch2/catch.hpp>
#include <cstring>

#include "kvcache_ops.h"

TEST_CASE("backends: a missing driver, runtime or device is UNAVAILABLE, with the reason") {
  for (int32_t type : {KVOPS_CUDA, KVOPS_HIP}) {
    int32_t devices = -1;
    REQUIRE(kvops_device_count(type, &devices) == KVOPS_OK);
    REQUIRE(devices >= 0);
    kvops_device past = {type, devices};
    void* data = nullptr;
    CHECK(kvops_malloc(past, 64, &data) == KVOPS_UNAVAILABLE);
    CHECK(std::strlen(kvops_last_error()) > std::strlen("kvops_malloc: device: "));

    float x[4] = {1, 2, 3, 4};
    const int64_t shape[] = {1, 4};
    auto t = kvops_dense(x, past, nullptr, KVOPS_F32, 2, shape);
    kvops_rms_norm_args a = {sizeof a, t, {}, t, 1e-6};
    CHECK(kvops_rms_norm(&a) == KVOPS_UNAVAILABLE);
    CHECK(!std::strncmp(kvops_last_error(), "rms_norm: ", 10));
    CHECK(x[0] == 1);
  }
}

TEST_CASE("backends: the CPU is always there") {
  int32_t devices = 0;
  REQUIRE(kvops_device_count(KVOPS_CPU, &devices) == KVOPS_OK);
  CHECK(devices == 1);
}
