// The plan of cpu_attention_with_kv_cache: its units cover every pair of a query and a key exactly
// once, whatever the batch; it may be copied anywhere; a damaged, foreign or stale one is refused.
#include "cpu/attn_plan.h"

#include <map>
#include <memory>
#include <string>

#include "core/backend.h"
#include "ops/tensors.h"

using namespace tests;
using kvops::cpu::AttnLengths;
using kvops::cpu::AttnShape;
using kvops::cpu::Plan;
using kvops::cpu::PlanUnit;
using std::vector;

namespace {

constexpr auto* kOp = "cpu_attention_with_kv_cache";

struct Batch {
  int64_t heads = 8, kv_heads = 2, size = 64, left = -1, right = -1, causal = 1, split = 1;
  vector<int32_t> starts = {0}, lengths, dynamic;

  Batch& add(int32_t queries, int32_t length) {
    starts.push_back(starts.back() + queries), lengths.push_back(length);
    return *this;
  }
  int64_t reqs() const { return int64_t(lengths.size()); }
  AttnShape shape() const {
    return {reqs(), heads, kv_heads, size, KVOPS_BF16, causal, left, right};
  }
  AttnLengths values() const {
    return {starts.data(), lengths.data(), dynamic.empty() ? nullptr : dynamic.data()};
  }
  kvops_cpu_attn_get_scheduler_metadata_args args() const {
    auto a = make<kvops_cpu_attn_get_scheduler_metadata_args>();
    a.seq_lens = tensor(lengths, KVOPS_I32, {reqs()});
    a.query_start_loc = tensor(starts, KVOPS_I32, {int64_t(starts.size())});
    if (!dynamic.empty()) a.dynamic_causal = tensor(dynamic, KVOPS_I32, {reqs()});
    a.num_heads = heads, a.num_kv_heads = kv_heads, a.head_size = size;
    a.query_dtype = KVOPS_BF16, a.isa = KVOPS_CPU_ISA_VEC, a.causal = causal;
    a.window_left = left, a.window_right = right, a.enable_kv_split = split;
    return a;
  }
};

struct alignas(64) Line {
  char bytes[64];
};
struct Bytes {
  vector<Line> lines;
  int64_t size = 0;
  char* data() { return lines.empty() ? nullptr : lines[0].bytes; }
  kvops_tensor tensor() { return tests::tensor(data(), KVOPS_U8, {size}); }
};

Bytes plan_of(const Batch& b) {
  auto a = b.args();
  Bytes bytes;
  CHECK_OK(kvops_cpu_attn_get_scheduler_metadata_size(&a, &bytes.size));
  bytes.lines.resize(size_t(bytes.size + 63) / 64);
  a.scheduler_metadata = bytes.tensor();
  CHECK_OK(kvops_cpu_attn_get_scheduler_metadata(&a));
  return bytes;
}

kvops_status read(const Batch& b, Bytes& bytes, Plan& plan) {
  return plan.read(kOp, b.shape(), b.values(), bytes.tensor());
}

// seen[row * heads + head][key]: how often a unit reads it.
void check_pairs(const Batch& b, const vector<vector<int>>& seen) {
  for (int64_t r = 0; r < b.reqs(); ++r)
    for (int32_t q = b.starts[size_t(r)]; q < b.starts[size_t(r) + 1]; ++q) {
      const int64_t length = b.lengths[size_t(r)], p = length - b.starts[size_t(r) + 1] + q;
      const bool causal = b.dynamic.empty() ? b.causal : b.dynamic[size_t(r)];
      const int64_t right = causal ? 0 : b.right;
      vector<int> want(static_cast<size_t>(length));
      for (int64_t k = 0; k < length; ++k)
        want[size_t(k)] = (b.left < 0 || k >= p - b.left) && (right < 0 || k <= p + right);
      for (int64_t j = 0; j < b.heads; ++j) REQUIRE((seen[size_t(q * b.heads + j)] == want));
    }
}

// Pairs (head, query row, key) that the units read, against those that exist; and that the partial
// rows of cut units are taken once each, in the order in which the joins add them.
void check_cover(const Batch& b) {
  auto bytes = plan_of(b);
  Plan plan;
  REQUIRE(read(b, bytes, plan) == KVOPS_OK);
  const auto& h = plan.header();
  vector<vector<int>> seen(size_t(b.starts.back() * b.heads));
  vector<int> finished(seen.size()), parts(size_t(h.parts));
  auto row = [&](const PlanUnit& u, int64_t i, int64_t j) {
    return size_t((u.query + i) * b.heads + u.head + j);
  };
  for (int64_t i = 0; i < h.units; ++i) {
    const auto u = plan.unit(i);
    REQUIRE((u.head / (b.heads / b.kv_heads) == u.kv_head && u.heads > 0 && u.queries > 0));
    REQUIRE(u.heads * u.queries <= kvops::cpu::most_rows(b.size));
    REQUIRE((u.keys.count() >= 0 && u.keys.first >= 0 && u.keys.end <= u.length));
    for (int64_t q = 0; q < u.queries; ++q)
      for (int64_t j = 0; j < u.heads; ++j) {
        auto& keys = seen[row(u, q, j)];
        keys.resize(size_t(u.length));
        const auto mine = u.keys_of(q);
        for (int64_t k = std::max(mine.first, u.keys.first); k < std::min(mine.end, u.keys.end);
             ++k)
          ++keys[size_t(k)];
        if (u.part < 0) ++finished[row(u, q, j)];
        if (u.part >= 0) ++parts[size_t(u.part_row(q, j))];
      }
    if (u.part >= 0) REQUIRE(u.keys.first / u.range == (u.keys.end - 1) / u.range);
  }
  for (int64_t i = 0; i < h.joins; ++i) {
    const auto u = plan.join(i);
    for (int64_t q = 0; q < u.queries; ++q)
      for (int64_t j = 0; j < u.heads; ++j) {
        ++finished[row(u, q, j)];
        for (int64_t r = 0; r < u.ranges; ++r) parts[size_t(u.part_row(q, j, r))] += 2;
      }
  }
  CHECK((parts == vector<int>(parts.size(), 3)));
  CHECK((finished == vector<int>(finished.size(), 1)));
  const int64_t keys = *std::max_element(b.lengths.begin(), b.lengths.end());
  CHECK(h.parts <= kvops::cpu::most_part_rows(b.starts.back() * b.heads, keys));
  check_pairs(b, seen);
}

}  // namespace

