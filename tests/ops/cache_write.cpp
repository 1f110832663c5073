// The cache writers beyond what golden cases hold: layouts against each other, wide models, bad
// slots, odd addresses, strides past 2^31, readers of packed records written from their layout.
#include <algorithm>
#include <cmath>
#include <set>

#include "ops/tensors.h"

using namespace tests;
using std::vector;

namespace {

using Packed = kvops_reshape_and_cache_args;
using Flash = kvops_reshape_and_cache_flash_args;
using Mla = kvops_concat_and_cache_mla_args;

struct Shape {
  int64_t tokens, heads, size, blocks, block;
  int64_t capacity() const { return blocks * block; }
  size_t rows() const { return size_t(tokens * heads * size); }
  size_t cached() const { return size_t(capacity() * heads * size); }
  Extents source() const { return {tokens, heads, size}; }
  Extents flash() const { return {blocks, block, heads, size}; }
};

vector<int64_t> some_slots(const Shape& s, unsigned seed) {
  vector<int64_t> all(size_t(s.capacity()));
  for (size_t i = 0; i < all.size(); ++i) all[i] = int64_t(i);
  std::shuffle(all.begin() + s.block, all.end(), std::mt19937(seed));  // the first block is a run
  all.resize(size_t(s.tokens));
  return all;
}

Flash flash(const Shape& s, const vector<uint16_t>& key, const vector<uint16_t>& value,
            const vector<int64_t>& slot) {
  auto a = make<Flash>();
  a.key = tensor(key, KVOPS_BF16, s.source()), a.value = tensor(value, KVOPS_BF16, s.source());
  a.slot_mapping = slots(slot);
  return a;
}

// Views of flash caches [blocks, block, heads, size] as the shapes of reshape_and_cache.
kvops_tensor key_view(const kvops_tensor& t, int64_t x) {
  return tensor(t.data, t.dtype, {t.shape[0], t.shape[2], t.shape[3] / x, t.shape[1], x},
                {t.stride[0], t.stride[2], x, t.stride[1], 1});
}
kvops_tensor value_view(const kvops_tensor& t) {
  return tensor(t.data, t.dtype, {t.shape[0], t.shape[2], t.shape[3], t.shape[1]},
                {t.stride[0], t.stride[2], 1, t.stride[1]});
}

// Packed, NHD and HND caches of both sides, w bytes per element.
bool same_elements(const Shape& s, int64_t w, const vector<uint8_t> (&memory)[5][2]) {
  const int64_t x = 16 / w;
  bool same = true;
  for (int64_t b = 0; b < s.blocks; ++b)
    for (int64_t o = 0; o < s.block; ++o)
      for (int64_t h = 0; h < s.heads; ++h)
        for (int64_t d = 0; d < s.size; ++d) {
          const int64_t in_packed[] = {
              (((b * s.heads + h) * (s.size / x) + d / x) * s.block + o) * x + d % x,
              ((b * s.heads + h) * s.size + d) * s.block + o};
          const int64_t in_nhd = ((b * s.block + o) * s.heads + h) * s.size + d;
          const int64_t in_hnd = ((b * s.heads + h) * s.block + o) * s.size + d;
          for (int side = 0; side < 2; ++side) {
            auto* first = memory[0][side].data() + in_packed[side] * w;
            same &= !std::memcmp(first, memory[1][side].data() + in_nhd * w, size_t(w));
            same &= !std::memcmp(first, memory[2][side].data() + in_hnd * w, size_t(w));
          }
        }
  return same;
}

}  // namespace

TEST_CASE("reshape_and_cache: every head of a wide model is written") {
  const Shape s = {37, 64, 128, 4, 16};
  auto key = random_bits<uint16_t>(s.rows(), 1), value = random_bits<uint16_t>(s.rows(), 2);
  auto slot = some_slots(s, 3);
  vector<uint16_t> k(s.cached(), 0x7FC1), v = k;
  auto a = make<Packed>();
  a.key = tensor(key, KVOPS_BF16, s.source()), a.value = tensor(value, KVOPS_BF16, s.source());
  a.key_cache = tensor(k, KVOPS_BF16, {s.blocks, s.heads, s.size / 8, s.block, 8});
  a.value_cache = tensor(v, KVOPS_BF16, {s.blocks, s.heads, s.size, s.block});
  a.slot_mapping = slots(slot);
  auto expected_k = k, expected_v = v;
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t d = 0; d < s.size; ++d) {
        int64_t b = slot[size_t(t)] / s.block, o = slot[size_t(t)] % s.block;
        auto from = size_t((t * s.heads + h) * s.size + d);
        expected_k[size_t((((b * s.heads + h) * (s.size / 8) + d / 8) * s.block + o) * 8 + d % 8)] =
            key[from];
        expected_v[size_t(((b * s.heads + h) * s.size + d) * s.block + o)] = value[from];
      }
  on_every_isa([&] {
    std::fill(k.begin(), k.end(), 0x7FC1), std::fill(v.begin(), v.end(), 0x7FC1);
    CHECK_OK(kvops_reshape_and_cache(&a));
    CHECK((k == expected_k));
    CHECK((v == expected_v));
  });
}

