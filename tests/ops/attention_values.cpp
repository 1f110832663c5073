// The values of paged attention against double precision: all sizes, groups, dtypes and lengths.
#include "ops/attention.h"

using namespace tests;

namespace {

// f32 results: the error of a logit, which is a sum of `size` products in vectors of at least 4, is
// the relative error of its weight. 16-bit results: half a unit is the rounding of the exact value,
// the rest is for ties.
double bound(kvops_dtype type, int64_t size = 128) {
  return type != KVOPS_F32 ? 0.51 : size <= 256 ? 8 : 16;
}

void each_type(const std::function<void(kvops_dtype, kvops_dtype)>& body) {
  for (auto type : kTypes) {
    body(type, type);
    for (auto cached : kFp8) body(type, cached);
  }
}

}  // namespace

TEST_CASE("attention: every head size") {
  on_every_isa([] {
    for (int64_t size = 8; size <= 512; size += 8) {
      Problem p;
      p.type = p.cached = kTypes[size / 8 % 3];
      if (size % 16 == 0) p.cached = kFp8[size / 16 % 4], p.k_scale = 0.7f, p.v_scale = 1.3f;
      p.size = size, p.lens = {19, 2}, p.heads = 3, p.kv_heads = 1;
      INFO(size << " " << kvops_dtype_name(p.cached));
      p.fill(unsigned(size)), p.lay_out(), p.run();
      REQUIRE(p.worst_error() <= bound(p.type, size));
    }
  });
}

TEST_CASE("attention: every dtype, block size and length around it") {
  each_type([](kvops_dtype type, kvops_dtype cached) {
    for (int block : {1, 2, 3, 8, 13, 16, 32, 100}) {
      Problem p;
      p.type = type, p.cached = cached, p.block = block;
      p.lens = {0, 1, block - 1, block, block + 1, 3 * block + 1, 200};
      if (type != cached) p.k_scale = 0.25f, p.v_scale = 3;
      INFO(kvops_dtype_name(type) << " " << kvops_dtype_name(cached) << " " << block);
      p.fill(unsigned(block)), p.spoil(), p.lay_out(), p.run();
      REQUIRE(p.worst_error() <= bound(type));
      REQUIRE(p.worst_lse() < 4e-6);
      REQUIRE(p.faults == 0);
    }
  });
}

TEST_CASE("attention: every group of query heads") {
  on_every_isa([] {
    for (int64_t group : {1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 63, 64, 65, 130}) {
      for (int64_t size : {16, 136, 512}) {
        Problem p;
        p.heads = 2 * group, p.size = size, p.lens = {21};
        INFO(group << " " << size);
        p.fill(unsigned(group)), p.lay_out(), p.run();
        REQUIRE(p.worst_error() <= bound(p.type, size));
      }
    }
  });
}

TEST_CASE("attention: one token, and 131072") {
  Problem p;
  p.type = p.cached = KVOPS_BF16, p.lens = {1, 131072}, p.heads = 2, p.kv_heads = 1, p.size = 64;
  p.fill(12), p.lay_out(), p.with_workspace(), p.run();
  CHECK(p.worst_error() <= bound(p.type));
  // The one token's value, unchanged.
  for (int64_t d = 0; d < p.size; ++d) CHECK(p.out[d] == p.values[p.at(p.table[0], 0, 0, d)]);
  p.type = p.cached = KVOPS_F32;
  p.fill(12), p.lay_out(), p.with_workspace(), p.run();
  CHECK(p.worst_error() <= 32);
}

TEST_CASE("attention: a million sequences") {
  Problem p;
  p.lens.assign(1 << 20, 1), p.heads = p.kv_heads = 1, p.size = 8, p.block = 1;
  p.fill(13), p.lay_out(), p.run();
  for (int64_t s = 0; s < p.seqs(); ++s)
    for (int64_t d = 0; d < 8; ++d)
      if (p.out[s * 8 + d] != p.values[p.at(p.table[size_t(s * p.width)], 0, 0, d)]) FAIL(s);
}

TEST_CASE("attention: closer to the exact result than vLLM's arithmetic") {
  // There: weights rounded to the query's dtype, products too; keys of fp8 rounded to it as well.
  for (kvops_dtype type : {KVOPS_F16, KVOPS_BF16}) {
    for (kvops_dtype cached : {type, kvops_dtype(KVOPS_F8_E4M3)}) {
      for (unsigned seed : {1, 2, 3}) {
        Problem p;
        p.type = type, p.cached = cached, p.size = 128, p.lens = {33, 300, 1500};
        if (type != cached) p.k_scale = 0.3f, p.v_scale = 0.9f;
        p.fill(seed), p.lay_out(), p.run();
        Problem q = p;
        q.cached = q.keys.dtype = KVOPS_F32;
        auto narrow = [&](Buffer& to, const Buffer& from, float scale) {
          to = Buffer(KVOPS_F32, from.count);
          for (int64_t i = 0; i < from.count; ++i) to.set(i, rounded(type, from[i] * scale));
        };
        narrow(q.keys, p.keys, p.k_scale), narrow(q.values, p.values, p.v_scale);
        q.k_scale = q.v_scale = 1;
        Problem::Weights w;
        const double theirs = p.worst([&](int64_t i) {
          const int64_t d = i % p.size, h = i / p.size % p.heads, s = i / p.size / p.heads;
          if (d == 0) w = q.weights(s, h);
          float sum = 0;
          for (int64_t t = 0; t < p.lens[size_t(s)]; ++t) {
            const float weight = rounded(type, float(w.each[size_t(t)] / (w.sum + 1e-6)));
            const int64_t b = p.table[size_t(s * p.width + t / p.block)];
            sum += rounded(type, weight * q.values[p.at(b, t % p.block, h / 2, d)]);
          }
          return double(rounded(type, sum));
        });
        INFO(kvops_dtype_name(type) << " " << kvops_dtype_name(cached) << " " << theirs);
        CHECK(p.worst_error() <= 1);
        CHECK(p.worst_error() <= theirs);
      }
    }
  }
}

TEST_CASE("attention: products with subnormal numbers count where they are large") {
  // Dot products of bf16 in hardware would take 2^-127 as 0, and the logit 1 with it.
  constexpr uint16_t kTiny = 0x0040, kHuge = 0x7F00, kOne = 0x3F80;  // 2^-127, 2^127, 1
  for (bool tiny_query : {true, false}) {
    std::vector<uint16_t> q(32), k(16 * 32), v(16 * 32), out(32);
    q[0] = tiny_query ? kTiny : kHuge;
    k[0] = tiny_query ? kHuge : kTiny;                 // element 0 of token 0
    for (size_t d = 0; d < 32; ++d) v[d * 16] = kOne;  // token 0; token 1 is zero
    const std::vector<int32_t> table = {0}, lengths = {2};
    auto a = make<kvops_paged_attention_v1_args>();
    a.query = tensor(q, KVOPS_BF16, {1, 1, 32}), a.out = tensor(out, KVOPS_BF16, {1, 1, 32});
    a.key_cache = tensor(k, KVOPS_BF16, {1, 1, 4, 16, 8});
    a.value_cache = tensor(v, KVOPS_BF16, {1, 1, 32, 16});
    a.block_table = tensor(table, KVOPS_I32, {1, 1}), a.seq_lens = tensor(lengths, KVOPS_I32, {1});
    a.scale = 1;
    on_every_isa([&] {
      CHECK_OK(kvops_paged_attention_v1(&a));
      CHECK(from_bf16(out[0]) == Approx(0.7310586).epsilon(0.004));  // e / (e + 1)
    });
  }
}
