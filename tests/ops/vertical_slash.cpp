// convert_vertical_slash_indexes and _mergehead against the steps of the specification, taken one
// by one, and the properties that make the result usable: in order, disjoint, complete.
#include <algorithm>
#include <functional>
#include <set>

#include "ops/tensors.h"

namespace {

using std::vector;
using tests::tensor;

using Random = std::mt19937;
using List = vector<int32_t>;

struct Found {
  List blocks, columns;
};

// The list walk of the specification, for verticals inside [0, lk) and lists that are not empty.
Found reference(const List& V, const List& S, int64_t q, int64_t lq, int64_t lk, int64_t m,
                int64_t n, bool causal) {
  Found out;
  const int64_t E = q + m + (causal ? lk - lq : lk), nv = int64_t(V.size()), ns = int64_t(S.size());
  auto emit = [&](int64_t lo, int64_t hi) {
    if (lo >= lk || lo < 0) return;
    for (int64_t x = lo; x < std::min(hi, lk); x += n) out.blocks.push_back(int32_t(x));
  };
  int64_t v = V[0], iv = 1, s = S[0], is = 1, lo, hi;
  while (s >= E && is < ns) s = S[size_t(is++)];
  if (s > E)
    lo = causal ? E : lk, hi = lo + n;
  else
    hi = std::max(E - s, m), lo = hi - m;
  for (bool tail = false;;) {
    if (v < hi) {
      if (v < lo) out.columns.push_back(int32_t(v));
      v = iv < nv ? V[size_t(iv++)] : INT64_MAX;
    } else if (is < ns && (causal || S[size_t(is)] >= q)) {
      const int64_t e = std::max(E - S[size_t(is++)], m);
      if (tail) continue;
      if (e > hi + m) {
        emit(lo, hi);
        lo = e - m, hi = e;
      } else if (e > hi) {
        hi += m;
      }
    } else if (causal || iv == nv) {
      if (!causal && v < lk) out.columns.push_back(int32_t(v));
      emit(lo, hi);
      return out;
    } else {
      emit(lo, hi);
      lo = lk, hi = lk + n, tail = true;
    }
  }
}

// One call. Index entries past the counts must keep what is in them: -7.
struct Lists {
  int64_t batch, heads, rows, nv, ns, m, n;
  bool causal;
  List q, kv, v, s, blocks, columns, block_count, column_count;
  List v_counts, s_counts;  // empty: the operator without them
  vector<int64_t> faults = {3};

  Lists(int64_t b, int64_t h, int64_t r, int64_t nv, int64_t ns, int64_t m, int64_t n, bool causal)
      : batch(b), heads(h), rows(r), nv(nv), ns(ns), m(m), n(n), causal(causal) {
    q.resize(size_t(b)), kv.resize(size_t(b));
    v.resize(size_t(b * h * nv)), s.resize(size_t(b * h * ns));
  }

  void randomize(Random& random, int64_t most, bool sorted) {
    auto draw = [&](int64_t n) { return int32_t(random() % uint64_t(n)); };
    for (int64_t b = 0; b < batch; ++b) {
      q[size_t(b)] = 1 + draw(rows * m + m), kv[size_t(b)] = q[size_t(b)] + draw(most);
      if (!causal && draw(2)) kv[size_t(b)] = 1 + draw(most);
    }
    for (auto& x : v) x = draw(most);
    for (auto& x : s) x = draw(2 * most);
    if (!sorted) return;
    for (int64_t i = 0; i < batch * heads; ++i) {
      std::sort(v.begin() + i * nv, v.begin() + (i + 1) * nv);
      std::sort(s.begin() + i * ns, s.begin() + (i + 1) * ns, std::greater<>());
      if (ns) s[size_t((i + 1) * ns - 1)] = 0;
    }
  }

