// Paged attention to the bit: layouts, calls, threads and batches against each other, memory that
// may not be looked at, strides; and its results through merge_attn_states.
#include "ops/attention.h"

#include "cpu/paged_attention.h"

using namespace tests;
using std::vector;

namespace {

// Every dtype of a cache once.
void each_cached(const std::function<void(kvops_dtype, kvops_dtype)>& body) {
  for (auto type : kTypes) body(type, type);
  for (int i = 0; i < 4; ++i) body(kTypes[i % 3], kFp8[i]);
}

}  // namespace

TEST_CASE("attention: the heads of a group are one unit of work") {
  // So each byte of the cache is fetched once for all of them; larger groups than these share L2.
  using Case = std::pair<int64_t, int64_t>;  // size, heads of a group
  for (auto& c : {Case{64, 64}, Case{128, 64}, Case{256, 32}, Case{512, 16}}) {
    Problem p;
    p.size = c.first, p.kv_heads = 2, p.heads = 2 * c.second, p.lens = {3};
    p.fill(1), p.lay_out();
    CHECK(kvops::cpu::Attention(p.args).units() == 2);
  }
}

TEST_CASE("attention: packed, NHD and HND caches give the same bits") {
  each_cached([](kvops_dtype type, kvops_dtype cached) {
    using Case = std::pair<int64_t, int64_t>;  // size, block
    for (auto& c : {Case{16, 16}, Case{80, 5}, Case{128, 8}, Case{128, 16}, Case{256, 64}}) {
      Problem p;
      p.type = type, p.cached = cached, p.size = c.first, p.block = c.second;
      p.lens = {70, 1, 21};
      p.fill(unsigned(p.size)), p.spoil();
      vector<vector<unsigned char>> packed;
      for (auto layout : {Layout::packed, Layout::nhd, Layout::hnd}) {
        p.layout = layout, p.lay_out();
        size_t isa = 0;
        on_every_isa([&] {
          INFO(kvops_dtype_name(type) << " " << kvops_dtype_name(cached) << " " << p.size);
          if (layout == Layout::packed) packed.push_back(p.run());
          REQUIRE(p.run() == packed[isa++]);
        });
      }
    }
  });
}

TEST_CASE("attention: unused slots and table entries change no bit") {
  each_cached([](kvops_dtype type, kvops_dtype cached) {
    for (auto layout : {Layout::packed, Layout::nhd}) {
      for (int block : {6, 16}) {
        vector<unsigned char> clean;
        for (float filling : {0.0f, NAN, INFINITY}) {
          Problem p;
          p.type = type, p.cached = cached, p.layout = layout, p.block = block;
          p.unused = filling, p.unused_id = filling == 0 ? 0 : INT32_MAX;
          p.fill(3), p.spoil(), p.lay_out();
          const auto bits = p.run();
          if (clean.empty()) clean = bits;
          REQUIRE(bits == clean);
          REQUIRE(p.faults == 0);
        }
      }
    }
  });
}

TEST_CASE("attention: v1, v2, any number of threads, with and without workspace: the same bits") {
  // One long sequence beside short ones: it is split over the threads where there is a workspace.
  for (auto cached : {KVOPS_BF16, KVOPS_F8_E4M3}) {
    for (const auto& lens :
         {vector<int32_t>{20000, 3, 600, 1}, vector<int32_t>{513}, vector<int32_t>{16385, 16384}}) {
      for (bool options : {false, true}) {
        Problem p;
        p.type = KVOPS_BF16, p.cached = cached, p.lens = lens, p.heads = 8, p.kv_heads = 2;
        p.fill(4);
        if (options) {
          p.args.window = 9000, p.args.softcap = 20;
          p.with_sinks(), p.with_slopes();
        }
        p.lay_out();
        kvops_set_num_threads(1);
        const auto alone = p.run();
        for (int threads : {1, 2, 3, 7}) {
          kvops_set_num_threads(threads);
          p.args.workspace = {};
          REQUIRE(p.run() == alone);
          REQUIRE(p.run(kvops_paged_attention_v2) == alone);
          p.with_workspace();
          REQUIRE(p.run() == alone);
          REQUIRE(p.run(kvops_paged_attention_v2) == alone);
        }
        kvops_set_num_threads(0);
        CHECK(p.worst_error() <= 1);
      }
    }
  }
}

TEST_CASE("attention: a larger max_seq_len changes no bit") {
  Problem p;
  p.lens = {700, 30}, p.fill(5), p.lay_out();
  p.args.max_seq_len = 700;
  p.with_workspace();
  const auto bits = p.run();
  for (int64_t most : {701, 5000, 1 << 20, 0}) {
    p.args.max_seq_len = most;
    p.with_workspace();
    REQUIRE(p.run() == bits);
  }
}

