// Callers on many threads, and a process that forks after it has used the library.
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cpu/parallel.h"
#include "kvcache_ops.h"

namespace {

constexpr kvops_device kCpu = {KVOPS_CPU, 0};

struct Gate {
  std::vector<float> x, y;
  kvops_silu_and_mul_args args = {};
  Gate(int64_t rows, int64_t d, float first) : x(size_t(rows * 2 * d)), y(size_t(rows * d)) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = first + float(i % 31) / 8;
    int64_t in[] = {rows, 2 * d}, out[] = {rows, d};
    args.struct_size = sizeof args;
    args.input = kvops_dense(x.data(), kCpu, nullptr, KVOPS_F32, 2, in);
    args.out = kvops_dense(y.data(), kCpu, nullptr, KVOPS_F32, 2, out);
  }
};

}  // namespace

TEST_CASE("threads: callers do not disturb each other's results, errors and settings") {
  std::vector<std::vector<float>> expected;
  for (int t = 0; t < 6; ++t) {
    Gate g(64, 300, float(t));
    REQUIRE(kvops_silu_and_mul(&g.args) == KVOPS_OK);
    expected.push_back(g.y);
  }
  std::atomic<int> wrong{0};
  std::atomic<bool> done{false};
  std::thread settings([&] {
    for (int i = 0; !done; ++i) {
      wrong += kvops_set_num_threads(i % 4) != KVOPS_OK;
      wrong += kvops_set_option("debug", i % 2 ? "bounds" : "") != KVOPS_OK;
    }
  });
  std::vector<std::thread> callers;
  for (int t = 0; t < 6; ++t)
    callers.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        Gate g(64, 300, float(t));
        wrong += kvops_silu_and_mul(&g.args) != KVOPS_OK;
        wrong += g.y != expected[size_t(t)];
        g.args.out.shape[1] = 100 + t;
        wrong += kvops_silu_and_mul(&g.args) != KVOPS_INVALID_ARGUMENT;
        auto says = "shape[1] is " + std::to_string(100 + t) + ",";
        wrong += std::string(kvops_last_error()).find(says) == std::string::npos;
      }
    });
  for (auto& c : callers) c.join();
  done = true;
  settings.join();
  kvops_set_num_threads(0);
  kvops_set_option("debug", "");
  CHECK(wrong == 0);
}

TEST_CASE("fork: a child works on, and gets the same bits") {
  kvops_set_num_threads(2);
  Gate parent(512, 500, 1);
  REQUIRE(kvops_silu_and_mul(&parent.args) == KVOPS_OK);
  pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a child that waits for threads it does not have must not wait for ever
    Gate g(512, 500, 1);
    bool same = kvops_silu_and_mul(&g.args) == KVOPS_OK && g.y == parent.y;
    _exit(same ? 0 : 1);
  }
  REQUIRE(child > 0);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  Gate again(512, 500, 1);
  CHECK(kvops_silu_and_mul(&again.args) == KVOPS_OK);
  CHECK(again.y == parent.y);
  kvops_set_num_threads(0);
}

TEST_CASE("threads: calls of much and of little work share one set of threads") {
  REQUIRE(kvops_set_num_threads(6) == KVOPS_OK);
  std::mutex mutex;
  std::set<long> threads;
  for (int i = 0; i < 100; ++i)
    for (int64_t pieces : {64, 2, 3, 1})
      kvops::cpu::parallel_for(pieces, 1, [&](int64_t, int64_t) {
        std::lock_guard lock(mutex);
        threads.insert(syscall(SYS_gettid));
      });
  kvops_set_num_threads(0);
  CHECK(threads.size() <= 6);
}