  template <class Args>
  void set(Args& a) {
    a.q_seq_lens = tensor(q, KVOPS_I32, {batch}), a.kv_seq_lens = tensor(kv, KVOPS_I32, {batch});
    a.vertical_indexes = tensor(v, KVOPS_I32, {batch, heads, nv});
    a.slash_indexes = tensor(s, KVOPS_I32, {batch, heads, ns});
    a.block_count = tensor(block_count, KVOPS_I32, {batch, heads, rows});
    a.column_count = tensor(column_count, KVOPS_I32, {batch, heads, rows});
    a.block_offset = tensor(blocks, KVOPS_I32, {batch, heads, rows, ns});
    a.column_index = tensor(columns, KVOPS_I32, {batch, heads, rows, nv});
    a.faults = tensor(faults, KVOPS_I64, {1});
    a.block_size_m = m, a.block_size_n = n, a.causal = causal;
  }
  kvops_status call() {
    const auto count = size_t(batch * heads * rows);
    blocks.assign(count * size_t(ns) + 1, -7), columns.assign(count * size_t(nv) + 1, -7);
    block_count.assign(count + 1, -7), column_count.assign(count + 1, -7);
    faults[0] = 3;
    if (v_counts.empty()) {
      auto a = tests::make<kvops_convert_vertical_slash_indexes_args>();
      set(a);
      return kvops_convert_vertical_slash_indexes(&a);
    }
    auto a = tests::make<kvops_convert_vertical_slash_indexes_mergehead_args>();
    set(a);
    a.vertical_indices_count = tensor(v_counts, KVOPS_I32, {heads});
    a.slash_indices_count = tensor(s_counts, KVOPS_I32, {heads});
    return kvops_convert_vertical_slash_indexes_mergehead(&a);
  }
  void run() { CHECK_OK(call()); }
  bool untouched() const {
    auto is = [](const List& list) {
      return std::all_of(list.begin(), list.end(), [](int32_t x) { return x == -7; });
    };
    return is(blocks) && is(columns) && is(block_count) && is(column_count) && faults[0] == 3;
  }

  List vertical(int64_t i) const { return {v.begin() + i * nv, v.begin() + (i + 1) * nv}; }
  List slash(int64_t i) const { return {s.begin() + i * ns, s.begin() + (i + 1) * ns}; }
  // What was found for row block r of list i; nothing may be behind it.
  Found found(int64_t i, int64_t r) const {
    const auto at = size_t(i * rows + r);
    auto part = [](const List& all, size_t begin, int64_t width, int32_t count, bool& rest) {
      List list(all.begin() + std::ptrdiff_t(begin), all.begin() + std::ptrdiff_t(begin) + width);
      rest = rest && count >= 0 && count <= width &&
             std::all_of(list.begin() + count, list.end(), [](int32_t x) { return x == -7; });
      list.resize(rest ? size_t(count) : 0);
      return list;
    };
    bool rest = true;
    Found f = {part(blocks, at * size_t(ns), ns, block_count[at], rest),
               part(columns, at * size_t(nv), nv, column_count[at], rest)};
    CHECK(rest);
    return f;
  }
  bool agrees() const {
    for (int64_t i = 0; i < batch * heads; ++i)
      for (int64_t r = 0; r < rows; ++r) {
        const auto got = found(i, r);
        const int64_t lq = q[size_t(i / heads)], lk = kv[size_t(i / heads)];
        Found want;
        List valid;
        for (auto x : vertical(i))
          if (x >= 0 && x < lk) valid.push_back(x);
        if (valid.empty()) valid.push_back(INT32_MAX);  // none, for the steps as they are written
        if (r * m < lq) want = reference(valid, slash(i), r * m, lq, lk, m, n, causal);
        if (got.blocks != want.blocks || got.columns != want.columns) return false;
      }
    return true;
  }
};

}  // namespace

TEST_CASE("vertical-slash: what the steps of the specification give, in order and out of it") {
  tests::on_every_isa([] {
    Random random(21);
    for (int i = 0; i < 300; ++i) {
      const bool causal = random() % 2, sorted = random() % 4;
      const int64_t sizes[][2] = {{64, 64}, {64, 64}, {16, 64}, {4, 4}, {1, 3}};
      auto [m, n] = sizes[random() % 5];
      Lists l(2, 2, int64_t(1 + random() % 7), int64_t(1 + random() % 60),
              int64_t(1 + random() % 90), m, n, causal);
      l.randomize(random, l.rows * m + 1 + int64_t(random() % 2000), sorted);
      CAPTURE(i, l.rows, l.nv, l.ns, m, n, causal, sorted);
      l.run();
      CHECK(l.agrees());
    }
  });
}

