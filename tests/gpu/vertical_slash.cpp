// convert_vertical_slash_indexes on a GPU: the CPU's lists where a thread block has many row
// blocks, which meet on the path of their head; where it has more gaps, or further ones, than a
// path can have; captured, and replayed on other lists.
#include <algorithm>
#include <functional>
#include <random>

#include "graph.h"

using namespace test;

namespace {

struct Lists {
  int64_t heads, rows, nv, ns, m, n, causal;
  Stream stream{};
  Both<int32_t> q{KVOPS_I32, {1}}, kv{KVOPS_I32, {1}};
  Both<int32_t> v{KVOPS_I32, {1, heads, nv}}, s{KVOPS_I32, {1, heads, ns}};
  Both<int32_t> block_count{KVOPS_I32, {1, heads, rows}}, column_count{KVOPS_I32, {1, heads, rows}};
  Both<int32_t> blocks{KVOPS_I32, {1, heads, rows, ns}}, columns{KVOPS_I32, {1, heads, rows, nv}};
  Both<int32_t> v_counts{KVOPS_I32, {heads}}, s_counts{KVOPS_I32, {heads}};
  Both<int64_t> faults{KVOPS_I64, {1}};

  // Slashes of head h are about `gap` << h apart from each other, in places also dense.
  void change(std::mt19937& random, int32_t gap, int32_t queries, int32_t keys) {
    q.h = {queries}, kv.h = {keys};
    auto below = [&](int64_t x) { return int32_t(random() % uint64_t(x)); };
    for (int64_t h = 0; h < heads; ++h) {
      auto list = s.h.begin() + h * ns;
      int32_t at = 0;
      for (int64_t i = 0; i < ns; ++i) {
        list[i] = at;
        at += random() % 64 ? 1 + below(2 * (gap << h)) : 30 * gap;
      }
      std::reverse(list, list + ns);
      auto verticals = v.h.begin() + h * nv;
      for (int64_t i = 0; i < nv; ++i) verticals[i] = below(keys + keys / 16 + 1) - 3;
      std::sort(verticals, verticals + nv);
    }
    for (auto& c : v_counts.h) c = below(nv + 9) - 4;
    for (auto& c : s_counts.h) c = below(ns + 9) - 4;
    for (auto* t : {&blocks, &columns, &block_count, &column_count})
      std::fill(t->h.begin(), t->h.end(), -7), t->up(stream);
    for (auto* t : {&q, &kv, &v, &s, &v_counts, &s_counts}) t->up(stream);
  }
  kvops_status run(bool gpu, bool counts) {
    auto fill = [&](auto& a) {
      auto side = [&](auto& t) { return gpu ? t.on_gpu(stream) : t.on_cpu(); };
      a.struct_size = sizeof a;
      a.q_seq_lens = side(q), a.kv_seq_lens = side(kv);
      a.vertical_indexes = side(v), a.slash_indexes = side(s);
      a.block_count = side(block_count), a.block_offset = side(blocks);
      a.column_count = side(column_count), a.column_index = side(columns);
      a.faults = side(faults);
      a.block_size_m = m, a.block_size_n = n, a.causal = causal;
      if constexpr (requires { a.slash_indices_count; })
        a.vertical_indices_count = side(v_counts), a.slash_indices_count = side(s_counts);
    };
    kvops_convert_vertical_slash_indexes_args a = {};
    kvops_convert_vertical_slash_indexes_mergehead_args each = {};
    if (counts) return fill(each), kvops_convert_vertical_slash_indexes_mergehead(&each);
    return fill(a), kvops_convert_vertical_slash_indexes(&a);
  }
  // Entries past the counts included.
  void check() {
    CHECK((block_count.down(stream) == block_count.h));
    CHECK((column_count.down(stream) == column_count.h));
    CHECK((blocks.down(stream) == blocks.h));
    CHECK((columns.down(stream) == columns.h));
    CHECK(faults.down(stream)[0] == faults.h[0]);
  }
};

}  // namespace

