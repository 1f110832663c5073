// Gathers on a GPU: every one captured and replayed after its requests, table and cache changed;
// rows past the last request, faults, long and many requests; strides past 2^32 bytes.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>

#include "graph.h"

using namespace test;

namespace {

constexpr int64_t kBlocks = 40, kWidth = 33;

// One gather with everything that it reads and writes, on both sides.
struct Gather {
  const char* name;
  int64_t entry, row;  // bytes
  bool with_end;
  std::function<kvops_status(Gather&, bool gpu)> run;
  int64_t batch = 1, rows = 1, block = 16, zero = 0;
  Stream stream{};
  std::mt19937 random{11};
  std::unique_ptr<Both<uint8_t>> cache{}, out{};
  std::unique_ptr<Both<int32_t>> table{}, starts{}, seq_starts{};
  Both<float> scale{KVOPS_F32, {1}};
  Both<int64_t> faults{KVOPS_I64, {1}};

  void shape(int64_t new_batch, int64_t new_rows, int64_t new_block) {
    batch = new_batch, rows = new_rows, block = new_block;
    cache = std::make_unique<Both<uint8_t>>(KVOPS_U8, std::vector{kBlocks, block, entry});
    out = std::make_unique<Both<uint8_t>>(KVOPS_U8, std::vector{rows, row});
    table = std::make_unique<Both<int32_t>>(KVOPS_I32, std::vector{batch, kWidth});
    starts = std::make_unique<Both<int32_t>>(KVOPS_I32, std::vector{batch + 1});
    seq_starts = std::make_unique<Both<int32_t>>(KVOPS_I32, std::vector{batch});
    faults.h[0] = 0;
    faults.up(stream);
    scale.h[0] = 0.37f;
    scale.up(stream);
  }
  // New requests, some of them empty, with `bad` ones of their pages in a hundred; a new cache.
  void change(unsigned bad) {
    auto below = [&](int64_t n) { return int32_t(random() % uint64_t(std::max<int64_t>(n, 1))); };
    const int32_t wrong[] = {-1, kBlocks, INT32_MAX, INT32_MIN};
    for (auto& b : table->h) b = random() % 100 < bad ? wrong[random() % 4] : below(kBlocks);
    for (auto& t : starts->h) t = random() % 4 ? below(rows) : int32_t(rows / 2);
    std::sort(starts->h.begin(), starts->h.end());
    if (with_end) starts->h.back() = int32_t(rows) - below(rows / 3);
    std::sort(starts->h.begin(), starts->h.end());
    for (auto& p : seq_starts->h) p = random() % 100 < bad ? wrong[random() % 4] : below(3 * block);
    for (auto& byte : cache->h) byte = uint8_t(random());
    for (auto& byte : out->h) byte = uint8_t(random());
    table->up(stream), starts->up(stream), seq_starts->up(stream);
    cache->up(stream), out->up(stream);
  }
  template <class T>
  kvops_tensor side(Both<T>& t, bool gpu) {
    return gpu ? t.on_gpu(stream) : t.on_cpu();
  }
  kvops_tensor typed(Both<uint8_t>& t, bool gpu, kvops_dtype dtype) {
    auto x = side(t, gpu);
    const int64_t width = kvops_dtype_size(dtype);
    x.dtype = dtype;
    x.shape[x.rank - 1] /= width;
    for (int i = 0; i + 1 < x.rank; ++i) x.stride[i] /= width;
    return x;
  }
  template <class Args>
  Args args(bool gpu) {
    Args a = {};
    a.struct_size = sizeof a;
    a.block_table = side(*table, gpu), a.seq_starts = side(*seq_starts, gpu);
    a.faults = side(faults, gpu), a.zero_invalid = zero;
    if constexpr (requires { a.cu_seq_lens; }) a.cu_seq_lens = side(*starts, gpu);
    if constexpr (requires { a.workspace_starts; }) a.workspace_starts = side(*starts, gpu);
    return a;
  }
  void check() {
    CHECK((out->down(stream) == out->h));
    CHECK(faults.down(stream)[0] == faults.h[0]);
  }
};

kvops_status run_dequantise(Gather& g, bool gpu) {
  auto a = g.args<kvops_gather_and_maybe_dequant_cache_args>(gpu);
  a.kv_cache = g.typed(*g.cache, gpu, KVOPS_F8_E4M3);
  a.out = g.typed(*g.out, gpu, KVOPS_BF16), a.kv_scale = g.side(g.scale, gpu);
  return kvops_gather_and_maybe_dequant_cache(&a);
}
kvops_status run_copy(Gather& g, bool gpu) {
  auto a = g.args<kvops_cp_gather_cache_args>(gpu);
  a.kv_cache = g.side(*g.cache, gpu), a.out = g.side(*g.out, gpu);
  return kvops_cp_gather_cache(&a);
}
kvops_status run_fp8(Gather& g, bool gpu) {
  auto a = g.args<kvops_cp_gather_and_upconvert_fp8_kv_cache_args>(gpu);
  a.kv_cache = g.side(*g.cache, gpu), a.out = g.typed(*g.out, gpu, KVOPS_BF16);
  return kvops_cp_gather_and_upconvert_fp8_kv_cache(&a);
}
kvops_status run_nvfp4(Gather& g, bool gpu) {
  auto a = g.args<kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args>(gpu);
  a.kv_cache = g.side(*g.cache, gpu), a.out = g.typed(*g.out, gpu, KVOPS_BF16);
  return kvops_cp_gather_and_upconvert_nvfp4_kv_cache(&a);
}
// Codes and scales of a row stand next to each other: both outputs have strides of their own.
kvops_status run_indexer(Gather& g, bool gpu) {
  auto a = g.args<kvops_cp_gather_indexer_k_quant_cache_args>(gpu);
  a.kv_cache = g.side(*g.cache, gpu);
  a.out_k = a.out_scale = g.side(*g.out, gpu);
  a.out_k.shape[1] = 128, a.out_scale.shape[1] = 16;
  a.out_scale.data = static_cast<uint8_t*>(a.out_k.data) + 128;
  return kvops_cp_gather_indexer_k_quant_cache(&a);
}

template <class F>
void for_each_gather(F&& f) {
  const struct {
    const char* name;
    int64_t entry, row;
    bool with_end;
    kvops_status (*run)(Gather&, bool);
  } all[] = {{"gather_and_maybe_dequant_cache", 96, 192, true, run_dequantise},
             {"cp_gather_cache", 1152, 1152, true, run_copy},
             {"cp_gather_cache, odd", 83, 83, true, run_copy},
             {"cp_gather_cache, long", 98304, 98304, true, run_copy},
             {"cp_gather_and_upconvert_fp8_kv_cache", 656, 1152, false, run_fp8},
             {"cp_gather_and_upconvert_nvfp4_kv_cache", 352, 1152, false, run_nvfp4},
             {"cp_gather_indexer_k_quant_cache", 144, 144, true, run_indexer}};
  for (auto& op : all) {
    Gather g{op.name, op.entry, op.row, op.with_end, op.run};
    INFO(op.name);
    f(g);
  }
}

float from_bf16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

// Codes that are NaN have one of several patterns: scales and codes of tests below are numbers.
void keep_numbers(Gather& g) {
  if (g.entry == g.row) return;
  for (auto& byte : g.cache->h) byte &= 0x37;  // also in an f32 scale or a bf16: finite
  g.cache->up(g.stream);
}

}  // namespace