TEST_CASE("vertical-slash: causal ranges and columns are in order, disjoint and cover all") {
  Random random(22);
  for (int i = 0; i < 60; ++i) {
    Lists l(1, 2, 4, int64_t(1 + random() % 40), int64_t(1 + random() % 40), 16, 16, true);
    l.randomize(random, 400, true);
    for (size_t j = 0; j < l.v.size(); ++j)  // none twice
      l.v[j] = int32_t(10 * (j % size_t(l.nv)) + random() % 10);
    l.run();
    const int64_t lq = l.q[0], lk = l.kv[0];
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t r = 0; r < l.rows && r * l.m < lq; ++r) {
        const auto f = l.found(h, r);
        std::set<int64_t> keys;
        bool apart = std::is_sorted(f.blocks.begin(), f.blocks.end()) &&
                     std::is_sorted(f.columns.begin(), f.columns.end());
        for (int64_t x : f.blocks)
          for (int64_t y = x; y < std::min(x + l.n, lk); ++y)
            apart = keys.insert(y).second && apart;
        for (int64_t x : f.columns) apart = (x < lk) && !keys.count(x) && apart, keys.insert(x);
        CHECK(apart);
        bool covered = true;
        const int64_t last = std::min(lq, (r + 1) * l.m) - 1;
        for (int64_t x : l.vertical(h))
          if (x <= last + lk - lq) covered = covered && keys.count(x);
        for (int64_t query = r * l.m; query <= last; ++query)
          for (int64_t o : l.slash(h))
            if (query + lk - lq - o >= 0) covered = covered && keys.count(query + lk - lq - o);
        CHECK(covered);
      }
  }
}

TEST_CASE(
    "vertical-slash: verticals that are no keys are skipped; those past the end are counted") {
  for (bool causal : {false, true})
    for (bool sorted : {true, false}) {
      Lists l(2, 1, 3, 6, 2, 8, 8, causal);
      l.q = {20, -1}, l.kv = {30, 30};
      l.v = {-9, -1, 3, 29, 30, 2000, -9, 1, 2, 30, 31, INT32_MAX};
      if (!sorted) std::swap(l.v[0], l.v[5]), std::swap(l.v[7], l.v[10]);
      l.s = {4, 0, 4, 0};
      l.run();
      CHECK(l.agrees());
      CHECK(l.faults[0] ==
            3 + 2);  // the second sequence has no queries, and its lists are not read
    }
}

TEST_CASE("vertical-slash: ends for any lengths and any numbers, inside the lists") {
  tests::on_every_isa([] {
    Random random(23);
    const int32_t odd[] = {0, 1, -1, 63, 64, 65, 1000, -1000, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 2000; ++i) {
      Lists l(1, 1, 3, int64_t(random() % 6), int64_t(random() % 6), 64, 64, i % 2);
      auto any = [&] { return random() % 3 ? odd[random() % 10] : int32_t(random() % 300); };
      for (auto* list : {&l.q, &l.kv, &l.v, &l.s})
        for (auto& x : *list) x = any();
      if (random() % 2) std::sort(l.v.begin(), l.v.end());
      if (random() % 2) std::sort(l.s.begin(), l.s.end(), std::greater<>());
      l.run();
      for (int64_t r = 0; r < 3; ++r) {
        const auto f = l.found(0, r);
        for (auto* list : {&f.blocks, &f.columns})
          CHECK(std::all_of(list->begin(), list->end(),
                            [&](int32_t x) { return x >= 0 && x < l.kv[0]; }));
      }
    }
  });
}

TEST_CASE("vertical-slash: empty lists, no rows, rows past the queries") {
  for (bool causal : {false, true}) {
    Lists none(1, 2, 2, 0, 0, 4, 4, causal);
    none.q = {8}, none.kv = {9};
    none.run();
    CHECK(none.block_count == List{0, 0, 0, 0, -7});
    CHECK(none.column_count == List{0, 0, 0, 0, -7});
    Lists columns(1, 1, 2, 3, 0, 4, 4, causal);
    columns.q = {5}, columns.kv = {9}, columns.v = {0, 7, 8};
    columns.run();
    CHECK(columns.block_count == List{0, 0, -7});
    CHECK(columns.column_count == (causal ? List{2, 3, -7} : List{3, 3, -7}));
    Lists rest(1, 1, 5, 1, 1, 4, 4, causal);  // fewer and more row blocks than queries
    rest.q = {9}, rest.kv = {9}, rest.v = {0}, rest.s = {0};
    rest.run();
    CHECK(rest.block_count[3] == 0);
    CHECK(rest.block_count[4] == 0);
    CHECK(rest.block_count[5] == -7);
    CHECK(rest.agrees());
    rest.q = {900};
    rest.run();
    CHECK(rest.block_count[5] == -7);
  }
}