TEST_CASE("packed, NHD and HND caches hold the same elements") {
  const Shape s = {45, 3, 48, 4, 16};
  auto key = random_bf16(s.rows(), 1), value = random_bf16(s.rows(), 2);
  auto slot = some_slots(s, 3);
  const float scale = 0.02f;
  for (kvops_dtype dtype : {KVOPS_BF16, KVOPS_F8_E4M3, KVOPS_F8_E5M2}) {
    const int64_t w = kvops_dtype_size(dtype), x = 16 / w, row = s.heads * s.size;
    const Extents hnd = {s.block * row, s.size, s.block * s.size, 1};
    vector<uint8_t> memory[5][2];
    for (auto& sides : memory)
      for (auto& m : sides) m.assign(s.cached() * size_t(w), 0xA5);
    auto put = [&](auto& a, const kvops_tensor& k, const kvops_tensor& v) {
      a.key = tensor(key, KVOPS_BF16, s.source()), a.value = tensor(value, KVOPS_BF16, s.source());
      a.slot_mapping = slots(slot), a.key_cache = k, a.value_cache = v;
      a.k_scale = a.v_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {});
    };
    auto cache = [&](int i, int side, const Extents& stride) {
      return tensor(memory[i][side], dtype, s.flash(), stride);
    };
    auto packed = make<Packed>();
    put(packed, tensor(memory[0][0], dtype, {s.blocks, s.heads, s.size / x, s.block, x}),
        tensor(memory[0][1], dtype, {s.blocks, s.heads, s.size, s.block}));
    CHECK_OK(kvops_reshape_and_cache(&packed));
    for (int i : {1, 2}) {  // NHD, HND
      auto a = make<Flash>();
      put(a, cache(i, 0, i == 2 ? hnd : Extents{}), cache(i, 1, i == 2 ? hnd : Extents{}));
      CHECK_OK(kvops_reshape_and_cache_flash(&a));
      auto view = make<Packed>();
      put(view, key_view(cache(i + 2, 0, i == 2 ? hnd : Extents{}), x),
          value_view(cache(i + 2, 1, i == 2 ? hnd : Extents{})));
      CHECK_OK(kvops_reshape_and_cache(&view));
      CHECK((memory[i][0] == memory[i + 2][0]));
      CHECK((memory[i][1] == memory[i + 2][1]));
    }
    CHECK(same_elements(s, w, memory));
  }
}

TEST_CASE("keys and values may have layouts of their own") {
  const Shape s = {9, 4, 33, 3, 4};
  auto key = random_bits<uint16_t>(s.rows(), 1), value = random_bits<uint16_t>(s.rows(), 2);
  auto slot = some_slots(s, 3);
  vector<uint16_t> k(s.cached(), 1), v(s.cached(), 2);
  auto a = flash(s, key, value, slot);
  a.key_cache = tensor(k, KVOPS_BF16, s.flash());
  a.value_cache =
      tensor(v, KVOPS_BF16, s.flash(), {s.block * s.heads * s.size, s.size, s.block * s.size, 1});
  CHECK_OK(kvops_reshape_and_cache_flash(&a));
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t h = 0; h < s.heads; ++h) {
      int64_t b = slot[size_t(t)] / s.block, o = slot[size_t(t)] % s.block;
      auto* from = key.data() + (t * s.heads + h) * s.size;
      CHECK(!std::memcmp(&k[size_t(((b * s.block + o) * s.heads + h) * s.size)], from, 66));
      from = value.data() + (t * s.heads + h) * s.size;
      CHECK(!std::memcmp(&v[size_t(((b * s.heads + h) * s.block + o) * s.size)], from, 66));
    }
}