TEST_CASE("gather on a GPU: graphs follow requests, tables, starts and the cache") {
  for_each_gather([](Gather& g) {
    g.shape(5, g.row > 10000 ? 30 : 700, 16);
    Graph graph(g.stream, [&] { REQUIRE(g.run(g, true) == KVOPS_OK); });
    for (int replay = 0; replay < 4; ++replay) {
      g.change(replay % 2 ? 20 : 0);
      keep_numbers(g);
      graph.replay();
      REQUIRE(g.run(g, false) == KVOPS_OK);
      g.check();
    }
    CHECK(g.faults.h[0] > 0);
  });
}

TEST_CASE("gather on a GPU: one request, a thousand, most of them empty, and zeros on request") {
  for_each_gather([](Gather& g) {
    if (g.row > 10000) return;
    for (int64_t batch : {1, 2, 31, 32, 33, 1000})
      for (int64_t block : {1, 7, 64}) {
        g.shape(batch, 501, block);
        g.zero = block == 7;
        g.change(10);
        keep_numbers(g);
        REQUIRE(g.run(g, true) == KVOPS_OK);
        REQUIRE(g.run(g, false) == KVOPS_OK);
        g.check();
      }
  });
}

TEST_CASE("gather on a GPU: debug=bounds names a page that is none, and nothing is written") {
  for_each_gather([](Gather& g) {
    g.shape(1, 20, 4);
    g.change(0);
    g.starts->h = {0, 20}, g.seq_starts->h = {0}, g.table->h[3] = kBlocks;
    g.starts->up(g.stream), g.seq_starts->up(g.stream), g.table->up(g.stream);
    REQUIRE(kvops_set_option("debug", "bounds") == KVOPS_OK);
    CHECK(g.run(g, true) == KVOPS_INVALID_ARGUMENT);
    kvops_set_option("debug", "");
    CHECK(std::strstr(kvops_last_error(), "block_table: element 3 is 40, expected less than 40"));
    g.check();
  });
}

