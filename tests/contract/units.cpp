// What grows: the args structs. An old caller on a new library and a new caller on an old one, with
// test_grown, whose second release appended `extra` and `flag`.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#include <cstring>

#include "contract/test_backend.h"
#include "contract/test_ops.h"

using std::string;

namespace {

constexpr size_t kFirst = offsetof(kvops_test_grown_args, extra);
float data[3][8];

kvops_test_grown_args legal() {
  kvops_test_grown_args a = {};
  int64_t n = 8;
  a.struct_size = sizeof a;
  a.input = kvops_dense(data[0], {KVOPS_CPU, 0}, nullptr, KVOPS_F32, 1, &n);
  a.out = kvops_dense(data[1], {KVOPS_CPU, 0}, nullptr, KVOPS_F32, 1, &n);
  a.extra = kvops_dense(data[2], {KVOPS_CPU, 0}, nullptr, KVOPS_F32, 1, &n);
  a.alpha = 2;
  a.flag = 1;
  return a;
}

// What the back end saw.
kvops_test_grown_args seen() {
  kvops_test_grown_args a;
  REQUIRE(recorded.args.size() == sizeof a);
  std::memcpy(&a, recorded.args.data(), sizeof a);
  return a;
}

kvops_status run(const void* args) {
  recorded.op.clear();
  return kvops_call("test_grown", args);
}

}  // namespace

TEST_CASE("struct_size: a caller of the first release gets the old behaviour") {
  auto a = legal();
  a.struct_size = kFirst;  // what lies behind must not be read as arguments
  REQUIRE(run(&a) == KVOPS_OK);
  auto b = seen();
  CHECK(!b.extra.data);
  CHECK(b.extra.rank == 0);
  CHECK(b.flag == 0);
  CHECK(b.alpha == 2);
  CHECK(b.input.data == data[0]);
  CHECK(kvops_query("test_grown", &a, nullptr) == KVOPS_OK);
}

TEST_CASE("struct_size: an old caller's struct is not read past its end") {
  std::vector<char> exact(kFirst);  // a sanitizer sees a read beyond
  auto a = legal();
  a.struct_size = kFirst;
  std::memcpy(exact.data(), &a, kFirst);
  CHECK(run(exact.data()) == KVOPS_OK);
}

TEST_CASE("struct_size: a caller of this release gets all of it") {
  auto a = legal();
  REQUIRE(run(&a) == KVOPS_OK);
  CHECK(seen().flag == 1);
  CHECK(seen().extra.data == data[2]);
}

TEST_CASE("struct_size: a release may end after any member that was appended") {
  auto a = legal();
  a.struct_size = offsetof(kvops_test_grown_args, flag);
  REQUIRE(run(&a) == KVOPS_OK);
  CHECK(seen().flag == 0);
  CHECK(seen().extra.data == data[2]);
}

TEST_CASE("struct_size: no release ends before the first one, or within a member") {
  for (size_t size : {size_t{0}, size_t{8}, kFirst - 8, kFirst + 8, kFirst + 64, kFirst + 4,
                      sizeof(kvops_test_grown_args) + 4, size_t{1} << 40}) {
    auto a = legal();
    a.struct_size = size;
    CHECK(run(&a) == KVOPS_INVALID_ARGUMENT);
    CHECK(recorded.op.empty());
    CHECK(string(kvops_last_error()).starts_with("test_grown: struct_size: is "));
  }
}

TEST_CASE("struct_size: a newer caller that uses nothing new is served") {
  struct {
    kvops_test_grown_args known;
    char unknown[136] = {};
  } a = {legal(), {}};
  a.known.struct_size = sizeof a;
  REQUIRE(run(&a) == KVOPS_OK);
  CHECK(seen().flag == 1);
}

TEST_CASE("struct_size: a newer caller that uses what is new is told so") {
  for (size_t at : {0, 1, 77, 135}) {
    struct {
      kvops_test_grown_args known;
      char unknown[136] = {};
    } a = {legal(), {}};
    a.known.struct_size = sizeof a;
    a.unknown[at] = 1;
    CHECK(run(&a) == KVOPS_UNSUPPORTED);
    CHECK(recorded.op.empty());
    kvops_error e = {};
    e.struct_size = sizeof e;
    kvops_get_error(&e);
    CHECK(string(e.argument) == "struct_size");
    CHECK(kvops_query("test_grown", &a, nullptr) == KVOPS_UNSUPPORTED);
  }
}

TEST_CASE("args: NULL is an error, not a crash") {
  CHECK(run(nullptr) == KVOPS_INVALID_ARGUMENT);
  CHECK(string(kvops_last_error()) == "test_grown: args: is NULL");
  CHECK(kvops_query("test_grown", nullptr, nullptr) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("query: a shorter result is filled as far as it goes") {
  auto a = legal();
  kvops_query_result r;
  std::memset(&r, 0x5a, sizeof r);
  auto before = r;
  r.struct_size = offsetof(kvops_query_result, graph_safe);
  REQUIRE(kvops_query("test_grown", &a, &r) == KVOPS_OK);
  CHECK(r.bytes == 0);
  CHECK(string(r.implementation) == "test");
  CHECK(r.graph_safe == before.graph_safe);
  CHECK(recorded.op.empty());
  r.struct_size = 0;
  CHECK(kvops_query("test_grown", &a, &r) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("query: tells the bytes of a workspace without one") {
  auto* info = [] {
    size_t count;
    auto* ops = kvops_ops(&count);
    for (size_t i = 0; i < count; ++i)
      if (string(ops[i]->name) == "top_k_per_row_prefill") return ops[i];
    return static_cast<const kvops_op_info*>(nullptr);
  }();
  REQUIRE(info);
  kvops_top_k_per_row_prefill_args a = {};
  int64_t two[] = {4, 16}, one[] = {4}, k[] = {4, 2};
  kvops_device cpu = {KVOPS_CPU, 0};
  a.struct_size = sizeof a;
  a.logits = kvops_dense(nullptr, cpu, nullptr, KVOPS_F32, 2, two);
  a.row_starts = a.row_ends = kvops_dense(nullptr, cpu, nullptr, KVOPS_I32, 1, one);
  a.indices = kvops_dense(nullptr, cpu, nullptr, KVOPS_I32, 2, k);
  kvops_query_result r = {};
  r.struct_size = sizeof r;
  REQUIRE(kvops_query(info->name, &a, &r) == KVOPS_OK);
  CHECK(r.bytes == kTestBytes);
  int64_t bytes = 0;
  REQUIRE(kvops_top_k_per_row_prefill_workspace(&a, &bytes) == KVOPS_OK);
  CHECK(bytes == kTestBytes);
  CHECK(kvops_top_k_per_row_prefill_workspace(&a, nullptr) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("call: an unknown operator has a name in its message") {
  CHECK(kvops_call("no_such", nullptr) == KVOPS_UNSUPPORTED);
  CHECK(string(kvops_last_error()) == "kvops_call: op: there is no operator \"no_such\"");
  CHECK(kvops_call(nullptr, nullptr) == KVOPS_UNSUPPORTED);
  CHECK(kvops_query("no_such", nullptr, nullptr) == KVOPS_UNSUPPORTED);
}