TEST_CASE("K and V in one row, in blocks with padding, at odd addresses") {
  for (int64_t size : {1, 33, 46, 80, 128}) {
    const Shape s = {7, 2, size, 3, 4};
    // Sources are head slices of a fused projection, one element off; blocks are 11 too long.
    const int64_t fused = s.heads * (3 * size + 1) + 5, row = 2 * size,
                  page = s.block * s.heads * row;
    auto source = random_bits<uint16_t>(size_t(s.tokens * fused + 1), 1);
    vector<uint16_t> cache(size_t(s.blocks * (page + 11) + 1), 0xBEEF);
    auto expected = cache;
    auto slot = some_slots(s, 3);
    auto a = make<Flash>();
    a.key = tensor(&source[1], KVOPS_BF16, s.source(), {fused, 3 * size + 1, 1});
    a.value = tensor(&source[size_t(1 + size)], KVOPS_BF16, s.source(), {fused, 3 * size + 1, 1});
    a.key_cache = tensor(&cache[1], KVOPS_BF16, s.flash(), {page + 11, row, s.block * row, 1});
    a.value_cache = a.key_cache, a.value_cache.data = &cache[size_t(1 + size)];
    a.slot_mapping = slots(slot);
    for (int64_t t = 0; t < s.tokens; ++t)
      for (int64_t h = 0; h < s.heads; ++h) {
        int64_t b = slot[size_t(t)] / s.block, o = slot[size_t(t)] % s.block;
        std::memcpy(&expected[size_t(1 + b * (page + 11) + (h * s.block + o) * row)],
                    &source[size_t(1 + t * fused + h * (3 * size + 1))], size_t(4 * size));
      }
    on_every_isa([&] {
      std::fill(cache.begin(), cache.end(), 0xBEEF);
      CHECK_OK(kvops_reshape_and_cache_flash(&a));
      CHECK((cache == expected));
    });
  }
}

// Calls a writer of tokens of which one has a slot, and two have slots past the cache of 12
// positions of `bytes` each: that many bytes of the cache change, and none around it.
template <class Args, class F>
void check_slots(kvops_status (*call)(const Args*), Args args, int64_t bytes, F&& set_cache) {
  const int64_t capacity = 12, far = int64_t{1} << 40;
  const vector<int64_t> slot = {-1, capacity - 1, capacity, far, -far};
  vector<uint8_t> memory(size_t(64 + capacity * bytes + 64), 0xEE);
  int64_t faults = 40;
  args.slot_mapping = slots(slot), args.faults = tensor(&faults, KVOPS_I64, {1});
  set_cache(args, memory.data() + 64);
  CHECK_OK(call(&args));
  CHECK(faults == 42);
  auto untouched = [](uint8_t b) { return b == 0xEE; };
  auto begin = memory.begin() + 64, end = begin + capacity * bytes;
  CHECK(std::all_of(memory.begin(), begin, untouched));
  CHECK(std::all_of(end, memory.end(), untouched));
  CHECK(std::count_if(begin, end, untouched) == (capacity - 1) * bytes);
  args.faults = {};
  CHECK_OK(call(&args));  // works without a counter, too
}