// Kernels that may be on the device early, with next to nothing to do, behind one another.
TEST_CASE("gather on a GPU: each of a chain reads what the one before it wrote") {
  Stream stream{};
  constexpr int64_t kPages = 24, kPage = 16, kEntry = 64, kCalls = 200;
  Both<uint8_t> a(KVOPS_U8, {kPages, kPage, kEntry}), b(KVOPS_U8, {kPages, kPage, kEntry});
  Both<int32_t> table(KVOPS_I32, {1, kPages}), starts(KVOPS_I32, {2});
  std::mt19937 random(5);
  for (int i = 0; i < kPages; ++i) table.h[size_t(i)] = (5 * i + 3) % kPages;  // in another order
  starts.h = {0, kPages * kPage};
  table.up(stream), starts.up(stream);
  auto run = [&](bool gpu, bool forth) {
    auto side = [&](auto& t) { return gpu ? t.on_gpu(stream) : t.on_cpu(); };
    kvops_cp_gather_cache_args args = {};
    args.struct_size = sizeof args;
    args.kv_cache = side(forth ? a : b), args.out = side(forth ? b : a);
    args.out.rank = 2, args.out.shape[0] = kPages * kPage, args.out.shape[1] = kEntry;
    args.out.stride[0] = kEntry, args.out.stride[1] = 1;
    args.block_table = side(table), args.cu_seq_lens = side(starts);
    REQUIRE(kvops_cp_gather_cache(&args) == KVOPS_OK);
  };
  Graph graph(stream, [&] {
    for (int i = 0; i < kCalls; ++i) run(true, i % 2 == 0);
  });
  for (int replay = 0; replay < 20; ++replay) {
    for (auto& byte : a.h) byte = uint8_t(random());
    a.up(stream);
    for (int i = 0; i < kCalls; ++i) run(false, i % 2 == 0);
    graph.replay();
    REQUIRE((a.down(stream) == a.h));
    a.up(stream);
    for (int i = 0; i < kCalls; ++i) run(true, i % 2 == 0), run(false, i % 2 == 0);
    REQUIRE((a.down(stream) == a.h));
  }
}

TEST_CASE("cp_gather_cache on a GPU: blocks and rows further apart than 2^32 bytes") {
  Stream stream{};
  constexpr int64_t kFar = (int64_t(1) << 32) + 64;
  void* data = nullptr;
  if (kvops_malloc(kGpu, 2 * kFar + 4096, &data)) return;  // needs 8 GiB
  need(kvops_fill(kGpu, stream.get(), data, 0x11, 64));
  need(kvops_fill(kGpu, stream.get(), static_cast<char*>(data) + kFar, 0x22, 64));
  Both<int32_t> table(KVOPS_I32, {1, 2}), starts(KVOPS_I32, {2});
  table.h = {1, 0}, starts.h = {0, 2};
  table.up(stream), starts.up(stream);
  const int64_t shape[] = {2, 1, 64}, rows[] = {2, 64};
  kvops_cp_gather_cache_args a = {};
  a.struct_size = sizeof a;
  a.kv_cache = kvops_dense(data, kGpu, stream.get(), KVOPS_U8, 3, shape);
  a.kv_cache.stride[0] = kFar;
  a.out = kvops_dense(static_cast<char*>(data) + 1024, kGpu, stream.get(), KVOPS_U8, 2, rows);
  a.out.stride[0] = kFar;
  a.block_table = table.on_gpu(stream), a.cu_seq_lens = starts.on_gpu(stream);
  CHECK(kvops_cp_gather_cache(&a) == KVOPS_OK);
  for (int64_t t : {0, 1}) {
    std::vector<uint8_t> got(64);
    need(kvops_copy(kGpu, stream.get(), got.data(), static_cast<char*>(a.out.data) + t * kFar, 64));
    stream.wait();
    CHECK((got == std::vector<uint8_t>(64, t ? 0x11 : 0x22)));
  }
  need(kvops_free(kGpu, data));
}

