// cpu_attention_with_kv_cache and its plan: any place, any threads, and what is refused.
#include <map>
#include <thread>

#include "cpu/cpu_attention.h"
#include "ops/cpu_attention.h"

using namespace tests;
using std::vector;

namespace {

kvops_status call(Batch& b) { return kvops_cpu_attention_with_kv_cache(&b.args); }

// One kv head of a batch and the query heads that read it: nobody to take turns with.
Batch one_head(const Batch& b, int64_t kv_head) {
  Batch c = b;
  const int64_t group = b.heads / b.kv_heads, bytes = kvops_dtype_size(b.type);
  c.heads = group, c.kv_heads = 1;
  auto move = [](kvops_tensor& t, int axis, int64_t by, int64_t size, int64_t extent) {
    t.data = static_cast<char*>(t.data) + by * t.stride[axis] * size, t.shape[axis] = extent;
  };
  move(c.args.query, 1, kv_head * group, bytes, group);
  move(c.args.key_cache, 1, kv_head, kvops_dtype_size(b.cached), 1);
  move(c.args.value_cache, 1, kv_head, kvops_dtype_size(b.cached), 1);
  c.out = Buffer(b.type, b.tokens() * group * b.size);
  c.lse = Buffer(KVOPS_F32, b.tokens() * group);
  c.args.out = tensor(c.out.data(), b.type, {b.tokens(), group, b.size});
  c.args.lse = tensor(c.lse.data(), KVOPS_F32, {b.tokens(), group});
  c.set_lengths(), c.make_plan();
  return c;
}

void check_refused(Batch& b, const std::string& text) {
  const auto before = b.out.image();
  CHECK(call(b) == KVOPS_INVALID_ARGUMENT);
  CHECK_THAT(kvops_last_error(), Catch::Contains(text));
  CHECK(b.out.image() == before);
}

}  // namespace

TEST_CASE("cpu_attention: any number of threads, any place of the plan: the same bits") {
  for (int kind = 0; kind < 4; ++kind)
    for (int threads : {1, 4}) {
      Batch b = mixed(KVOPS_BF16, KVOPS_BF16, kind < 2 ? KVOPS_CPU_ISA_VEC : KVOPS_CPU_ISA_AMX);
      b.split = kind % 2, b.heads = 40, b.requests.push_back({1, 3000});
      b.fill(5);
      kvops_set_num_threads(threads);
      b.lay_out();
      const auto bits = b.run();
      for (int others : {1, 2, 3, 7}) {
        kvops_set_num_threads(others);
        REQUIRE(b.run() == bits);
        Buffer copy = b.plan;
        std::fill_n(static_cast<char*>(b.plan.data()), b.plan.count, char(0xAA));
        b.args.scheduler_metadata.data = copy.data();
        REQUIRE(b.run() == bits);
        b.plan = copy;
        b.args.scheduler_metadata.data = b.plan.data();
      }
    }
  kvops_set_num_threads(0);
}

TEST_CASE("cpu_attention: two threads may use one plan at once, and it stays as it is") {
  Batch b = mixed(KVOPS_F32, KVOPS_F32, KVOPS_CPU_ISA_VEC);
  b.split = true, b.requests.push_back({1, 2000});
  b.fill(6), b.lay_out();
  const auto bits = b.run();
  const auto plan = b.plan.image();
  vector<std::thread> callers;
  int wrong[4] = {};
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&, i] {
      auto a = b.args;
      Buffer out = b.out, lse = b.lse, workspace = b.workspace;
      a.out.data = out.data(), a.lse.data = lse.data(), a.workspace.data = workspace.data();
      a.faults = {};
      for (int n = 0; n < 5; ++n) {
        out.poison();
        wrong[i] += kvops_cpu_attention_with_kv_cache(&a) != KVOPS_OK;
        wrong[i] +=
            out.image() != Batch::Bits(bits.begin(), bits.begin() + long(out.image().size()));
      }
    });
  for (auto& t : callers) t.join();
  for (int w : wrong) CHECK(w == 0);
  CHECK(b.plan.image() == plan);
}

TEST_CASE("cpu_attention: a plan that is stale, foreign, truncated or damaged is an error") {
  Batch b = small();
  b.fill(10), b.lay_out();
  REQUIRE(call(b) == KVOPS_OK);
  auto with = [&](auto&& change, const std::string& text) {
    Batch c = b;
    c.set_lengths();
    change(c);
    check_refused(c, text);
  };
  const std::string lengths = "planned for other lengths", shape = "planned for other requests";
  with([](Batch& c) { c.lens[1] += 1; }, lengths);
  with([](Batch& c) { c.starts[1] = 0; }, lengths);
  with([](Batch& c) { c.args.causal = 0; }, shape);
  with([](Batch& c) { c.args.window_left = 9; }, shape);
  with([](Batch& c) { c.args.scheduler_metadata.shape[0] -= 8; }, "is damaged");
  with([](Batch& c) { c.args.scheduler_metadata.shape[0] = 10; }, "too short");
  for (int64_t i : {0, 30, 100, 200}) {
    Buffer plan = b.plan;
    static_cast<char*>(plan.data())[i] ^= 4;
    with([&](Batch& c) { c.args.scheduler_metadata.data = plan.data(); }, "scheduler_metadata");
  }
  with([](Batch& c) { c.lens[0] = INT32_MAX; }, "seq_lens: element 0 is ");
  with([](Batch& c) { c.starts[4] = 99; }, "query_start_loc: element 4 is 99, expected at most");
  with([](Batch& c) { c.starts[1] = -1; }, "query_start_loc");
  vector<int32_t> causal = {1, 0, 1, 1};
  with([&](Batch& c) { c.args.dynamic_causal = tensor(causal, KVOPS_I32, {4}); }, lengths);
}

