// kvops_set_option(), kvops_set_log(), the debug modes, threads.
#include "core/options.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "cpu/parallel.h"
#include "kvcache_ops.h"

using std::string;

namespace {

constexpr kvops_device kCpu = {KVOPS_CPU, 0};

// Restores the defaults, whatever a test did.
struct Defaults {
  ~Defaults() {
    kvops_set_option("debug", "");
    kvops_set_option("cpu_isa", "");
    kvops_set_option("impl", "");
    kvops_set_log(nullptr, nullptr);
    kvops_set_num_threads(0);
    kvops_set_parallel_for(nullptr, nullptr);
  }
};

struct Norm {
  std::vector<float> x, y;
  kvops_rms_norm_args args = {};
  Norm(int64_t rows, int64_t d) : x(size_t(rows * d)), y(x.size()) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 17) - 8;
    int64_t shape[] = {rows, d};
    args.struct_size = sizeof args;
    args.input = kvops_dense(x.data(), kCpu, nullptr, KVOPS_F32, 2, shape);
    args.out = kvops_dense(y.data(), kCpu, nullptr, KVOPS_F32, 2, shape);
    args.epsilon = 1e-6;
  }
};

// Writes one token of 2 heads of 4 into a cache of 3 blocks of 2.
struct Write {
  std::vector<float> key, cache;
  std::vector<int64_t> slots;
  int64_t faults = 0;
  kvops_reshape_and_cache_flash_args args = {};
  explicit Write(std::vector<int64_t> s) : key(s.size() * 8, 1.f), cache(96, 7.f), slots(s) {
    int64_t tokens = int64_t(slots.size()), one = 1;
    int64_t token[] = {tokens, 2, 4}, page[] = {3, 2, 2, 4};
    args.struct_size = sizeof args;
    args.key = args.value = kvops_dense(key.data(), kCpu, nullptr, KVOPS_F32, 3, token);
    args.key_cache = kvops_dense(cache.data(), kCpu, nullptr, KVOPS_F32, 4, page);
    args.value_cache = kvops_dense(cache.data() + 48, kCpu, nullptr, KVOPS_F32, 4, page);
    args.slot_mapping = kvops_dense(slots.data(), kCpu, nullptr, KVOPS_I64, 1, &tokens);
    args.faults = kvops_dense(&faults, kCpu, nullptr, KVOPS_I64, 1, &one);
  }
};

}  // namespace