TEST_CASE("attn plan: units cover every visible pair of query and key once") {
  std::mt19937 random(7);
  auto up_to = [&](int n) { return int32_t(random() % unsigned(n + 1)); };
  for (int i = 0; i < 120; ++i) {
    Batch b;
    const int64_t groups[] = {1, 2, 3, 4, 16, 71, 130};
    b.kv_heads = 1 + up_to(2), b.heads = b.kv_heads * groups[up_to(6)];
    b.causal = up_to(1), b.split = up_to(1);
    if (up_to(1)) b.left = up_to(700);
    if (up_to(1)) b.right = up_to(40);
    const int reqs = 1 + up_to(5);
    for (int r = 0; r < reqs; ++r) {
      const int32_t queries = up_to(2) ? up_to(3) : up_to(150);
      b.add(queries, up_to(9) ? queries + up_to(up_to(1) ? 30 : 2500) : 0);
    }
    if (up_to(2) == 0)
      for (int r = 0; r < reqs; ++r) b.dynamic.push_back(up_to(1) * -5);
    INFO(i);
    check_cover(b);
  }
}

TEST_CASE("attn plan: one long request is cut at its ranges, for any group") {
  for (int64_t group : {1, 4, 16, 71}) {
    Batch b;
    b.heads = group, b.kv_heads = 1;
    b.add(1, 20000);
    auto bytes = plan_of(b);
    Plan plan;
    REQUIRE(read(b, bytes, plan) == KVOPS_OK);
    CHECK(plan.header().units == plan.join(0).ranges * b.shape().units_per_group());
    CHECK(plan.join(0).ranges == 27);  // of 768 keys
    b.split = 0;
    bytes = plan_of(b);
    REQUIRE(read(b, bytes, plan) == KVOPS_OK);
    CHECK((plan.header().units == b.shape().units_per_group() && !plan.header().joins));
  }
}