TEST_CASE("vertical-slash: counts per head are clamped, and all of them is the plain operator") {
  Random random(24);
  for (bool causal : {false, true}) {
    Lists l(2, 6, 4, 20, 30, 16, 16, causal);
    l.randomize(random, 300, true);
    l.run();
    const Lists plain = l;
    l.v_counts = List(6, 20), l.s_counts = List(6, 30);
    l.run();
    CHECK((l.blocks == plain.blocks && l.columns == plain.columns));
    CHECK((l.block_count == plain.block_count && l.column_count == plain.column_count));
    l.v_counts = {0, 99, 7, -1, 20, 1}, l.s_counts = {30, 5, 99, 0, -8, 1};
    l.run();
    for (int64_t i = 0; i < 12; ++i) {
      const auto h = size_t(i % 6);
      const int64_t nv = std::clamp(l.v_counts[h], 0, 20), ns = std::clamp(l.s_counts[h], 0, 30);
      Lists one(1, 1, 4, nv, ns, 16, 16, causal);
      one.q = {l.q[size_t(i / 6)]}, one.kv = {l.kv[size_t(i / 6)]};
      one.v = l.vertical(i), one.s = l.slash(i);
      one.v.resize(size_t(nv)), one.s.resize(size_t(ns));
      one.run();
      for (int64_t r = 0; r < 4; ++r) {
        CHECK(l.found(i, r).blocks == one.found(0, r).blocks);
        CHECK(l.found(i, r).columns == one.found(0, r).columns);
      }
    }
  }
}

TEST_CASE("vertical-slash: debug=bounds names the first entry out of order or past the keys") {
  struct Checked {
    Checked() { kvops_set_option("debug", "bounds"); }
    ~Checked() { kvops_set_option("debug", ""); }
  } checked;
  auto refused = [](Lists& l, const char* message) {
    CHECK(l.call() == KVOPS_INVALID_ARGUMENT);
    CHECK(std::string(kvops_last_error()).ends_with(message));
    CHECK(l.untouched());
  };
  for (const bool counted : {false, true}) {
    CAPTURE(counted);
    Lists good(3, 2, 2, 4, 3, 8, 8, true);
    good.q = {16, 0, 9}, good.kv = {16, 0, 30};
    good.v = {-3, 0, 0, 15, 1, 2, 3, 4, 9, 8, 99, 6, 9, 8, 7, 6, 2, 4, 8, 29, 0, 0, 0, 0};
    good.s = {9, 9, -4, 3, 2, 1, 1, 2, 3, 1, 2, 3, 40, 4, 0, 2, 1, 0};
    if (counted) good.v_counts = {99, 4}, good.s_counts = {3, 3};
    good.run();  // the second request has no queries, and its lists are not read
    Lists bad = good;
    bad.v[17] = 1;
    refused(bad, "vertical_indexes: element 17 is 1, expected at least 2 (lists are ascending)");
    bad = good, bad.v[3] = 16;
    refused(bad, "vertical_indexes: element 3 is 16, expected less than 16");
    bad = good, bad.v[16] = 30, bad.v[0] = 1, bad.s[0] = 0;
    refused(bad, "vertical_indexes: element 1 is 0, expected at least 1 (lists are ascending)");
    bad = good, bad.s[14] = 5;
    refused(bad, "slash_indexes: element 14 is 5, expected at most 4 (lists are descending)");
    if (!counted) continue;
    bad = good, bad.v[18] = 1, bad.v[19] = 500, bad.s[14] = 99;  // behind the counts
    bad.v_counts = {2, 4}, bad.s_counts = {2, -1};
    bad.run();
    bad.v_counts[0] = 3;
    refused(bad, "vertical_indexes: element 18 is 1, expected at least 4 (lists are ascending)");
  }
}