TEST_CASE("vertical-slash on a GPU: walks that row blocks share are the CPU's, however long") {
  std::mt19937 random(5);
  for (int64_t causal : {1, 0})
    for (auto [m, n] : {std::pair{4, 4}, {64, 64}, {5, 12}}) {
      // Several row blocks a warp on any device; 1400 to 2 ranges of a row block.
      Lists lists = {
          .heads = 4, .rows = 2200, .nv = 60, .ns = 2000, .m = m, .n = n, .causal = causal};
      lists.faults.up(lists.stream);
      for (int32_t gap : {1, m / 2}) {
        const auto queries = int32_t(lists.rows * m - m / 2);
        lists.change(random, gap, queries, causal ? queries + 77 : queries / 3);
        INFO("causal " << causal << ", M " << m << ", N " << n << ", gap " << gap);
        REQUIRE(lists.run(true, false) == KVOPS_OK);
        REQUIRE(lists.run(false, false) == KVOPS_OK);
        lists.check();
      }
    }
}

TEST_CASE("vertical-slash on a GPU: many verticals, few slashes, more row blocks than queries") {
  std::mt19937 random(6);
  for (int64_t causal : {1, 0}) {
    Lists lists = {
        .heads = 3, .rows = 4000, .nv = 3000, .ns = 9, .m = 16, .n = 16, .causal = causal};
    lists.faults.up(lists.stream);
    lists.change(random, 300, 50001, 60000);
    REQUIRE(lists.run(true, false) == KVOPS_OK);
    REQUIRE(lists.run(false, false) == KVOPS_OK);
    lists.check();
  }
}

TEST_CASE("vertical-slash on a GPU: gaps and offsets past what a thread block keeps") {
  std::mt19937 random(8);
  for (int64_t causal : {1, 0})
    for (auto [m, n] : {std::pair{16, 16}, {16, 40}, {64, 64}}) {
      // 9000 gaps; 1125, not all of them within reach; offsets that 31 bits do not hold.
      Lists lists = {
          .heads = 4, .rows = 600, .nv = 100, .ns = 9000, .m = m, .n = n, .causal = causal};
      lists.faults.up(lists.stream);
      lists.change(random, 1, int32_t(lists.rows * m), int32_t(100 * lists.rows * m));
      for (int64_t i = lists.ns, all = 0, some = 0; i-- > 0;) {
        lists.s.h[size_t(i)] = int32_t(all), all += 3 * m + i % 5;
        lists.s.h[size_t(lists.ns + i)] = int32_t(some), some += i % 8 ? m / 2 : 3 * m - i % 5;
      }
      lists.s.h[size_t(2 * lists.ns)] = INT32_MAX;
      lists.s.h[size_t(4 * lists.ns - 1)] = INT32_MIN;
      lists.s.up(lists.stream);
      INFO("causal " << causal << ", M " << m << ", N " << n);
      REQUIRE(lists.run(true, false) == KVOPS_OK);
      REQUIRE(lists.run(false, false) == KVOPS_OK);
      lists.check();
    }
}

TEST_CASE("vertical-slash on a GPU: graphs follow lists, lengths and counts, in order or not") {
  std::mt19937 random(7);
  for (bool counts : {false, true}) {
    Lists lists = {.heads = 4, .rows = 100, .nv = 200, .ns = 300, .m = 16, .n = 16, .causal = 1};
    lists.faults.up(lists.stream);
    Graph graph(lists.stream, [&] { REQUIRE(lists.run(true, counts) == KVOPS_OK); });
    for (int replay = 0; replay < 4; ++replay) {
      lists.change(random, 5, 1 + int32_t(random() % 1700), 1 + int32_t(random() % 3000));
      if (replay == 2) {
        std::shuffle(lists.s.h.begin(), lists.s.h.begin() + 300, random);
        std::shuffle(lists.v.h.begin() + 200, lists.v.h.begin() + 400, random);
        lists.s.up(lists.stream), lists.v.up(lists.stream);
      }
      graph.replay();
      REQUIRE(lists.run(false, counts) == KVOPS_OK);
      lists.check();
    }
  }
}