TEST_CASE("attention: a workspace that is too small is refused") {
  Problem p;
  p.lens = {5000}, p.fill(5), p.lay_out(), p.with_workspace();
  p.args.workspace.shape[0] -= 1;
  CHECK(kvops_paged_attention_v2(&p.args) == KVOPS_INVALID_ARGUMENT);
  CHECK_THAT(kvops_last_error(), Catch::StartsWith("paged_attention_v2: workspace: shape[0] is "));
}

TEST_CASE("attention: a sequence has the same bits alone and in any batch") {
  Problem p;
  p.lens = {3000, 5, 1100, 64, 0, 9000}, p.heads = 6, p.kv_heads = 3;
  p.fill(6), p.lay_out(), p.with_workspace();
  p.args.batch_invariant = 1;
  const auto all = p.run();
  const int64_t row = p.heads * p.size;
  for (int64_t s = 0; s < p.seqs(); ++s) {
    auto a = p.args;
    Buffer out(p.type, row);
    auto slice = [&](kvops_tensor& t) {
      t.data = static_cast<char*>(t.data) + s * t.stride[0] * kvops_dtype_size(t.dtype);
      t.shape[0] = 1;
    };
    slice(a.query), slice(a.block_table), slice(a.seq_lens);
    a.out = tensor(out.data(), p.type, {1, p.heads, p.size});
    a.lse = a.workspace = {};
    CHECK_OK(kvops_paged_attention_v1(&a));
    const auto bits = out.image();
    const auto bytes = int64_t(bits.size());
    REQUIRE(std::equal(bits.begin(), bits.end(), all.begin() + s * bytes));
  }
}

TEST_CASE("attention: strides of query, out, table and lse are followed") {
  Problem p;
  p.lens = {40, 17, 3};
  p.fill(7), p.lay_out();
  const auto dense = p.run();
  // A query inside a fused qkv, a table inside a wider one, values with strides of their own.
  const int64_t fused = (p.heads + 2 * p.kv_heads) * p.size, wide = p.width + 5;
  vector<float> qkv(size_t(p.seqs() * fused), NAN), lse(size_t(2 * p.seqs() * p.heads), NAN);
  vector<float> out(size_t(p.seqs() * 2 * p.heads * p.size), NAN);
  vector<int32_t> table(size_t(p.seqs() * wide), INT32_MAX);
  for (int64_t s = 0; s < p.seqs(); ++s) {
    for (int64_t i = 0; i < p.heads * p.size; ++i)
      qkv[size_t(s * fused + i)] = p.query[s * p.heads * p.size + i];
    for (int64_t j = 0; j < p.width; ++j)
      table[size_t(s * wide + j)] = p.table[size_t(s * p.width + j)];
  }
  p.args.query = tensor(qkv, p.type, {p.seqs(), p.heads, p.size}, {fused, p.size, 1});
  p.args.out =
      tensor(out, p.type, {p.seqs(), p.heads, p.size}, {2 * p.heads * p.size, 2 * p.size, 1});
  p.args.lse = tensor(lse, KVOPS_F32, {p.seqs(), p.heads}, {1, p.seqs()});
  p.args.block_table = tensor(table, KVOPS_I32, {p.seqs(), p.width}, {wide, 1});
  auto packed = p.args.value_cache;
  p.layout = Layout::hnd;
  p.args.value_cache = p.value_view(p.value_cache.data());
  p.write_caches(p.args.key_cache, p.args.value_cache);
  REQUIRE(packed.stride[3] == 1);
  CHECK_OK(kvops_paged_attention_v1(&p.args));
  Buffer again(p.type, p.query.count), sums(KVOPS_F32, p.seqs() * p.heads);
  for (int64_t s = 0; s < p.seqs(); ++s)
    for (int64_t h = 0; h < p.heads; ++h) {
      sums.set(s * p.heads + h, lse[size_t(h * p.seqs() + s)]);
      for (int64_t d = 0; d < p.size; ++d)
        again.set((s * p.heads + h) * p.size + d, out[size_t((s * p.heads + h) * 2 * p.size + d)]);
    }
  auto bits = again.image(), rest = sums.image();
  bits.insert(bits.end(), rest.begin(), rest.end());
  REQUIRE(bits == dense);
}

TEST_CASE("attention: a bad block id weighs nothing, is counted once and leads nowhere") {
  for (int32_t bad : {-1, 12, INT32_MAX, INT32_MIN}) {
    Problem p;
    p.lens = {70, 90}, p.heads = 8, p.fill(8), p.lay_out();
    REQUIRE(p.blocks == 12);
    p.table[1] = bad, p.table[size_t(p.width) + 5] = bad;
    kvops_set_option("debug", "bounds");
    CHECK(kvops_paged_attention_v1(&p.args) == KVOPS_INVALID_ARGUMENT);
    CHECK_THAT(kvops_last_error(),
               Catch::StartsWith("paged_attention_v1: block_table: element 1 "));
    kvops_set_option("debug", "");
    p.run();
    CHECK(p.faults == 2);
    // The same as sequences that never had those tokens; the last block of the second has 10.
    Problem q = p;
    q.lens = {54, 80};
    q.table.erase(q.table.begin() + int64_t(p.width) + 5), q.table.erase(q.table.begin() + 1);
    q.table.insert(q.table.begin() + int64_t(p.width) - 1, 0);
    q.table.push_back(0);
    q.lay_out(), q.run();
    CHECK(q.faults == 0);
    for (int64_t i = 0; i < p.out.count; ++i)
      REQUIRE(std::abs(p.out[i] - q.out[i]) <= 4e-6 * (1 + std::abs(q.out[i])));
  }
}