TEST_CASE("slots below 0 are skipped, slots past the cache are counted, in every writer") {
  vector<uint16_t> source(5 * 2 * 576, 0x3F80);
  const float scale = 1;
  auto one = tensor(const_cast<float*>(&scale), KVOPS_F32, {1});
  auto p = make<Packed>();
  p.key = p.value = tensor(source, KVOPS_BF16, {5, 2, 16});
  check_slots(kvops_reshape_and_cache, p, 2 * 2 * 16 * 2, [](Packed& a, uint8_t* m) {
    a.key_cache = tensor(m, KVOPS_BF16, {3, 2, 2, 4, 8});
    a.value_cache = tensor(m + 12 * 2 * 16 * 2, KVOPS_BF16, {3, 2, 16, 4});
  });
  auto f = make<Flash>();
  f.key = f.value = tensor(source, KVOPS_BF16, {5, 2, 16}), f.k_scale = f.v_scale = one;
  check_slots(kvops_reshape_and_cache_flash, f, 2 * 2 * 16, [](Flash& a, uint8_t* m) {
    a.key_cache = tensor(m, KVOPS_F8_E4M3, {3, 4, 2, 16});
    a.value_cache = tensor(m + 12 * 2 * 16, KVOPS_F8_E4M3, {3, 4, 2, 16});
  });
  f.format = KVOPS_FORMAT_NVFP4, f.v_scale_layout = KVOPS_V_SCALE_TRANSPOSED;
  check_slots(kvops_reshape_and_cache_flash, f, 2 * 2 * 9, [](Flash& a, uint8_t* m) {
    a.key_cache = tensor(m, KVOPS_U8, {3, 4, 2, 9});
    a.value_cache = tensor(m + 12 * 2 * 9, KVOPS_U8, {3, 4, 2, 9});
  });
  auto mla = make<Mla>();
  mla.kv_c = tensor(source, KVOPS_BF16, {5, 512}), mla.k_pe = tensor(source, KVOPS_BF16, {5, 64});
  check_slots(kvops_concat_and_cache_mla, mla, 1152, [](Mla& a, uint8_t* m) {
    a.kv_cache = tensor(m, KVOPS_BF16, {3, 4, 576});
  });
  mla.format = KVOPS_FORMAT_FP8_DS_MLA;
  check_slots(kvops_concat_and_cache_mla, mla, 656, [](Mla& a, uint8_t* m) {
    a.kv_cache = tensor(m, KVOPS_U8, {3, 4, 656});
  });
  mla.format = KVOPS_FORMAT_NVFP4_DS_MLA;
  check_slots(kvops_concat_and_cache_mla, mla, 352, [](Mla& a, uint8_t* m) {
    a.kv_cache = tensor(m, KVOPS_U8, {3, 4, 352});
  });
}

TEST_CASE("rows past slot_mapping are not read") {
  const auto page = size_t(getpagesize());
  Sparse source(2 * page);  // two rows end where readable memory ends
  REQUIRE(mprotect(source.data + page, page, PROT_NONE) == 0);
  const Shape s = {2, 2, 40, 2, 4};
  auto* rows = reinterpret_cast<uint16_t*>(source.data + page) - s.rows();
  std::fill(rows, rows + s.rows(), uint16_t(0x4000));
  const vector<int64_t> slot = {3, 4};
  const float scale = 0.1f;
  vector<uint8_t> k(s.cached()), v(s.cached());
  auto a = make<Flash>();
  a.key = a.value = tensor(rows, KVOPS_BF16, {9, s.heads, s.size});
  a.slot_mapping = slots(slot);
  a.k_scale = a.v_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {1});
  a.key_cache = tensor(k, KVOPS_F8_E4M3, s.flash());
  a.value_cache = tensor(v, KVOPS_F8_E4M3, s.flash());
  on_every_isa([&] { CHECK_OK(kvops_reshape_and_cache_flash(&a)); });
  auto p = make<Packed>();
  p.key = p.value = a.key, p.slot_mapping = a.slot_mapping, p.k_scale = p.v_scale = a.k_scale;
  p.key = p.value = tensor(rows + 32, KVOPS_BF16, {9, 2, 32}, {64, 32, 1});
  p.key_cache = tensor(k, KVOPS_F8_E4M3, {2, 2, 2, 4, 16});
  p.value_cache = tensor(v, KVOPS_F8_E4M3, {2, 2, 32, 4});
  on_every_isa([&] { CHECK_OK(kvops_reshape_and_cache(&p)); });
  auto m = make<Mla>();
  m.kv_c = tensor(rows, KVOPS_BF16, {9, 59}, {80, 1});
  m.k_pe = tensor(rows + 59, KVOPS_BF16, {9, 21}, {80, 1});
  m.kv_cache = tensor(k, KVOPS_F8_E4M3, {1, 2, 80}), m.kv_scale = a.k_scale;
  const vector<int64_t> two = {1, 0};
  m.slot_mapping = slots(two);
  on_every_isa([&] { CHECK_OK(kvops_concat_and_cache_mla(&m)); });
}