TEST_CASE("options: unknown names and values are refused and change nothing") {
  Defaults defaults;
  REQUIRE(kvops_set_option("debug", "bounds") == KVOPS_OK);
  CHECK(kvops_set_option("debug", "bounds,speed") == KVOPS_UNSUPPORTED);
  CHECK(string(kvops_last_error()).starts_with("kvops_set_option: value: of debug is "));
  CHECK(kvops_set_option("colour", "red") == KVOPS_UNSUPPORTED);
  CHECK(kvops_set_option("cpu_isa", "sse9") == KVOPS_UNSUPPORTED);
  CHECK(kvops_set_option("impl", "rms_norm") == KVOPS_UNSUPPORTED);
  CHECK(kvops_set_option("impl", "no_such:one") == KVOPS_UNSUPPORTED);
  CHECK(kvops_set_option(nullptr, "") == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_set_option("debug", nullptr) == KVOPS_INVALID_ARGUMENT);
  Write w({6});  // one past the last slot: bounds is still on
  CHECK(kvops_reshape_and_cache_flash(&w.args) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("options: impl takes the names that an operator has, and no other operator's") {
  Defaults defaults;
  const std::map<string, std::vector<string>> names = {
      {"cpu_attention_with_kv_cache", {"portable", "bf16", "amx"}},
      {"onednn_mm", {"onednn", "highway"}},
      {"onednn_scaled_mm", {"onednn", "highway"}},
      {"paged_attention_v1", {"mma", "portable"}},
  };
  size_t count = 0;
  auto* ops = kvops_ops(&count);
  for (size_t i = 0; i < count; ++i) {
    const string op = ops[i]->name;
    const auto known = names.find(op);
    for (string name : {"portable", "bf16", "amx", "onednn", "highway", "mma", "no_such", ""}) {
      CAPTURE(op, name);
      const bool has =
          known != names.end() && std::count(known->second.begin(), known->second.end(), name);
      REQUIRE(kvops_set_option("impl", (op + ":" + name).c_str()) ==
              (has ? KVOPS_OK : KVOPS_UNSUPPORTED));
      if (has) CHECK(kvops::forced_implementation(op.c_str()) == name);
    }
  }
  REQUIRE(kvops_set_option("impl", "onednn_mm:highway") == KVOPS_OK);
  for (auto* bad : {"onednn_mm:onednn,rms_norm:portable", "onednn_mm", "onednn_mm:high",
                    "onednn_mm:onednn highway", "onednn_mm:highway:onednn"}) {
    CHECK(kvops_set_option("impl", bad) == KVOPS_UNSUPPORTED);
    CHECK_THAT(kvops_last_error(), Catch::Contains("onednn_mm has onednn highway"));
    CHECK(kvops::forced_implementation("onednn_mm") == "highway");
  }
  CHECK(kvops_set_option("impl", " onednn_scaled_mm:onednn , onednn_mm:onednn") == KVOPS_OK);
  CHECK(kvops::forced_implementation("onednn_mm") == "onednn");
}

TEST_CASE("options: cpu_isa is what kvops_query() and device info report") {
  Defaults defaults;
  Norm n(2, 8);
  int found = 0;
  for (string isa : {"scalar", "sse4", "avx2", "avx3"}) {
    if (kvops_set_option("cpu_isa", isa.c_str())) continue;
    ++found;
    kvops_query_result q = {};
    q.struct_size = sizeof q;
    REQUIRE(kvops_query("rms_norm", &n.args, &q) == KVOPS_OK);
    CHECK(q.implementation == isa);
    kvops_device_info info = {};
    info.struct_size = sizeof info;
    REQUIRE(kvops_get_device_info(kCpu, &info) == KVOPS_OK);
    CHECK(info.arch == isa);
  }
  CHECK(found >= 1);
}

TEST_CASE("debug=log: one line per call, to the callback") {
  Defaults defaults;
  std::vector<string> lines;
  kvops_set_log(
      [](void* to, const char* line) { static_cast<std::vector<string>*>(to)->push_back(line); },
      &lines);
  Norm n(2, 8);
  REQUIRE(kvops_rms_norm(&n.args) == KVOPS_OK);
  CHECK(lines.empty());
  REQUIRE(kvops_set_option("debug", " log , sync ") == KVOPS_OK);
  REQUIRE(kvops_rms_norm(&n.args) == KVOPS_OK);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0] == "rms_norm cpu:0 input=f32[2,8] out=f32[2,8] epsilon=1e-06 -> KVOPS_OK");
  REQUIRE(kvops_set_option("debug", "") == KVOPS_OK);
  REQUIRE(kvops_rms_norm(&n.args) == KVOPS_OK);
  CHECK(lines.size() == 1);
}

TEST_CASE("debug=log: the callback may set another one") {
  Defaults defaults;
  static int first, second;
  first = second = 0;
  kvops_set_log(
      [](void*, const char*) {
        ++first;
        kvops_set_log([](void*, const char*) { ++second; }, nullptr);
      },
      nullptr);
  REQUIRE(kvops_set_option("debug", "log") == KVOPS_OK);
  Norm n(2, 8);
  for (int i = 0; i < 3; ++i) REQUIRE(kvops_rms_norm(&n.args) == KVOPS_OK);
  CHECK(first == 1);
  CHECK(second == 2);
}

