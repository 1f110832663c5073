// Writers of MLA caches on a GPU: graphs follow addresses, positions, slots and data; caches may
// begin anywhere and have strides past 2^32; NaN is the quiet one in the rotated rows, too.
#include <algorithm>
#include <numeric>
#include <random>

#include "graph.h"

using namespace test;

namespace {

constexpr int64_t kLatent = 512, kRope = 64, kBlock = 16, kBlocks = 5;

std::mt19937 generator(11);

// Numbers of usual size, and here and there any bits: NaN, infinities, subnormals.
void randomise(std::vector<uint16_t>& values) {
  std::normal_distribution<float> normal;
  for (auto& v : values) {
    auto bits = number_bits(KVOPS_BF16, normal(generator));
    v = generator() % 64 ? uint16_t(bits) : uint16_t(generator());
  }
}

// Distinct slots, one of them padding and one past the end.
void choose(std::vector<int64_t>& slots, size_t first, size_t count) {
  std::vector<int64_t> all(kBlock * kBlocks);
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), generator);
  std::copy_n(all.begin(), count, slots.begin() + long(first));
  slots[first + 1] = -1, slots[first + 4] = kBlock * kBlocks;
}

struct Record {
  int64_t format;
  kvops_dtype cache;
  int64_t entry;  // elements
};
const Record kRecords[] = {{KVOPS_FORMAT_PLAIN, KVOPS_BF16, kLatent + kRope},
                           {KVOPS_FORMAT_PLAIN, KVOPS_F8_E4M3, kLatent + kRope},
                           {KVOPS_FORMAT_FP8_DS_MLA, KVOPS_U8, 656}};

int64_t bytes_of(const Record& r) { return r.entry * kvops_dtype_size(r.cache); }

}  // namespace

namespace {

// Every layer's cache is a stretch of `memory`, `odd` bytes past a multiple of 16.
struct Grouped {
  static constexpr int64_t kLayers = 4, kTokens = 37;
  Stream stream;
  int64_t apart, odd;
  Both<uint16_t> latent{KVOPS_BF16, {kLayers, kTokens, kLatent}};
  Both<uint16_t> rope{KVOPS_BF16, {kLayers, kTokens, kRope}};
  Both<int64_t> slots{KVOPS_I64, {kLayers, kTokens}}, caches{KVOPS_I64, {kLayers}};
  Both<int64_t> faults{KVOPS_I64, {1}};
  Both<float> scales{KVOPS_F32, {kLayers}};
  Both<uint8_t> memory;
  kvops_concat_and_cache_mla_grouped_args gpu = {}, cpu = {};

  Grouped(const Record& record, int64_t from)
      : apart(kBlocks * kBlock * bytes_of(record) + 16 + from),
        odd(from),
        memory(KVOPS_U8, {kLayers * apart}) {
    auto fill = [&](auto& a, auto&& side) {
      a.struct_size = sizeof a;
      a.kv_c = side(latent), a.k_pe = side(rope), a.kv_cache_ptrs = side(caches);
      a.slot_mapping = side(slots), a.faults = side(faults);
      if (record.cache == KVOPS_F8_E4M3) a.kv_scales = side(scales);
      a.cache_dtype = record.cache, a.format = record.format;
      a.num_blocks = kBlocks, a.block_size = kBlock;
      a.entry_stride = record.entry, a.block_stride = kBlock * record.entry;
    };
    fill(gpu, [&](auto& t) { return t.on_gpu(stream); });
    fill(cpu, [](auto& t) { return t.on_cpu(); });
    memory.up(stream), faults.up(stream);
  }
  void change(int replay) {
    randomise(latent.h), randomise(rope.h);
    for (int64_t i = 0; i < kLayers; ++i) {
      choose(slots.h, size_t(i * kTokens), kTokens);
      scales.h[size_t(i)] = 0.01f * float(replay + int(i));
    }
    latent.up(stream), rope.up(stream), slots.up(stream), scales.up(stream);
  }
  // Another order in every replay, and one layer without a cache.
  void lay(const void* base, int replay) {
    for (int64_t i = 0; i < kLayers; ++i)
      caches.h[size_t(i)] =
          int64_t(reinterpret_cast<uintptr_t>(base)) + (i + replay) % kLayers * apart + odd;
    caches.h[2] = 0;
  }
};

}  // namespace

