// cpu_attn_reshape_and_cache beyond golden cases: every type in every packing against the formulas,
// strides, long strides, tokens with one slot, and how far codes are from truncated ones.
#include <algorithm>
#include <cmath>

#include "core/numeric.h"
#include "cpu/attn_packing.h"
#include "cpu/stream.h"
#include "ops/rows.h"

using namespace tests;
using kvops::cpu::Packing;
using std::vector;

namespace {

using Args = kvops_cpu_attn_reshape_and_cache_args;

constexpr int64_t kTokens = 150, kHeads = 3, kBlocks = 4;
constexpr double kScales[] = {0.1, 7.0 / 128};

// Runs of all lengths that begin anywhere, single slots, padding, faults.
vector<int64_t> some_slots(int64_t capacity, unsigned seed) {
  std::mt19937 random(seed);
  vector<int64_t> free(static_cast<size_t>(capacity)), slots;
  for (size_t i = 0; i < free.size(); ++i) free[i] = int64_t(i);
  std::rotate(free.begin(), free.begin() + long(random() % free.size()), free.end());
  while (int64_t(slots.size()) < kTokens) {
    const unsigned kind = random() % 8;
    if (kind == 0) slots.push_back(-1 - int64_t(random()));
    if (kind == 1) slots.push_back(capacity + int64_t(random() % 3));
    for (unsigned n = kind < 2 ? 0 : kind < 5 ? 1 : random() % 70; n && !free.empty(); --n) {
      slots.push_back(free.front());
      free.erase(free.begin());
    }
    if (free.size() > 5) free.erase(free.begin(), free.begin() + long(random() % 3));
  }
  slots.resize(kTokens);
  return slots;
}

// One side of a call: rows with padded strides, a cache in a larger buffer of which every byte is
// compared.
template <class S, class C>
struct Side {
  int64_t size, block, token_stride, head_stride, cache_head, cache_block;
  int64_t skip = 3;  // elements before the cache; without gaps it is aligned to a line
  vector<S> rows;
  vector<C> cache, expected;

  Side(int64_t size, int64_t block, unsigned seed, int64_t gap)
      : size(size),
        block(block),
        token_stride(kHeads * (size + gap) + 5 * gap),
        head_stride(size + gap),
        cache_head(block * size + 32 * gap),
        cache_block(kHeads * cache_head + 7 * gap),
        rows(size_t(1 + kTokens * token_stride)),
        cache(size_t(64 + kBlocks * cache_block)) {
    if (!gap) skip = int64_t(-reinterpret_cast<uintptr_t>(cache.data()) % 64 / sizeof(C));
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 3);
    for (auto& x : rows) x = from_float<S>(normal(random));
    for (auto& x : cache) x = from_float<C>(normal(random));
    expected = cache;
  }
  kvops_tensor source() {
    return tensor(rows.data() + 1, kvops::dtype_of<S>, {kTokens, kHeads, size},
                  {token_stride, head_stride, 1});
  }
  kvops_tensor target() {
    return tensor(cache.data() + skip, kvops::dtype_of<C>, {kBlocks, kHeads, block, size},
                  {cache_block, cache_head, size, 1});
  }
  static C stored(S x, double scale) {
    if constexpr (std::is_same_v<S, C>)
      return x;
    else
      return kvops::quantise<C>(to_float(x), float(scale));
  }
  template <class F>
  void expect(const vector<int64_t>& slots, double scale, F&& offset) {
    for (int64_t t = 0; t < kTokens; ++t) {
      const int64_t s = slots[size_t(t)];
      if (s < 0 || s >= kBlocks * block) continue;
      for (int64_t h = 0; h < kHeads; ++h)
        for (int64_t d = 0; d < size; ++d)
          expected[size_t(skip + s / block * cache_block + h * cache_head + offset(s % block, d))] =
              stored(rows[size_t(1 + t * token_stride + h * head_stride + d)], scale);
    }
  }
  bool same() const {
    return std::memcmp(cache.data(), expected.data(), cache.size() * sizeof(C)) == 0;
  }
};