TEST_CASE("debug=bounds: the first bad index is named and nothing is written") {
  Defaults defaults;
  REQUIRE(kvops_set_option("debug", "bounds") == KVOPS_OK);
  Write w({0, 5, -1, 6, 99});
  CHECK(kvops_reshape_and_cache_flash(&w.args) == KVOPS_INVALID_ARGUMENT);
  CHECK(string(kvops_last_error()) ==
        "reshape_and_cache_flash: slot_mapping: element 3 is 6, expected less than 6");
  kvops_error e = {};
  e.struct_size = sizeof e;
  kvops_get_error(&e);
  CHECK(e.element == 3);
  CHECK(w.cache == std::vector<float>(96, 7.f));
  CHECK(w.faults == 0);
  Write good({0, 5, -1});  // padding is legal
  CHECK(kvops_reshape_and_cache_flash(&good.args) == KVOPS_OK);
  CHECK(good.cache != std::vector<float>(96, 7.f));
}

TEST_CASE("debug=bounds: off, the same call skips the bad index and counts it") {
  Write w({0, 6, INT64_MAX, INT64_MIN, -1});
  CHECK(kvops_reshape_and_cache_flash(&w.args) == KVOPS_OK);
  CHECK(w.faults == 2);
}

TEST_CASE("threads: any number gives the same bits, bad numbers are refused") {
  Defaults defaults;
  Norm one(301, 257);
  REQUIRE(kvops_set_num_threads(1) == KVOPS_OK);
  REQUIRE(kvops_rms_norm(&one.args) == KVOPS_OK);
  for (int threads : {2, 3, 7, 64}) {
    Norm many(301, 257);
    REQUIRE(kvops_set_num_threads(threads) == KVOPS_OK);
    REQUIRE(kvops_rms_norm(&many.args) == KVOPS_OK);
    CHECK(many.y == one.y);
  }
  CHECK(kvops_set_num_threads(-1) == KVOPS_INVALID_ARGUMENT);
  CHECK(kvops_set_num_threads(1 << 20) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("parallel_for: the host's pool gets the work, all of it, once") {
  Defaults defaults;
  struct Pool {
    int calls = 0;
    int64_t tasks = 0;
  } pool;
  auto backwards = [](void* context, int64_t tasks, kvops_task task, void* task_context) {
    auto* p = static_cast<Pool*>(context);
    ++p->calls, p->tasks += tasks;
    for (int64_t i = tasks; i-- > 0;) task(task_context, i);
  };
  Norm own(301, 257), host(301, 257);
  REQUIRE(kvops_rms_norm(&own.args) == KVOPS_OK);
  REQUIRE(kvops_set_parallel_for(backwards, &pool) == KVOPS_OK);
  REQUIRE(kvops_rms_norm(&host.args) == KVOPS_OK);
  CHECK(host.y == own.y);
  std::vector<int> hits(1000);
  kvops::cpu::parallel_for(1000, 7, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++hits[size_t(i)];
  });
  CHECK(hits == std::vector<int>(1000, 1));
  CHECK(pool.calls >= 1);
  CHECK(pool.tasks >= 143);
  int before = pool.calls;
  REQUIRE(kvops_set_parallel_for(nullptr, nullptr) == KVOPS_OK);
  REQUIRE(kvops_rms_norm(&host.args) == KVOPS_OK);
  CHECK(pool.calls == before);
}

TEST_CASE("parallel_for: pieces cover the range for any grain, from any thread") {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&, c] {
      for (int64_t n : {0, 1, 2, 63, 64, 65, 1000})
        for (int64_t grain : {-1, 1, 5, 64, 5000}) {
          std::vector<std::atomic<int>> hits(size_t(n) + 1);
          kvops::cpu::parallel_for(n, grain, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) ++hits[size_t(i)];
          });
          for (int64_t i = 0; i < n; ++i) wrong += hits[size_t(i)] != 1;
          wrong += hits[size_t(n)] != 0 && c >= 0;
        }
    });
  for (auto& t : callers) t.join();
  CHECK(wrong == 0);
}
