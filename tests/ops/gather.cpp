// Gathers: who owns a row, where it is read from, and what happens where nothing can be.
#include "ops/gather.h"

#include <atomic>

using namespace tests;
using std::vector;

namespace {

vector<int32_t> random_table(size_t n, int32_t blocks, unsigned seed, bool bad = false) {
  std::mt19937 random(seed);
  vector<int32_t> table(n);
  const int32_t wrong[] = {-1, blocks, INT32_MAX, INT32_MIN};
  for (auto& b : table)
    b = bad && random() % 5 == 0 ? wrong[random() % 4] : int32_t(random() % unsigned(blocks));
  return table;
}

// Counts the pieces of work of a call.
std::atomic<int64_t> pieces;
void run_pieces(void*, int64_t n, void (*task)(void*, int64_t), void* argument) {
  pieces += n;
  for (int64_t i = n; i-- > 0;) task(argument, i);
}
int64_t pieces_of(const GatherOp& op, GatherCall& c) {
  pieces = 0;
  REQUIRE(kvops_set_parallel_for(run_pieces, nullptr) == KVOPS_OK);
  const auto status = op.run(c);
  kvops_set_parallel_for(nullptr, nullptr);
  REQUIRE(status == KVOPS_OK);
  return pieces;
}

}  // namespace

TEST_CASE("gather: a table of two pages for three: the third is left alone, or zero, and counted") {
  for (auto& op : kGathers)
    for (bool zero : {false, true}) {
      auto c = gather_call(op, {2, {3, 1}, {0, 12}, {}}, 4, 4, 12);
      c.zero = zero;
      check_gather(op, c);
      CHECK_OK(op.run(c));
      INFO(op.name);
      CHECK(c.faults == 1);
      for (auto i = size_t(8 * op.row); i < c.out.size(); ++i)
        REQUIRE(c.out[i] == (zero ? 0 : 0xA5));
    }
}

TEST_CASE("gather: block ids outside the cache, positions outside the table") {
  for (auto& op : kGathers)
    for (unsigned seed = 0; seed < 60; ++seed) {
      std::mt19937 random(seed);
      const auto batch = size_t(1 + seed % 5), width = size_t(seed % 4);
      Requests r = {int64_t(width), random_table(batch * width, 5, seed, true), {}, {}};
      int32_t row = int32_t(seed % 3);
      for (size_t b = 0; b <= batch; ++b) r.starts.push_back(row), row += int32_t(random() % 11);
      const int32_t some[] = {0, 1, 3, 7, -1, -5, 100, INT32_MAX, INT32_MIN};
      for (size_t b = 0; b < batch && seed % 2; ++b) r.seq_starts.push_back(some[random() % 9]);
      const int64_t rows = std::max<int64_t>(0, r.starts.back() + int64_t(random() % 5) - 2);
      auto c = gather_call(op, r, 5, 1 + int64_t(random() % 4), rows);
      c.zero = random() % 2;
      check_gather(op, c);
    }
}

TEST_CASE("gather: empty requests own nothing, wherever they are") {
  for (auto& op : kGathers)
    for (vector<int32_t> lengths : {vector<int32_t>{0, 0, 3, 0, 0, 0, 4, 0}, {5}, {0, 6}, {6, 0}}) {
      Requests r = {3, random_table(3 * lengths.size(), 6, 4), {0}, {}};
      for (auto n : lengths) r.starts.push_back(r.starts.back() + n);
      // Of a request that owns the rest, the length is what is left.
      check_gather(op, gather_call(op, r, 6, 3, r.starts.back() + (op.with_end ? 2 : 0)));
    }
}

TEST_CASE("gather: ends that decrease or lie past the rows") {
  for (auto& op : kGathers) {
    if (!op.with_end) continue;
    const auto table = random_table(8, 6, 5);
    check_gather(op, gather_call(op, {4, table, {0, 5, 3}, {}}, 6, 3, 9));
    check_gather(op, gather_call(op, {4, table, {0, 5, -3}, {}}, 6, 3, 9));
    check_gather(op, gather_call(op, {4, table, {0, 5, 50}, {}}, 6, 3, 9));
    check_gather(op, gather_call(op, {4, table, {20, 30, 40}, {}}, 6, 3, 9));
    check_gather(op, gather_call(op, {4, table, {-2, 4, 7}, {}}, 6, 3, 9));
    check_gather(op, gather_call(op, {4, table, {INT32_MIN, INT32_MIN, INT32_MAX}, {}}, 6, 3, 9));
  }
}

TEST_CASE("gather: rows before the first workspace start are nobody's") {
  for (auto& op : kGathers) {
    if (op.with_end) continue;
    auto c = gather_call(op, {4, random_table(8, 6, 5), {3, 7, 9}, {}}, 6, 3, 9);
    check_gather(op, c);
    CHECK_OK(op.run(c));
    for (size_t i = 0; i < size_t(3 * op.row); ++i) REQUIRE(c.out[i] == 0xA5);
  }
}

