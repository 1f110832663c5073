// concat_and_cache_mla_rope_fused: three roundings, and in every format the cache that the rotated
// rows give.
#include <algorithm>

#include "ops/rows.h"

using namespace tests;
using kvops::bf16;
using kvops::f16;
using std::vector;

namespace {

using Fused = kvops_concat_and_cache_mla_rope_fused_args;
using Mla = kvops_concat_and_cache_mla_args;

constexpr int64_t kMaxPos = 40;

// A call of the fused operator in memory of its own.
template <class T>
struct Rows {
  int64_t rows, heads, latent, rope;
  Matrix<T> q, wide;  // wide: [k_pe | kv_c], as a projection gives them
  vector<float> angles;
  vector<int64_t> positions, slot;
  vector<uint8_t> cache;

  Rows(int64_t rows, int64_t heads, int64_t latent, int64_t rope, unsigned seed)
      : rows(rows),
        heads(heads),
        latent(latent),
        rope(rope),
        q(rows * heads, rope, 3, rope + 5),
        wide(rows, rope + latent, 1, rope + latent + 3) {
    q.randomize(seed), wide.randomize(seed + 1);
    std::mt19937 random(seed + 2);
    for (int64_t i = 0; i < kMaxPos * rope; ++i)
      angles.push_back(float(random() % 2001) / 1000 - 1);
    for (int64_t t = 0; t < rows; ++t) {
      positions.push_back(int64_t(random() % kMaxPos));
      slot.push_back(t % 5 == 3 ? -1 : rows - 1 - t);
    }
  }
  Fused args(int64_t neox) {
    auto a = make<Fused>();
    a.positions = tensor(positions, KVOPS_I64, {rows});
    a.q_pe =
        tensor(q.row(0), kvops::dtype_of<T>, {rows, heads, rope}, {heads * q.stride, q.stride, 1});
    a.k_pe = tensor(wide.row(0), kvops::dtype_of<T>, {rows, rope}, {wide.stride, 1});
    a.kv_c = tensor(wide.row(0) + rope, kvops::dtype_of<T>, {rows, latent}, {wide.stride, 1});
    a.cos_sin_cache = tensor(angles, KVOPS_F32, {kMaxPos, rope});
    a.slot_mapping = slots(slot);
    a.is_neox = neox;
    return a;
  }
  // Blocks of 4 with room for all rows, entries of `bytes`, filled with 0xEE.
  kvops_tensor cache_of(kvops_dtype dtype, int64_t entry) {
    const int64_t blocks = (rows + 3) / 4;
    cache.assign(size_t(blocks * 4 * entry * kvops_dtype_size(dtype)), 0xEE);
    return tensor(cache, dtype, {blocks, 4, entry});
  }
};

// One row of rope elements, by scalar arithmetic: each product is rounded to T, then their sum.
template <class T>
vector<T> turned(const T* v, const float* row, int64_t rope, bool neox) {
  auto rn = [](float x) { return to_float(from_float<T>(x)); };
  vector<T> out(static_cast<size_t>(rope));
  const int64_t half = rope / 2;
  for (int64_t i = 0; i < half; ++i) {
    const auto a = size_t(neox ? i : 2 * i), b = size_t(neox ? half + i : 2 * i + 1);
    const float x = to_float(v[a]), y = to_float(v[b]), c = rn(row[i]), s = rn(row[half + i]);
    volatile float xc = rn(x * c), ys = rn(y * s), yc = rn(y * c), xs = rn(x * s);
    out[a] = from_float<T>(xc - ys), out[b] = from_float<T>(yc + xs);
  }
  return out;
}

template <class T>
bool all_turned(const Rows<T>& now, const Rows<T>& before, bool neox) {
  bool right = now.q.intact() && now.wide.intact();
  for (int64_t t = 0; t < now.rows; ++t) {
    const float* row = now.angles.data() + now.positions[size_t(t)] * now.rope;
    auto check = [&](const T* v, const T* from) {
      auto want = turned(from, row, now.rope, neox);
      right &= !std::memcmp(v, want.data(), want.size() * sizeof(T));
    };
    for (int64_t h = 0; h < now.heads; ++h)
      check(now.q.row(t * now.heads + h), before.q.row(t * now.heads + h));
    check(now.wide.row(t), before.wide.row(t));
    right &= !std::memcmp(now.wide.row(t) + now.rope, before.wide.row(t) + now.rope,
                          size_t(now.latent) * sizeof(T));
  }
  return right;
}

// The cache that concat_and_cache_mla makes of the rows as they are now.
template <class T>
vector<uint8_t> cache_of_rows(Rows<T>& r, const Fused& a) {
  auto kept = r.cache;
  auto m = make<Mla>();
  m.kv_c = a.kv_c, m.k_pe = a.k_pe, m.slot_mapping = a.slot_mapping, m.kv_scale = a.kv_scale;
  m.kv_cache = a.kv_cache, m.format = a.format, m.scale_rule = a.scale_rule;
  m.fp8_encoding = a.fp8_encoding;
  std::fill(r.cache.begin(), r.cache.end(), 0xEE);
  CHECK_OK(kvops_concat_and_cache_mla(&m));
  std::swap(kept, r.cache);
  return kept;
}

const float kScale = 0.037f;

}  // namespace