TEST_CASE("attn plan: where partial results end depends on a request's own lengths only") {
  Batch alone, many;
  alone.add(1, 3000), many.add(1, 3000);
  for (int i = 0; i < 300; ++i) many.add(i % 7 ? 1 : 40, 2000 + i);
  auto a = plan_of(alone), m = plan_of(many);
  Plan one, all;
  REQUIRE((read(alone, a, one) == KVOPS_OK && read(many, m, all) == KVOPS_OK));
  CHECK(one.unit(0).part >= 0);
  int units = 0;
  for (int64_t i = 0; i < all.header().units; ++i) {
    const auto u = all.unit(i);
    if (u.request) continue;
    CHECK((u.part < 0 && u.range == one.unit(0).range));
    CHECK((u.keys.first == 0 && u.keys.end == 3000));
    ++units;
  }
  CHECK(units == many.kv_heads);
}

TEST_CASE("attn plan: large units come first") {
  Batch b;
  b.add(1, 40).add(300, 300).add(1, 4000).add(2000, 2000);
  b.split = 0;
  auto bytes = plan_of(b);
  Plan plan;
  REQUIRE(read(b, bytes, plan) == KVOPS_OK);
  vector<int64_t> order;
  for (int64_t i = 0; i < plan.header().units; ++i)
    if (order.empty() || order.back() != plan.unit(i).request)
      order.push_back(plan.unit(i).request);
  CHECK((order == vector<int64_t>{3, 1, 2, 0}));
}

TEST_CASE("attn plan: no requests, no queries and no keys give valid plans") {
  Batch none, idle, keyless;
  idle.add(0, 0).add(0, 77);
  keyless.add(3, 0);
  for (auto* b : {&none, &idle, &keyless}) {
    auto bytes = plan_of(*b);
    Plan plan;
    CHECK(read(*b, bytes, plan) == KVOPS_OK);
    CHECK(plan.header().units == (b == &keyless ? b->kv_heads : 0));
  }
}

TEST_CASE("attn plan: bad lengths are refused by name and element") {
  struct Bad {
    vector<int32_t> starts, lengths;
    const char* message;
  };
  const Bad list[] = {
      {{1, 2}, {5}, "query_start_loc: element 0 is 1, expected 0"},
      {{0, 4, 3}, {9, 9}, "query_start_loc: element 2 is 3, expected at least 4"},
      {{0, -1}, {5}, "query_start_loc: element 1 is -1, expected at least 0"},
      {{0, 1, 2}, {5, -5}, "seq_lens: element 1 is -5, expected at least 0"},
      {{0, INT32_MAX}, {5}, "seq_lens: element 0 is 5, expected 0 or at least 2147483647"},
      {{0, INT32_MIN}, {INT32_MIN}, "query_start_loc: element 1 is -2147483648"},
  };
  for (auto& bad : list) {
    Batch b;
    b.starts = bad.starts, b.lengths = bad.lengths;
    auto a = b.args();
    vector<Line> room(64);
    a.scheduler_metadata = tensor(room.data(), KVOPS_I8, {4096});
    CHECK(kvops_cpu_attn_get_scheduler_metadata(&a) == KVOPS_INVALID_ARGUMENT);
    CHECK(std::string(kvops_last_error()).find(bad.message) != std::string::npos);
  }
}