TEST_CASE("gather: a request cut into chunks at any position is the whole request") {
  for (auto& op : kGathers) {
    const vector<int32_t> table = random_table(3 * 8, 9, 3);
    auto whole = gather_call(op, {8, table, {0, 12, 23, 32}, {}}, 9, 4, 32);
    CHECK_OK(op.run(whole));
    // Lengths and starts within each; the second one also begins at its own length and is empty.
    const vector<int32_t> lengths[] = {{6, 5, 3}, {0, 5, 3}}, starts[] = {{3, 4, 5}, {12, 4, 5}};
    for (int i : {0, 1}) {
      auto& n = lengths[i];
      Requests r = {8, table, {0, n[0], n[0] + n[1], n[0] + n[1] + n[2]}, starts[i]};
      auto c = gather_call(op, r, 9, 4, r.starts.back());
      CHECK_OK(op.run(c));
      for (size_t b = 0, t = 0; b < 3; ++b)
        for (int32_t k = 0; k < n[b]; ++k, ++t) {
          const auto from = size_t(whole.requests.starts[b] + starts[i][b] + k);
          REQUIRE(!std::memcmp(&c.out[t * size_t(op.row)], &whole.out[from * size_t(op.row)],
                               size_t(op.row)));
        }
    }
  }
}

TEST_CASE("gather: a bad page is counted once, however the work is cut") {
  for (auto& op : kGathers) {
    // 40 pages of 64 rows, every third of them bad, and a start in the middle of one.
    Requests r = {40, random_table(40, 6, 8), {0, 2400}, {50}};
    for (size_t i = 0; i < 40; i += 3) r.table[i] = i % 2 ? -1 : 6;
    auto c = gather_call(op, r, 6, 64, 2400);
    const auto [out, faults] = expected_rows(op, c);
    for (int64_t threads : {1, 2, 3, 0}) {
      INFO(op.name << ", " << threads << " threads");
      auto d = c;
      REQUIRE(kvops_set_num_threads(threads) == KVOPS_OK);
      CHECK_OK(op.run(d));
      CHECK((d.out == out));
      CHECK(d.faults == faults);
      CHECK(d.faults == 13);
    }
    auto d = c;
    const auto n = pieces_of(op, d);
    CHECK((d.out == out));
    CHECK(d.faults == 13);
    if (op.row > 1000) CHECK(n > 20);
  }
}

TEST_CASE("gather: one long request is work for all threads, spare rows are none") {
  for (auto& op : kGathers) {
    if (!op.with_end) continue;
    Requests r = {400, random_table(400, 6, 8), {0, 25600}, {}};
    auto exact = gather_call(op, r, 6, 64, 25600), spare = gather_call(op, r, 6, 64, 80000);
    const auto n = pieces_of(op, exact);
    INFO(op.name);
    CHECK(n >= 8);
    CHECK(pieces_of(op, spare) == n);
    CHECK(!std::memcmp(exact.out.data(), spare.out.data(), exact.out.size()));
    for (auto i = exact.out.size(); i < spare.out.size(); ++i) REQUIRE(spare.out[i] == 0xA5);
  }
}

TEST_CASE("gather: a hundred thousand requests") {
  for (auto& op : kGathers) {
    std::mt19937 random(6);
    Requests r = {1, random_table(100000, 6, 8, true), {0}, {}};
    for (size_t b = 0; b < 100000; ++b)
      r.starts.push_back(r.starts.back() + (random() % 16 ? 0 : 1));
    check_gather(op, gather_call(op, r, 6, 2, r.starts.back()));
  }
}

TEST_CASE("gather: debug=bounds names the first page that rows need and is none") {
  for (auto& op : kGathers) {
    INFO(op.name);
    REQUIRE(kvops_set_option("debug", "bounds") == KVOPS_OK);
    // Entries that no row needs may hold anything.
    auto c = gather_call(op, {3, {0, 1, 99, -7, 2, 1}, {0, 5, 9}, {0, 4}}, 4, 3, 9);
    c.out = Bytes(c.out.size(), 0xA5);
    CHECK(op.run(c) == KVOPS_OK);
    auto bad = c;
    bad.requests.table[4] = 4;
    bad.out = Bytes(c.out.size(), 0xA5);
    CHECK(op.run(bad) == KVOPS_INVALID_ARGUMENT);
    CHECK(std::strstr(kvops_last_error(), "block_table: element 4 is 4, expected less than 4"));
    bad = c;
    bad.requests.seq_starts = {0, 6};
    bad.out = Bytes(c.out.size(), 0xA5);
    CHECK(op.run(bad) == KVOPS_INVALID_ARGUMENT);
    CHECK(std::strstr(kvops_last_error(), "request 1 needs position 9, expected 0 to 8"));
    CHECK(bad.faults == 0);
    for (auto byte : bad.out) REQUIRE(byte == 0xA5);
    kvops_set_option("debug", "");
  }
}

TEST_CASE("gather: no request, no row, no page, no block") {
  for (auto& op : kGathers) {
    INFO(op.name);
    check_gather(op, gather_call(op, {3, {}, {0}, {}}, 4, 3, 5));
    check_gather(op, gather_call(op, {3, {1, 2, 0}, {0, 0}, {}}, 4, 3, 0));
    auto c = gather_call(op, {0, {}, {0, 4}, {}}, 4, 3, 4);
    c.zero = true;
    CHECK_OK(op.run(c));
    CHECK(c.faults == 2);
    for (auto byte : c.out) REQUIRE(byte == 0);
    for (auto [blocks, block, faults] : {std::tuple{0, 3, 2}, {4, 0, 4}}) {
      auto d = gather_call(op, {3, {1, 2, 0}, {0, 4}, {}}, blocks, block, 4);
      CHECK_OK(op.run(d));
      CHECK(d.faults == faults);
      for (auto byte : d.out) REQUIRE(byte == 0xA5);
    }
  }
}
