// kvcache_ops/device.h on the CPU.
#include <catch2/catch.hpp>
#include <cstring>
#include <string>

#include "kvcache_ops.h"

using std::string;

static constexpr kvops_device kCpu = {KVOPS_CPU, 0};

TEST_CASE("device: the CPU is one device with a name, memory and cores") {
  int32_t count = 0;
  REQUIRE(kvops_device_count(KVOPS_CPU, &count) == KVOPS_OK);
  CHECK(count == 1);
  CHECK(kvops_device_count(KVOPS_CPU, nullptr) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_device_count(99, &count) == KVOPS_OK);  // of a type that nobody knows: none
  CHECK(count == 0);
  kvops_device_info info = {};
  CHECK(kvops_get_device_info(kCpu, &info) == KVOPS_INVALID_ARGUMENT);  // no struct_size
  info.struct_size = sizeof info;
  REQUIRE(kvops_get_device_info(kCpu, &info) == KVOPS_OK);
  CHECK(*info.name);
  CHECK(*info.arch);
  CHECK(info.memory_bytes > 0);
  CHECK(info.compute_units >= 1);
  CHECK(info.warp_size == 1);
  CHECK(info.fp8_e4m3 == KVOPS_F8_E4M3);
  CHECK(kvops_get_device_info({KVOPS_CPU, 1}, &info) == KVOPS_UNAVAILABLE);
  CHECK(kvops_get_device_info({KVOPS_CPU, -1}, &info) == KVOPS_UNAVAILABLE);
  CHECK(kvops_get_device_info({3, 0}, &info) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_get_device_info(kCpu, nullptr) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("device: an older, shorter device info is filled as far as it goes") {
  kvops_device_info info;
  std::memset(&info, 0x5a, sizeof info);
  info.struct_size = offsetof(kvops_device_info, compute_units);
  REQUIRE(kvops_get_device_info(kCpu, &info) == KVOPS_OK);
  CHECK(info.memory_bytes > 0);
  CHECK(info.compute_units == 0x5a5a5a5a5a5a5a5a);
}

TEST_CASE("device: memory is aligned to 256 bytes, and nothing is NULL") {
  for (bool pinned : {false, true}) {
    auto allocate = pinned ? kvops_malloc_pinned : kvops_malloc;
    auto release = pinned ? kvops_free_pinned : kvops_free;
    for (int64_t bytes : {1, 255, 256, 100000}) {
      void* data = nullptr;
      REQUIRE(allocate(kCpu, bytes, &data) == KVOPS_OK);
      REQUIRE(data);
      CHECK(reinterpret_cast<uintptr_t>(data) % 256 == 0);
      std::memset(data, 1, size_t(bytes));
      CHECK(release(kCpu, data) == KVOPS_OK);
    }
    void* data = &data;
    CHECK(allocate(kCpu, 0, &data) == KVOPS_OK);
    CHECK(data == nullptr);
    CHECK(release(kCpu, nullptr) == KVOPS_OK);
    CHECK(allocate(kCpu, -1, &data) == KVOPS_INVALID_ARGUMENT);
    CHECK(allocate(kCpu, 1, nullptr) == KVOPS_INVALID_ARGUMENT);
    CHECK(allocate(kCpu, INT64_MAX, &data) == KVOPS_OUT_OF_MEMORY);
    CHECK(data == nullptr);
  }
}

TEST_CASE("device: copies and fills are done on return") {
  char from[64], to[64];
  for (int i = 0; i < 64; ++i) from[i] = char(i), to[i] = 9;
  REQUIRE(kvops_copy(kCpu, nullptr, to + 1, from, 62) == KVOPS_OK);
  CHECK(!std::memcmp(to + 1, from, 62));
  CHECK(to[0] == 9);
  CHECK(to[63] == 9);
  REQUIRE(kvops_fill(kCpu, nullptr, to + 2, 0xab, 3) == KVOPS_OK);
  CHECK(to[1] == 0);
  CHECK(uint8_t(to[2]) == 0xab);
  CHECK(uint8_t(to[4]) == 0xab);
  CHECK(to[5] == 4);
  CHECK(kvops_copy(kCpu, nullptr, to, from, 0) == KVOPS_OK);
  CHECK(kvops_copy(kCpu, nullptr, nullptr, nullptr, 0) == KVOPS_OK);
  CHECK(kvops_copy(kCpu, nullptr, nullptr, from, 1) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_copy(kCpu, nullptr, to, nullptr, 1) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_copy(kCpu, nullptr, to, from, -1) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_fill(kCpu, nullptr, nullptr, 0, 1) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("device: the CPU's only stream is NULL") {
  char a[4] = {}, b[4] = {};
  void* stream = &a;
  REQUIRE(kvops_stream_create(kCpu, &stream) == KVOPS_OK);
  CHECK(stream == nullptr);
  CHECK(kvops_stream_synchronize(kCpu, nullptr) == KVOPS_OK);
  CHECK(kvops_stream_destroy(kCpu, nullptr) == KVOPS_OK);
  CHECK(kvops_stream_create(kCpu, nullptr) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_copy(kCpu, &a, a, b, 4) == KVOPS_INVALID_ARGUMENT);
  CHECK(string(kvops_last_error()).starts_with("kvops_copy: stream: is "));
  CHECK(kvops_fill(kCpu, &a, a, 0, 4) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_stream_synchronize(kCpu, &a) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("device: a type without a back end here says why") {
  int32_t count = 7;
  if (kvops_device_count(KVOPS_HIP, &count) == KVOPS_OK && count) return;
  void* data = nullptr;
  CHECK(kvops_malloc({KVOPS_HIP, 0}, 16, &data) == KVOPS_UNAVAILABLE);
  CHECK(string(kvops_last_error()).starts_with("kvops_malloc: device: "));
  CHECK(string(kvops_last_error()).size() > 30);
}