TEST_CASE("of two tokens with one slot, one wins in every 16 bytes") {
  const Shape s = {64, 2, 64, 2, 16};
  vector<uint16_t> key(s.rows());
  for (size_t i = 0; i < key.size(); ++i) key[i] = uint16_t(i / size_t(s.heads * s.size));
  vector<int64_t> slot(size_t(s.tokens), 5);
  vector<uint16_t> k(s.cached(), 0xFFFF), v = k;
  auto a = flash(s, key, key, slot);
  a.key_cache = tensor(k, KVOPS_BF16, s.flash()), a.value_cache = tensor(v, KVOPS_BF16, s.flash());
  CHECK_OK(kvops_reshape_and_cache_flash(&a));
  auto p = make<Packed>();
  vector<uint16_t> pk(s.cached(), 0xFFFF), pv = pk;
  p.key = a.key, p.value = a.value, p.slot_mapping = a.slot_mapping;
  p.key_cache = tensor(pk, KVOPS_BF16, {2, 2, 8, 16, 8});
  p.value_cache = tensor(pv, KVOPS_BF16, {2, 2, 64, 16});
  CHECK_OK(kvops_reshape_and_cache(&p));
  for (auto* cache : {&k, &v, &pk})
    for (size_t i = 0; i < cache->size(); i += 8) {
      std::set<uint16_t> group(cache->begin() + long(i), cache->begin() + long(i) + 8);
      CHECK(group.size() == 1);
    }
  for (size_t i = 0; i < pv.size(); ++i)
    if (i % 16 == 5 && i < pv.size() / 2 ? pv[i] >= 64 : pv[i] != 0xFFFF) FAIL(i);
}

TEST_CASE("cache bytes do not depend on the number of threads") {
  const Shape s = {700, 4, 64, 50, 16};
  auto key = random_bf16(s.rows(), 1), value = random_bf16(s.rows(), 2);
  auto slot = some_slots(s, 3);
  const float scale = 0.01f;
  vector<vector<uint8_t>> results;
  for (int threads : {1, 2, 7}) {
    REQUIRE(!kvops_set_num_threads(threads));
    vector<uint8_t> k(s.cached(), 7), v(s.cached(), 7);
    auto p = make<Packed>();
    p.key = tensor(key, KVOPS_BF16, s.source()), p.value = tensor(value, KVOPS_BF16, s.source());
    p.slot_mapping = slots(slot);
    p.k_scale = p.v_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {1});
    p.key_cache = tensor(k, KVOPS_F8_E4M3, {50, 4, 4, 16, 16});
    p.value_cache = tensor(v, KVOPS_F8_E4M3, {50, 4, 64, 16});
    CHECK_OK(kvops_reshape_and_cache(&p));
    k.insert(k.end(), v.begin(), v.end());
    results.push_back(k);
  }
  kvops_set_num_threads(0);
  CHECK((results[0] == results[1] && results[0] == results[2]));
}

TEST_CASE("vLLM's cache dtype names") {
  const kvops_device cpu = {KVOPS_CPU, 0};
  struct {
    const char* name;
    kvops_dtype dtype;
    int64_t format;
  } const known[] = {
      {"auto", KVOPS_F16, KVOPS_FORMAT_PLAIN},
      {"float16", KVOPS_F16, KVOPS_FORMAT_PLAIN},
      {"bfloat16", KVOPS_BF16, KVOPS_FORMAT_PLAIN},
      {"fp8", KVOPS_F8_E4M3, KVOPS_FORMAT_PLAIN},
      {"fp8_e4m3", KVOPS_F8_E4M3, KVOPS_FORMAT_PLAIN},
      {"fp8_e5m2", KVOPS_F8_E5M2, KVOPS_FORMAT_PLAIN},
      {"fp8_ds_mla", KVOPS_U8, KVOPS_FORMAT_FP8_DS_MLA},
      {"nvfp4", KVOPS_U8, KVOPS_FORMAT_NVFP4},
      {"nvfp4_4over6", KVOPS_U8, KVOPS_FORMAT_NVFP4_4OVER6},
      {"nvfp4_ds_mla", KVOPS_U8, KVOPS_FORMAT_NVFP4_DS_MLA},
  };
  kvops_dtype dtype = 0;
  int64_t format = -1;
  for (auto& k : known) {
    CHECK_OK(kvops_parse_kv_cache_dtype(k.name, KVOPS_F16, cpu, &dtype, &format));
    CHECK(dtype == k.dtype);
    CHECK(format == k.format);
  }
  for (const char* name : {"fp8_inc", "turboquant_k8v4", "fp8_per_token_head",
                           "int8_per_token_head", "FP8", "", "fp16"})
    CHECK(kvops_parse_kv_cache_dtype(name, KVOPS_F16, cpu, &dtype, &format) == KVOPS_UNSUPPORTED);
}