// large: as if the last cache were smaller than what is written, so that lines go past it.
template <class S, class C>
void check_packing(int64_t isa, int64_t size, int64_t block, int64_t gap, bool large = false) {
  struct LastCache {
    explicit LastCache(int64_t bytes) { kvops::cpu::pretend_last_cache(bytes); }
    ~LastCache() { kvops::cpu::pretend_last_cache(0); }
  } last_cache(large ? 1 : 0);
  const auto slots_ = some_slots(kBlocks * block, unsigned(size + block));
  const Packing packing = kvops::cpu::packing_of(isa, block, size);
  int64_t bad = 0;
  for (auto s : slots_) bad += s >= kBlocks * block;
  on_every_isa([&] {
    INFO("packing " << isa << " size " << size << " block " << block);
    Side<S, C> key(size, block, 1, gap), value(size, block, 2, gap);
    key.expect(slots_, kScales[0], [&](int64_t t, int64_t d) { return packing.key(t, d); });
    value.expect(slots_, kScales[1], [&](int64_t t, int64_t d) { return packing.value(t, d); });
    auto a = make<Args>();
    int64_t faults = 7;
    a.key = key.source(), a.value = value.source();
    a.key_cache = key.target(), a.value_cache = value.target();
    a.slot_mapping = slots(slots_), a.faults = tensor(&faults, KVOPS_I64, {});
    a.k_scale = kScales[0], a.v_scale = kScales[1], a.isa = isa;
    CHECK_OK(kvops_cpu_attn_reshape_and_cache(&a));
    CHECK(key.same());
    CHECK(value.same());
    CHECK(faults == 7 + bad);
  });
}

template <class S>
void check_packings(bool amx) {
  using kvops::f8_e4m3, kvops::f8_e5m2;
  for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_VEC16, KVOPS_CPU_ISA_AMX}) {
    if (isa == KVOPS_CPU_ISA_AMX && !amx) continue;
    const int64_t unit = kvops::cpu::alignment_of(isa);
    for (int64_t size : {unit, 5 * unit})
      for (int64_t block : {unit, 3 * unit}) {
        check_packing<S, S>(isa, size, block, size == unit);
        check_packing<S, S>(isa, size, block, 0, true);
        check_packing<S, f8_e4m3>(isa, size, block, size == unit);
        check_packing<S, f8_e5m2>(isa, size, block, 0);
      }
  }
}

}  // namespace

TEST_CASE("cpu_attn_reshape_and_cache: f32 in both packings, copied and quantised") {
  check_packings<float>(false);
}
TEST_CASE("cpu_attn_reshape_and_cache: f16 in every packing, copied and quantised") {
  check_packings<kvops::f16>(true);
}
TEST_CASE("cpu_attn_reshape_and_cache: bf16 in every packing, copied and quantised") {
  check_packings<kvops::bf16>(true);
}

TEST_CASE("cpu_attn_reshape_and_cache: keys and values of a block in one piece of memory") {
  constexpr int64_t kSize = 64, kBlock = 32, kBlock2 = 2 * kBlock, kCount = 60;
  auto key = random_bf16(kCount * 2 * kSize, 1), value = random_bf16(kCount * 2 * kSize, 2);
  vector<uint16_t> cache(2 * 2 * kBlock2 * kSize), apart[2];
  vector<int64_t> slot;
  for (int64_t t = 0; t < kCount; ++t) slot.push_back((t * 7 + 3) % (2 * kBlock));
  auto a = make<Args>();
  a.key = tensor(key, KVOPS_BF16, {kCount, 2, kSize});
  a.value = tensor(value, KVOPS_BF16, {kCount, 2, kSize});
  a.slot_mapping = slots(slot), a.isa = KVOPS_CPU_ISA_AMX;
  const Extents shape = {2, 2, kBlock, kSize};
  const Extents strides = {2 * kBlock2 * kSize, kBlock2 * kSize, kSize, 1};
  a.key_cache = tensor(cache, KVOPS_BF16, shape, strides);
  a.value_cache = tensor(cache.data() + kBlock * kSize, KVOPS_BF16, shape, strides);
  CHECK_OK(kvops_cpu_attn_reshape_and_cache(&a));
  for (auto& side : apart) side.resize(2 * 2 * kBlock * kSize);
  a.key_cache = tensor(apart[0], KVOPS_BF16, shape);
  a.value_cache = tensor(apart[1], KVOPS_BF16, shape);
  CHECK_OK(kvops_cpu_attn_reshape_and_cache(&a));
  for (size_t i = 0; i < cache.size(); ++i) {
    const size_t page = kBlock * kSize, in = i / page;
    if (cache[i] != apart[in % 2][in / 2 * page + i % page]) FAIL(i);
  }
}