TEST_CASE("attention: NaN and infinity of a live token arrive") {
  Problem p;
  p.type = p.cached = KVOPS_BF16, p.lens = {20}, p.heads = 2, p.kv_heads = 1, p.fill(9);
  const int64_t b = p.table[0];
  p.values.set(p.at(b, 3, 0, 5), NAN), p.values.set(p.at(b, 4, 0, 6), INFINITY);
  p.lay_out(), p.run();
  for (int64_t d = 0; d < p.size; ++d) {
    CHECK(std::isnan(p.out[d]) == (d == 5));
    CHECK(std::isinf(p.out[d]) == (d == 6));
  }
  p.keys.set(p.at(b, 3, 0, 0), NAN);
  p.lay_out(), p.run();
  for (int64_t d = 0; d < p.size; ++d) CHECK(std::isnan(p.out[d]));
  // A logit of -inf has no weight; without another one there is no token left.
  p.fill(9), p.lens = {1};
  p.query.set(0, 1), p.query.set(p.size, 1);
  p.keys.set(p.at(p.table[0], 0, 0, 0), -INFINITY);
  p.lay_out(), p.run();
  for (int64_t i = 0; i < p.out.count; ++i) CHECK(p.out[i] == 0);
  CHECK(p.lse[0] == -INFINITY);
}

TEST_CASE("attention: strides beyond 2^31 elements") {
  constexpr int64_t kFar = (int64_t{1} << 32) + 4096;
  for (auto cached : {KVOPS_BF16, KVOPS_F8_E4M3}) {
    Problem p;
    p.type = KVOPS_BF16, p.cached = cached, p.lens = {9, 12}, p.block = 4, p.size = 16;
    p.fill(10), p.spoil(), p.lay_out();
    const auto dense = p.run();
    const int64_t bytes = kvops_dtype_size(cached);
    Sparse far(size_t(bytes * (p.blocks * kFar + 8192)));
    for (auto layout : {Layout::packed, Layout::hnd}) {
      p.layout = layout;
      p.args.key_cache = p.key_view(far.data);
      p.args.value_cache = p.value_view(far.data + 2048 * bytes);
      p.args.key_cache.stride[0] = p.args.value_cache.stride[0] = kFar;
      p.write_caches(p.args.key_cache, p.args.value_cache);
      REQUIRE(p.run() == dense);
    }
  }
}

TEST_CASE("attention: prefix and suffix merge to the whole") {
  Problem p;
  p.lens = {900, 320}, p.fill(11), p.with_slopes();
  p.slopes.assign(p.slopes.size(), 0);
  p.lay_out(), p.run();
  Problem prefix = p, suffix = p;
  const int64_t cut = 10 * p.block;
  prefix.lens = {int32_t(cut), int32_t(cut)},
  suffix.lens = {int32_t(900 - cut), int32_t(320 - cut)};
  for (int64_t s = 0; s < 2; ++s)
    std::rotate(suffix.table.begin() + s * p.width, suffix.table.begin() + s * p.width + 10,
                suffix.table.begin() + (s + 1) * p.width);
  prefix.lay_out(), prefix.run(), suffix.lay_out(), suffix.run();
  auto m = make<kvops_merge_attn_states_args>();
  auto turned = [](const kvops_tensor& t) {
    return tensor(t.data, t.dtype, {t.shape[1], t.shape[0]}, {t.stride[1], t.stride[0]});
  };
  m.prefix_output = prefix.args.out, m.suffix_output = suffix.args.out;
  m.prefix_lse = turned(prefix.args.lse), m.suffix_lse = turned(suffix.args.lse);
  const Buffer whole = p.out, whole_lse = p.lse;
  m.out = p.args.out, m.out_lse = turned(p.args.lse);
  CHECK_OK(kvops_merge_attn_states(&m));
  CHECK(p.worst_error() <= 16);
  CHECK(p.worst_lse() < 4e-6);
  CHECK(whole.image() != p.out.image());  // the merged bits were looked at, not the first ones
  // Without a prefix the suffix comes through to the bit.
  m.suffix_only_tokens = 2;
  CHECK_OK(kvops_merge_attn_states(&m));
  CHECK(p.out.image() == suffix.out.image());
}