TEST_CASE("cpu_attention: the plan's packing must fit the cache") {
  Batch b = small();
  b.block = 48, b.isa = KVOPS_CPU_ISA_VEC16;
  b.fill(11), b.lay_out();
  REQUIRE(call(b) == KVOPS_OK);
  b.isa = KVOPS_CPU_ISA_VEC;
  b.make_plan();
  check_refused(b, "key_cache: shape[2] is 48, expected a multiple of 32");
  Batch f = small(KVOPS_F32);
  f.fill(11), f.lay_out(), f.isa = KVOPS_CPU_ISA_AMX, f.make_plan();
  check_refused(f, "query: dtype is f32");
}

TEST_CASE("cpu_attention: one plan serves caches of any dtype and strides") {
  Batch b = small();
  b.requests = {{1, 90}, {20, 64}};
  b.fill(12), b.lay_out();
  const auto bits = b.run();
  const auto plan = b.args.scheduler_metadata;
  // Keys and values of a block one after the other, and room behind each block.
  const int64_t head = 2 * b.block * b.size, page = b.kv_heads * head + 100;
  Buffer both(b.cached, b.blocks * page);
  both.poison();
  const Extents shape = {b.blocks, b.kv_heads, b.block, b.size}, strides = {page, head, b.size, 1};
  auto* base = static_cast<char*>(both.data());
  b.args.key_cache = tensor(base, b.cached, shape, strides);
  b.args.value_cache =
      tensor(base + head, b.cached, shape, strides);  // head / 2 elements of 2 bytes
  b.write_cache(b.keys, b.args.key_cache, true), b.write_cache(b.values, b.args.value_cache, false);
  CHECK(b.run() == bits);
  // Values with strides of their own.
  Buffer apart(b.cached, b.values.count);
  b.args.value_cache = tensor(apart.data(), b.cached, shape);
  b.write_cache(b.values, b.args.value_cache, false);
  CHECK(b.run() == bits);
  b.cached = KVOPS_F8_E4M3;
  b.fill(12), b.lay_out();
  b.args.scheduler_metadata = plan;
  b.args.scheduler_metadata.data = b.plan.data();
  b.run();
  CHECK(b.worst(true).out <= 0.51);
}

TEST_CASE("cpu_attention: heads that take turns at a tile have the bits that they have alone") {
  kvops_set_num_threads(1);
  for (int64_t group : {1, 5, 8, 12, 20})
    for (const bool split : {false, true})
      for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_AMX}) {
        Batch b = small();
        b.kv_heads = 5, b.heads = 5 * group, b.size = 64, b.isa = isa, b.split = split;
        b.requests = {{1, 700}, {1, 90}, {2, 40}, {3, 130}, {1, 1}};
        CAPTURE(group, split, isa);
        REQUIRE((kvops::cpu::seats_for(group, b.size) > 1) == (group <= 16));
        b.fill(20), b.lay_out();
        std::map<std::string, vector<Batch::Bits>>
            whole;  // by implementation, instruction set, row
        int set = 0;
        on_every_code(b, [&](const Code& code) {
          b.run();
          auto& rows = whole[code.name + std::to_string(set++)];
          for (int64_t q = 0; q < b.tokens(); ++q)
            for (int64_t h = 0; h < b.heads; ++h) rows.push_back(row_bits(b, q, h));
        });
        for (int64_t kv_head = 0; kv_head < b.kv_heads; ++kv_head) {
          Batch c = one_head(b, kv_head);
          set = 0;
          on_every_code(c, [&](const Code& code) {
            c.run();
            auto& rows = whole[code.name + std::to_string(set++)];
            int differ = 0;
            for (int64_t q = 0; q < b.tokens(); ++q)
              for (int64_t h = 0; h < group; ++h)
                differ += row_bits(c, q, h) != rows[size_t(q * b.heads + kv_head * group + h)];
            CAPTURE(code.name, kv_head);
            REQUIRE(differ == 0);
          });
        }
      }
  kvops_set_num_threads(0);
}

TEST_CASE("cpu_attention: no seat reaches into another, and all fit the scratch") {
  using namespace kvops::cpu;
  for (int64_t size = 16; size <= kMostSize; size += 16)
    for (int64_t rows = 1; rows <= most_rows(size); ++rows) {
      // What the matrix code writes: AMX rounds up to whole tiles where there are several.
      const int64_t written = rows <= kTileRows ? rows : kvops::round_up(rows, kTileRows);
      const int64_t seats = seats_for(rows, size);
      CAPTURE(rows, size, seats);
      REQUIRE((seats >= 1 && seats <= kMostSeats));
      if (seats > 1) REQUIRE(written <= rows);
      REQUIRE((seats - 1) * rows + written <= kMostRows);
      REQUIRE(((seats - 1) * rows + written) * size <= kMostRowElements);
    }
}