TEST_CASE("graph: grouped follows addresses, slots, data and scales; caches begin anywhere") {
  for (auto& record : kRecords) {
    for (int64_t odd : {0, 2, 8}) {
      Grouped g(record, odd);
      Graph graph(g.stream,
                  [&] { REQUIRE(kvops_concat_and_cache_mla_grouped(&g.gpu) == KVOPS_OK); });
      for (int replay = 1; replay <= 3; ++replay) {
        g.change(replay);
        g.lay(g.memory.on_gpu(g.stream).data, replay);
        g.caches.up(g.stream);
        graph.replay();
        g.lay(g.memory.h.data(), replay);
        REQUIRE(kvops_concat_and_cache_mla_grouped(&g.cpu) == KVOPS_OK);
        CHECK((g.memory.down(g.stream) == g.memory.h));
        CHECK(g.faults.down(g.stream)[0] == 3 * replay);  // none of the layer that is skipped
        CHECK(g.faults.h[0] == 3 * replay);
      }
    }
  }
}

namespace {

struct Fused {
  static constexpr int64_t kRows = 45, kTokens = 41, kHeads = 6, kPositions = 50;
  Stream stream;
  Record record;
  Both<uint16_t> query{KVOPS_BF16, {kRows, kHeads, kRope}}, key{KVOPS_BF16, {kRows, kRope}};
  Both<uint16_t> latent{KVOPS_BF16, {kRows, kLatent}};
  Both<float> angles{KVOPS_F32, {kPositions, kRope}}, scale{KVOPS_F32, {1}};
  Both<int64_t> positions{KVOPS_I64, {kRows}}, slots{KVOPS_I64, {kTokens}};
  Both<int64_t> faults{KVOPS_I64, {1}};
  Both<uint8_t> cache;
  kvops_concat_and_cache_mla_rope_fused_args gpu = {}, cpu = {};

  Fused(const Record& r, bool neox)
      : record(r), cache(KVOPS_U8, {kBlocks * kBlock * bytes_of(r) + 16}) {
    auto fill = [&](auto& a, auto&& side) {
      a.struct_size = sizeof a;
      a.positions = side(positions), a.q_pe = side(query), a.k_pe = side(key);
      a.kv_c = side(latent), a.cos_sin_cache = side(angles), a.slot_mapping = side(slots);
      a.faults = side(faults), a.kv_scale = side(scale), a.is_neox = neox, a.format = r.format;
      int64_t shape[] = {kBlocks, kBlock, r.entry};
      auto t = side(cache);  // two bytes past its beginning
      a.kv_cache =
          kvops_dense(static_cast<char*>(t.data) + 2, t.device, t.stream, r.cache, 3, shape);
    };
    fill(gpu, [&](auto& t) { return t.on_gpu(stream); });
    fill(cpu, [](auto& t) { return t.on_cpu(); });
    std::uniform_real_distribution<float> any(-1, 1);
    for (auto& v : angles.h) v = any(generator);
    angles.up(stream), cache.up(stream), faults.up(stream);
  }
  void change() {
    randomise(query.h), randomise(key.h), randomise(latent.h);
    for (auto& p : positions.h) p = int64_t(generator() % kPositions);
    positions.h[0] = kPositions, positions.h[3] = -1, positions.h[44] = int64_t(1) << 40;
    choose(slots.h, 0, kTokens);
    scale.h[0] = float(1 + generator() % 100) / 500;
    query.up(stream), key.up(stream), latent.up(stream), positions.up(stream);
    slots.up(stream), scale.up(stream);
  }
};

}  // namespace