TEMPLATE_TEST_CASE("rope_fused: three roundings, whatever the pairs, heads and strides", "[mla]",
                   float, f16, bf16) {
  using T = TestType;
  on_every_isa([&] {
    for (auto [heads, rope] : {std::pair{1, 64}, {5, 38}, {16, 2}, {17, 128}, {33, 50}})
      for (int64_t neox : {0, 1}) {
        Rows<T> r(7, heads, 9, rope, unsigned(heads));
        const Rows<T> before = r;
        auto a = r.args(neox);
        a.kv_cache = r.cache_of(kvops::dtype_of<T>, 9 + rope);
        CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
        CHECK(all_turned(r, before, neox));
        CHECK((r.cache == cache_of_rows(r, a)));
        // A table of T gives the bits of an f32 table that is rounded to T.
        vector<T> table;
        for (float x : r.angles) table.push_back(from_float<T>(x));
        Rows<T> again = before;
        auto b = again.args(neox);
        b.cos_sin_cache = tensor(table, kvops::dtype_of<T>, {kMaxPos, rope});
        b.kv_cache = again.cache_of(kvops::dtype_of<T>, 9 + rope);
        CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&b));
        CHECK((r.q.equals(again.q) && r.wide.equals(again.wide) && r.cache == again.cache));
      }
  });
}

TEMPLATE_TEST_CASE("rope_fused: every record is that of concat_and_cache_mla, byte for byte",
                   "[mla]", f16, bf16) {
  using T = TestType;
  on_every_isa([&] {
    for (int64_t rule : {KVOPS_SCALE_POW2, KVOPS_SCALE_AMAX})
      for (int64_t encoding : {KVOPS_FP8_OCP, KVOPS_FP8_FNUZ})
        for (int64_t neox : {0, 1}) {
          Rows<T> r(11, 3, 512, 64, 7);
          const Rows<T> before = r;
          auto a = r.args(neox);
          a.format = KVOPS_FORMAT_FP8_DS_MLA, a.scale_rule = rule, a.fp8_encoding = encoding;
          a.kv_cache = r.cache_of(KVOPS_U8, 656);
          CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
          CHECK(all_turned(r, before, neox));
          CHECK((r.cache == cache_of_rows(r, a)));
        }
    for (kvops_dtype cache : {KVOPS_F8_E4M3, KVOPS_F8_E5M2, KVOPS_F8_E4M3FNUZ, KVOPS_F8_E5M2FNUZ}) {
      Rows<T> r(11, 3, 33, 16, 7);
      auto a = r.args(1);
      a.kv_scale = tensor(const_cast<float*>(&kScale), KVOPS_F32, {1});
      a.kv_cache = r.cache_of(cache, 49);
      CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
      CHECK((r.cache == cache_of_rows(r, a)));
    }
  });
}

TEST_CASE("rope_fused: in f32 the bits of rotary_embedding where nothing is contracted", "[mla]") {
  for (const char* isa : {"scalar", "sse4"}) {
    if (kvops_set_option("cpu_isa", isa)) continue;
    for (int64_t neox : {0, 1}) {
      Rows<float> r(9, 3, 20, 64, 3), apart = r;
      auto a = r.args(neox), b = apart.args(neox);
      a.kv_cache = r.cache_of(KVOPS_F32, 84), b.kv_cache = apart.cache_of(KVOPS_F32, 84);
      CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
      auto e = make<kvops_rotary_embedding_args>();
      e.positions = b.positions, e.query = b.q_pe, e.cos_sin_cache = b.cos_sin_cache;
      e.key = tensor(apart.wide.row(0), KVOPS_F32, {9, 1, 64}, {apart.wide.stride, 64, 1});
      e.head_size = 64, e.is_neox = neox;
      CHECK_OK(kvops_rotary_embedding(&e));
      CHECK((r.q.equals(apart.q) && r.wide.equals(apart.wide)));
      CHECK((r.cache == cache_of_rows(apart, b)));
    }
  }
  kvops_set_option("cpu_isa", "");
}

TEST_CASE("rope_fused: rows without a slot are turned, too", "[mla]") {
  Rows<bf16> r(7, 4, 32, 64, 5);
  r.slot = {0, -1, 17, 23};
  const Rows<bf16> before = r;
  auto a = r.args(0);
  r.cache.assign(32 * 96 * 2, 0xEE);
  a.kv_cache = tensor(r.cache, KVOPS_BF16, {2, 16, 96});
  CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
  CHECK(all_turned(r, before, false));
  for (int64_t s = 0; s < 32; ++s) {
    const bool written = s == 0 || s == 17 || s == 23;
    auto* entry = &r.cache[size_t(s * 192)];
    CHECK(std::all_of(entry, entry + 192, [](uint8_t b) { return b == 0xEE; }) == !written);
  }
  r.slot.clear();  // no slot at all: rotation only
  Rows<bf16> q = before;
  q.slot.clear();
  auto b = q.args(0);
  b.kv_cache = a.kv_cache;
  CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&b));
  CHECK(all_turned(q, before, false));
}