TEST_CASE("attn plan: its size depends on the number of requests only") {
  Batch b;
  b.add(1, 1);
  auto a = b.args();
  int64_t few, more;
  CHECK_OK(kvops_cpu_attn_get_scheduler_metadata_size(&a, &few));
  a.num_heads = 128, a.head_size = 576, a.enable_kv_split = 0, a.seq_lens.data = nullptr;
  CHECK_OK(kvops_cpu_attn_get_scheduler_metadata_size(&a, &more));
  CHECK(few == more);
  a.seq_lens.shape[0] = 1000, a.query_start_loc.shape[0] = 1001;
  CHECK_OK(kvops_cpu_attn_get_scheduler_metadata_size(&a, &more));
  CHECK(more == few + 999 * 64);
}

TEST_CASE("attn plan: the same bytes with any number of threads") {
  Batch b;
  b.add(1, 30000).add(7, 9).add(200, 400);
  auto first = plan_of(b);
  for (int threads : {1, 2, 64}) {
    REQUIRE(!kvops_set_num_threads(threads));
    auto bytes = plan_of(b);
    CHECK(std::memcmp(first.data(), bytes.data(), size_t(bytes.size)) == 0);
  }
  kvops_set_num_threads(0);
}

TEST_CASE("attn plan: counts have 64 bits") {
  Batch b;
  b.heads = b.kv_heads = 65536;
  b.add(1 << 30, 1 << 30).add((1 << 30) - 1, INT32_MAX);
  auto bytes = plan_of(b);
  Plan plan;
  REQUIRE(read(b, bytes, plan) == KVOPS_OK);
  const int64_t tiles = 2 * ((int64_t{1} << 30) / plan.unit(0).queries);
  CHECK(plan.header().units == tiles * 65536);
  const auto last = plan.unit(plan.header().units - 1);
  CHECK((last.kv_head == 65535 && last.query >= 0 && last.queries > 0));
}

TEST_CASE("attn plan: a copy at any address is the plan") {
  Batch b;
  b.add(1, 5000).add(50, 90).add(4, 1000);
  auto bytes = plan_of(b), again = plan_of(b);
  CHECK(std::memcmp(bytes.data(), again.data(), size_t(bytes.size)) == 0);
  Plan here, there;
  vector<char> copy(size_t(bytes.size) + 3);
  std::memcpy(copy.data() + 3, bytes.data(), size_t(bytes.size));
  auto moved = tensor(copy.data() + 3, KVOPS_I8, {bytes.size});
  REQUIRE(read(b, bytes, here) == KVOPS_OK);
  REQUIRE(there.read(kOp, b.shape(), b.values(), moved) == KVOPS_OK);
  for (int64_t i = 0; i < here.header().units; ++i) {
    const auto x = here.unit(i), y = there.unit(i);
    CHECK(std::memcmp(&x, &y, sizeof x) == 0);
  }
}

TEST_CASE("attn plan: damaged, foreign and stale plans are refused") {
  Batch b;
  b.add(1, 5000).add(50, 90);
  auto bytes = plan_of(b);
  Plan plan;
  for (int64_t i = 0; i < bytes.size; ++i) {
    bytes.data()[i] ^= char(1 << i % 8);
    INFO(i);
    REQUIRE(read(b, bytes, plan) == KVOPS_INVALID_ARGUMENT);
    bytes.data()[i] ^= char(1 << i % 8);
  }
  REQUIRE(read(b, bytes, plan) == KVOPS_OK);
  Batch others[] = {b, b, b, b, b, b, b, b};
  others[0].heads = 16, others[1].size = 32, others[2].left = 5, others[3].causal = 0;
  others[4].lengths[1] = 91, others[5].starts[1] = 2, others[6].add(1, 1);
  others[7].dynamic = {1, 0};
  for (auto& other : others) CHECK(read(other, bytes, plan) == KVOPS_INVALID_ARGUMENT);
  for (int64_t size : {int64_t{0}, int64_t{8}, bytes.size - 1}) {
    Bytes cut = bytes;
    cut.size = size;
    CHECK(read(b, cut, plan) == KVOPS_INVALID_ARGUMENT);
  }
}