TEST_CASE("merge_attn_states on a GPU: a graph follows both sides, in place or not") {
  Stream stream{};
  constexpr int64_t kTokens = 77, kHeads = 19, kSize = 64;
  Both<uint16_t> prefix(KVOPS_BF16, {kTokens, kHeads, kSize}),
      suffix(KVOPS_BF16, {kTokens, kHeads, kSize}), out(KVOPS_BF16, {kTokens, kHeads, kSize});
  Both<float> p(KVOPS_F32, {kHeads, kTokens}), s(KVOPS_F32, {kHeads, kTokens}),
      lse(KVOPS_F32, {kHeads, kTokens});
  kvops_merge_attn_states_args a = {};
  a.struct_size = sizeof a;
  a.prefix_output = prefix.on_gpu(stream), a.suffix_output = suffix.on_gpu(stream);
  a.prefix_lse = p.on_gpu(stream), a.suffix_lse = s.on_gpu(stream);
  a.out = out.on_gpu(stream), a.out_lse = lse.on_gpu(stream);
  a.suffix_only_tokens = 9;
  auto in_place = a;
  in_place.out = a.prefix_output, in_place.out_lse = a.suffix_lse;
  Graph graph(stream, [&] { REQUIRE(kvops_merge_attn_states(&a) == KVOPS_OK); });
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int replay = 0; replay < 3; ++replay) {
    for (auto* t : {&prefix, &suffix})
      for (auto& x : t->h) x = uint16_t(0x3F00 + random() % 256 + (random() % 2 << 15));
    for (auto* t : {&p, &s})
      for (auto& x : t->h) x = random() % 10 ? normal(random) : replay ? -INFINITY : INFINITY;
    prefix.up(stream), suffix.up(stream), p.up(stream), s.up(stream);
    graph.replay();
    auto got = out.down(stream);
    auto got_lse = lse.down(stream);
    REQUIRE(kvops_merge_attn_states(&in_place) == KVOPS_OK);
    CHECK((prefix.down(stream) == got));
    auto same = s.down(stream);
    CHECK(!std::memcmp(same.data(), got_lse.data(), same.size() * 4));
    auto c = a;
    c.prefix_output = prefix.on_cpu(), c.suffix_output = suffix.on_cpu();
    c.prefix_lse = p.on_cpu(), c.suffix_lse = s.on_cpu();
    c.out = out.on_cpu(), c.out_lse = lse.on_cpu();
    REQUIRE(kvops_merge_attn_states(&c) == KVOPS_OK);
    float most = 0;  // all numbers are below 2: a unit in the last place of them is 2^-7
    for (size_t i = 0; i < got.size(); ++i)
      most = std::max(most, std::fabs(from_bf16(got[i]) - from_bf16(out.h[i])));
    CHECK(most <= 0x1p-7f);
  }
}

TEST_CASE("merge_attn_states on a GPU: tokens further apart than 2^32 bytes") {
  Stream stream{};
  constexpr int64_t kFar = (int64_t(1) << 31) + 64;  // bf16 elements
  void* data = nullptr;
  if (kvops_malloc(kGpu, 2 * kFar + 8192, &data)) return;  // needs 4 GiB
  need(kvops_fill(kGpu, stream.get(), data, 0x3F, 8192));
  need(kvops_fill(kGpu, stream.get(), static_cast<char*>(data) + 2 * kFar, 0x40, 4096));
  Both<float> lse(KVOPS_F32, {1, 2});
  lse.up(stream);  // zeros: both sides weigh the same
  const int64_t shape[] = {2, 1, 8};
  auto at = [&](int64_t bytes) {
    auto t =
        kvops_dense(static_cast<char*>(data) + bytes, kGpu, stream.get(), KVOPS_BF16, 3, shape);
    t.stride[0] = kFar;
    return t;
  };
  kvops_merge_attn_states_args a = {};
  a.struct_size = sizeof a;
  a.prefix_output = at(0), a.suffix_output = at(16), a.out = at(64);
  a.prefix_lse = a.suffix_lse = lse.on_gpu(stream);
  CHECK(kvops_merge_attn_states(&a) == KVOPS_OK);
  for (int64_t t : {0, 1}) {
    std::vector<uint8_t> got(16);
    need(kvops_copy(kGpu, stream.get(), got.data(), static_cast<char*>(a.out.data) + t * kFar * 2,
                    16));
    stream.wait();
    CHECK((got == std::vector<uint8_t>(16, t ? 0x40 : 0x3F)));
  }
  need(kvops_free(kGpu, data));
}