TEST_CASE("rope_fused: a row with a bad position is left alone; faults are counted", "[mla]") {
  for (int threads : {1, 3}) {
    REQUIRE(!kvops_set_num_threads(threads));
    Rows<f16> r(600, 2, 16, 32, 5);
    const Rows<f16> before = r;
    r.positions[1] = kMaxPos, r.positions[2] = -1, r.positions[590] = int64_t{1} << 40;
    r.slot[4] = 600, r.slot[590] = int64_t{1} << 50, r.slot[5] = -(int64_t{1} << 40);
    int64_t faults = 10;
    auto a = r.args(1);
    a.faults = tensor(&faults, KVOPS_I64, {1});
    a.kv_cache = r.cache_of(KVOPS_F16, 48);
    CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
    CHECK(faults == 14);
    for (int64_t t : {1, 2, 590}) {
      for (int64_t h : {0, 1}) CHECK(!std::memcmp(r.q.row(2 * t + h), before.q.row(2 * t + h), 64));
      CHECK(!std::memcmp(r.wide.row(t), before.wide.row(t), 96));
    }
    auto entry = [&](int64_t t) { return &r.cache[size_t((599 - t) * 96)]; };
    auto untouched = [](uint8_t b) { return b == 0xEE; };
    for (int64_t t : {1, 2, 3, 4, 5, 590}) CHECK(std::all_of(entry(t), entry(t) + 96, untouched));
    for (int64_t t : {0, 6, 599}) CHECK(!std::memcmp(entry(t) + 32, r.wide.row(t), 64));
    const float* row = r.angles.data() + r.positions[4] * 32;  // a bad slot is no bad position
    CHECK(!std::memcmp(r.wide.row(4), turned(before.wide.row(4), row, 32, true).data(), 64));
  }
  kvops_set_num_threads(0);
}

TEST_CASE("rope_fused: infinities and NaN have the same bytes on every instruction set", "[mla]") {
  vector<uint8_t> first;
  on_every_isa([&] {
    Rows<bf16> r(8, 1, 512, 64, 5);
    auto bits = random_bits<uint16_t>(8 * 64, 4);  // NaN with payloads, infinities, subnormals
    for (size_t i = 0; i < bits.size(); i += 3) bits[i] |= 0x7F80;
    for (int64_t t = 0; t < 8; ++t) std::memcpy(r.wide.row(t), &bits[size_t(t * 64)], 128);
    auto a = r.args(1);
    a.format = KVOPS_FORMAT_FP8_DS_MLA;
    a.kv_cache = r.cache_of(KVOPS_U8, 656);
    CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
    if (first.empty()) first = r.cache;
    CHECK((r.cache == first));
    for (int64_t i = 0; i < 64; ++i) {
      const uint16_t x = r.wide.row(0)[i].bits;
      if ((x & 0x7FFF) > 0x7F80) CHECK(x == 0x7FC0);
    }
  });
}

TEST_CASE("sparse: concat_and_cache_mla_rope_fused") {
  constexpr int64_t kFar = (int64_t{1} << 32) + 4096;
  Sparse q(size_t(2 * (4 * kFar + 4096))), k(size_t(2 * (kFar + 4096)));
  Sparse cache(size_t(2 * (3 * kFar + 4096))), angles(size_t(4 * (kFar + 4096)));
  const vector<int64_t> positions = {1, 0}, slot = {3, 0};
  for (int64_t p : {0, 1})
    for (int64_t i = 0; i < 8; ++i)
      angles.at<float>(p * kFar + i) = 1, angles.at<float>(p * kFar + 8 + i) = 0;
  for (int64_t t : {0, 1}) {
    for (int64_t h : {0, 1}) q.at<uint16_t>(t * 2 * kFar + h * kFar + 15) = 0x3F80;
    k.at<uint16_t>(t * kFar + 15) = uint16_t(0x4000 + 0x80 * t);
    k.at<uint16_t>(t * kFar + 16) = 0x1111;
  }
  auto a = make<Fused>();
  a.positions = tensor(positions, KVOPS_I64, {2});
  a.q_pe = tensor(q.data, KVOPS_BF16, {2, 2, 16}, {2 * kFar, kFar, 1});
  a.k_pe = tensor(k.data, KVOPS_BF16, {2, 16}, {kFar, 1});
  a.kv_c = tensor(k.data + 32, KVOPS_BF16, {2, 8}, {kFar, 1});
  a.cos_sin_cache = tensor(angles.data, KVOPS_F32, {2, 16}, {kFar, 1});
  a.kv_cache = tensor(cache.data, KVOPS_BF16, {2, 2, 24}, {2 * kFar, kFar, 1});
  a.slot_mapping = slots(slot);
  CHECK_OK(kvops_concat_and_cache_mla_rope_fused(&a));
  CHECK(cache.at<uint16_t>(3 * kFar + 23) == 0x4000);
  CHECK(cache.at<uint16_t>(23) == 0x4080);
  CHECK(cache.at<uint16_t>(0) == 0x1111);
  CHECK(cache.pages() == 2);
  CHECK(q.pages() == 4);
}
