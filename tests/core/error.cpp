// Status codes, names, the error of a thread.
#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <thread>

#include "kvcache_ops.h"

TEST_CASE("status: every code has its name, others have none") {
  const char* names[] = {"KVOPS_OK",          "KVOPS_INVALID_ARGUMENT", "KVOPS_UNSUPPORTED",
                         "KVOPS_UNAVAILABLE", "KVOPS_OUT_OF_MEMORY",    "KVOPS_DEVICE_ERROR",
                         "KVOPS_INTERNAL"};
  for (int i = 0; i < 7; ++i) CHECK(std::string(kvops_status_string(i)) == names[i]);
  for (int i : {-1, 7, 1 << 30}) CHECK(std::string(kvops_status_string(i)) == "KVOPS_?");
}

TEST_CASE("error: of the last failing call, on this thread only, until it is cleared") {
  kvops_clear_error();
  CHECK(std::string(kvops_last_error()).empty());
  CHECK(kvops_rms_norm(nullptr) == KVOPS_INVALID_ARGUMENT);
  CHECK(std::string(kvops_last_error()) == "rms_norm: args: is NULL");
  kvops_error e = {};
  CHECK(kvops_get_error(&e) == KVOPS_INVALID_ARGUMENT);  // struct_size is not set
  e.struct_size = sizeof e;
  REQUIRE(kvops_get_error(&e) == KVOPS_OK);
  CHECK(std::string(e.op) == "rms_norm");
  CHECK(std::string(e.argument) == "args");
  CHECK(std::string(e.message) == kvops_last_error());
  CHECK(e.element == -1);
  CHECK(e.status == KVOPS_INVALID_ARGUMENT);

  std::thread([] { CHECK(std::string(kvops_last_error()).empty()); }).join();
  int32_t count = 0;
  CHECK(kvops_device_count(KVOPS_CPU, &count) == KVOPS_OK);  // a success leaves the error alone
  CHECK(std::string(kvops_last_error()) == "rms_norm: args: is NULL");
  kvops_clear_error();
  CHECK(std::string(kvops_last_error()).empty());
  REQUIRE(kvops_get_error(&e) == KVOPS_OK);
  CHECK(e.status == KVOPS_OK);
}

TEST_CASE("error: an older, shorter kvops_error is filled as far as it goes") {
  kvops_rms_norm(nullptr);
  kvops_error e;
  std::memset(&e, 0x5a, sizeof e);
  kvops_error before = e;
  e.struct_size = offsetof(kvops_error, message);
  REQUIRE(kvops_get_error(&e) == KVOPS_OK);
  CHECK(std::string(e.op) == "rms_norm");
  CHECK(!std::memcmp(&e.message, &before.message, sizeof e - offsetof(kvops_error, message)));
}

TEST_CASE("dtypes: names and sizes, and none for other numbers") {
  int64_t sizes[] = {0, 4, 2, 2, 1, 1, 1, 1, 1, 1, 4, 8};
  for (int d = 1; d < 12; ++d) {
    CHECK(kvops_dtype_size(d) == sizes[d]);
    CHECK(std::string(kvops_dtype_name(d)) != "?");
  }
  for (int d : {-1, 0, 12, 1 << 20}) {
    CHECK(kvops_dtype_size(d) == 0);
    CHECK(std::string(kvops_dtype_name(d)) == "?");
  }
}