TEST_CASE("graph: rope_fused follows positions, slots, data and scales, with the CPU's bits") {
  for (auto& record : kRecords) {
    for (bool neox : {false, true}) {
      Fused f(record, neox);
      Graph graph(f.stream,
                  [&] { REQUIRE(kvops_concat_and_cache_mla_rope_fused(&f.gpu) == KVOPS_OK); });
      for (int replay = 1; replay <= 3; ++replay) {
        f.change();
        graph.replay();
        REQUIRE(kvops_concat_and_cache_mla_rope_fused(&f.cpu) == KVOPS_OK);
        CHECK((f.query.down(f.stream) == f.query.h));
        CHECK((f.key.down(f.stream) == f.key.h));
        CHECK((f.cache.down(f.stream) == f.cache.h));
        CHECK(f.faults.down(f.stream)[0] == 3 * replay);  // a slot, two positions
        CHECK(f.faults.h[0] == 3 * replay);
      }
    }
  }
}

TEST_CASE("MLA caches on a GPU: strides past 2^32 bytes") {
  Fused f(kRecords[1], false);
  constexpr int64_t kStride = (int64_t(1) << 32) + 48;  // of a block
  void* data = nullptr;
  if (kvops_malloc(kGpu, kStride + kBlock * 1024, &data)) return;  // needs 4 GiB
  f.change();
  std::fill(f.slots.h.begin(), f.slots.h.end(), -1);
  f.slots.h[5] = kBlock + 3;
  f.slots.up(f.stream);
  auto a = f.gpu;
  a.kv_cache.data = data, a.kv_cache.shape[0] = 2, a.kv_cache.stride[0] = kStride;
  REQUIRE(kvops_concat_and_cache_mla_rope_fused(&a) == KVOPS_OK);
  auto expected = f.cpu;
  expected.kv_cache.shape[0] = 2;
  REQUIRE(kvops_concat_and_cache_mla_rope_fused(&expected) == KVOPS_OK);
  std::vector<uint8_t> got(size_t(kLatent + kRope));
  auto* entry = &f.cache.h[size_t(2 + (kBlock + 3) * (kLatent + kRope))];
  auto check = [&] {
    auto* at = static_cast<char*>(data) + kStride + 3 * (kLatent + kRope);
    need(kvops_copy(kGpu, f.stream.get(), got.data(), at, int64_t(got.size())));
    need(kvops_fill(kGpu, f.stream.get(), at, 0, int64_t(got.size())));
    f.stream.wait();
    CHECK(!std::memcmp(got.data(), entry, got.size()));
  };
  check();
  Both<int64_t> address(KVOPS_I64, {1});
  address.h[0] = int64_t(reinterpret_cast<uintptr_t>(data));
  address.up(f.stream);
  kvops_concat_and_cache_mla_grouped_args g = {};
  g.struct_size = sizeof g;
  auto one_layer = [](kvops_tensor t) {
    std::copy_backward(t.shape, t.shape + t.rank, t.shape + t.rank + 1);
    std::copy_backward(t.stride, t.stride + t.rank, t.stride + t.rank + 1);
    t.shape[0] = 1, ++t.rank;
    return t;
  };
  g.kv_c = one_layer(a.kv_c), g.k_pe = one_layer(a.k_pe);
  g.slot_mapping = one_layer(a.slot_mapping), g.kv_cache_ptrs = address.on_gpu(f.stream);
  g.kv_scales = a.kv_scale, g.cache_dtype = KVOPS_F8_E4M3, g.num_blocks = 2;
  g.block_size = kBlock, g.block_stride = kStride, g.entry_stride = kLatent + kRope;
  REQUIRE(kvops_concat_and_cache_mla_grouped(&g) == KVOPS_OK);
  check();
  need(kvops_free(kGpu, data));
}