TEST_CASE("sparse: cpu_attn_reshape_and_cache") {
  constexpr int64_t kFar = int64_t{1} << 31;  // elements between blocks, and between heads
  Sparse keys(size_t((2 * kFar + 64 * 64) * 2)), values(size_t((2 * kFar + 64 * 64) * 2));
  auto row = random_bf16(2 * 32, 3);
  const vector<int64_t> slot = {32 + 5};
  for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_AMX}) {
    auto a = make<Args>();
    a.key = a.value = tensor(row, KVOPS_BF16, {1, 2, 32});
    const Extents shape = {2, 2, 32, 32}, strides = {kFar, kFar, 32, 1};
    a.key_cache = tensor(keys.data, KVOPS_BF16, shape, strides);
    a.value_cache = tensor(values.data, KVOPS_BF16, shape, strides);
    a.slot_mapping = slots(slot), a.isa = isa;
    CHECK_OK(kvops_cpu_attn_reshape_and_cache(&a));
    const Packing packing = kvops::cpu::packing_of(isa, 32, 32);
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t d = 0; d < 32; ++d) {
        const int64_t base = kFar + h * kFar;
        CHECK(keys.at<uint16_t>(base + packing.key(5, d)) == row[size_t(h * 32 + d)]);
        CHECK(values.at<uint16_t>(base + packing.value(5, d)) == row[size_t(h * 32 + d)]);
      }
  }
}

TEST_CASE("cpu_attn_reshape_and_cache: of two tokens with one slot one wins in every element") {
  constexpr int64_t kSame = 200, kSize = 32;
  vector<uint16_t> rows(kSame * kSize);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = uint16_t(0x0101 * (i / kSize));
  const vector<int64_t> slot(kSame, 9);
  for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_AMX}) {
    vector<uint16_t> k(32 * kSize, 0xEEFF), v = k;
    auto a = make<Args>();
    a.key = a.value = tensor(rows, KVOPS_BF16, {kSame, 1, kSize});
    a.key_cache = tensor(k, KVOPS_BF16, {1, 1, 32, kSize});
    a.value_cache = tensor(v, KVOPS_BF16, {1, 1, 32, kSize});
    a.slot_mapping = slots(slot), a.isa = isa;
    CHECK_OK(kvops_cpu_attn_reshape_and_cache(&a));
    auto written = [](uint16_t x) { return x % 0x0101 == 0; };
    CHECK(std::count_if(k.begin(), k.end(), written) == kSize);
    CHECK(std::count_if(v.begin(), v.end(), written) == kSize);
  }
}

TEST_CASE("cpu_attn_reshape_and_cache: codes are at most one step from truncated ones") {
  // vLLM multiplies by the reciprocal and truncates; zero has no sign there.
  auto truncated = [](float x, float scale, int mantissa, int bias, float most) {
    const float y = std::clamp(x * (1.0f / scale), -most, most), m = std::abs(y);
    if (y == 0) return 0;
    const int least = 1 - bias, e = std::max(std::ilogb(m), least);
    const int steps = int(std::ldexp(m, mantissa - e));
    const int code = steps + ((e - least) << mantissa);
    return y < 0 ? -code : code;
  };
  auto signed_code = [](uint8_t c) { return c & 0x80 ? -(c & 0x7F) : int(c); };
  vector<uint16_t> rows;
  for (int i = 0; i < 65536; ++i)
    if ((i & 0x7F80) != 0x7F80) rows.push_back(uint16_t(i));
  rows.resize(rows.size() / 32 * 32);
  const auto tokens = int64_t(rows.size() / 32), blocks = (tokens + 31) / 32;
  vector<int64_t> slot(static_cast<size_t>(tokens));
  for (size_t i = 0; i < slot.size(); ++i) slot[i] = int64_t(i);
  for (bool e4m3 : {true, false})
    for (double scale : kScales) {
      vector<uint8_t> k(size_t(blocks * 32 * 32)), v = k;
      auto a = make<Args>();
      a.key = a.value = tensor(rows, KVOPS_BF16, {tokens, 1, 32});
      const auto dtype = e4m3 ? KVOPS_F8_E4M3 : KVOPS_F8_E5M2;
      a.key_cache = tensor(k, dtype, {blocks, 1, 32, 32});
      a.value_cache = tensor(v, dtype, {blocks, 1, 32, 32});
      a.slot_mapping = slots(slot), a.isa = KVOPS_CPU_ISA_VEC, a.k_scale = a.v_scale = scale;
      CHECK_OK(kvops_cpu_attn_reshape_and_cache(&a));
      int apart = 0;
      for (size_t i = 0; i < rows.size(); ++i) {
        const int theirs = truncated(from_bf16(rows[i]), float(scale), e4m3 ? 3 : 2, e4m3 ? 7 : 15,
                                     e4m3 ? 448.0f : 57344.0f);
        apart = std::max(apart, std::abs(signed_code(v[i]) - theirs));
      }
      CHECK(apart == 1);
    }
}

TEST_CASE("cpu_attn_has_isa: every packing can be used, other numbers are none") {
  for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_VEC16, KVOPS_CPU_ISA_AMX})
    CHECK(kvops_cpu_attn_has_isa(isa) == 1);
  for (int64_t isa : {int64_t{0}, int64_t{4}, int64_t{-1}, INT64_MAX})
    CHECK(kvops_cpu_attn_has_isa(isa) == 0);
}
