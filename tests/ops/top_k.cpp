// top_k_per_row_prefill and top_k_per_row_decode against a sorted row, on every instruction set:
// values that tie, NaN, infinities and zeros, rows of any length and place, long rows over threads.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "ops/tensors.h"

namespace {

using std::vector;
using tests::tensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int32_t kOrders[] = {KVOPS_TOP_K_UNORDERED, KVOPS_TOP_K_BY_VALUE, KVOPS_TOP_K_BY_INDEX};

// +0 above -0, NaN equal and above all.
bool less(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return !std::isnan(a);
  return a < b || (a == b && std::signbit(a) && !std::signbit(b));
}
bool equal(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || (!less(a, b) && !less(b, a));
}

// What the row must be; `at` gives the logits of its len positions.
vector<int32_t> expected(const std::function<float(int64_t)>& at, int64_t len, int64_t k,
                         int64_t order) {
  const bool by_value = order == KVOPS_TOP_K_BY_VALUE;
  vector<int32_t> all(static_cast<size_t>(len));
  std::iota(all.begin(), all.end(), 0);
  auto before = [&](int32_t i, int32_t j) {
    const float x = at(i), y = at(j);
    if (!equal(x, y)) return less(y, x);
    return by_value ? i > j : i < j;
  };
  const auto n = size_t(std::min(len, k));
  std::nth_element(all.begin(), all.begin() + std::ptrdiff_t(n), all.end(), before);
  all.resize(n);
  if (by_value)
    std::sort(all.begin(), all.end(), before);
  else
    std::sort(all.begin(), all.end());
  all.resize(size_t(k), -1);
  return all;
}

// Rows of logits between NaN that must not be read, results between numbers that must stay.
struct Rows {
  int64_t rows, columns, k, step = 1, pitch, offset;
  vector<float> logits;
  vector<int32_t> starts, ends, out;

  Rows(int64_t n, int64_t c, int64_t k, int64_t step = 1, int64_t gap = 0, int64_t offset = 0)
      : rows(n),
        columns(c),
        k(k),
        step(step),
        pitch(std::abs(step) * c + gap),
        offset(offset + (step < 0 ? -step * std::max<int64_t>(0, c - 1) : 0)),
        logits(size_t(n * pitch + this->offset + 4), NAN),
        starts(size_t(n), 0),
        ends(size_t(n), int32_t(c)) {}

  float& at(int64_t r, int64_t j) { return logits[size_t(offset + r * pitch + j * step)]; }
  Rows& fill(const std::function<float(int64_t, int64_t)>& f) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j) at(r, j) = f(r, j);
    return *this;
  }
  int64_t first(int64_t r) const { return std::clamp<int64_t>(starts[size_t(r)], 0, columns); }
  int64_t length(int64_t r) const {
    return std::max<int64_t>(0, std::min<int64_t>(ends[size_t(r)], columns) - first(r));
  }
  int32_t* result(int64_t r) { return &out[size_t(r * (k + 3) + 1)]; }

  void run(int64_t order) {
    auto a = tests::make<kvops_top_k_per_row_prefill_args>();
    out.assign(size_t(rows * (k + 3) + 2), -77);
    a.logits = tensor(logits.data() + offset, KVOPS_F32, {rows, columns}, {pitch, step});
    a.row_starts = tensor(starts, KVOPS_I32, {rows});
    a.row_ends = tensor(ends, KVOPS_I32, {rows});
    a.indices = tensor(out.data() + 1, KVOPS_I32, {rows, k}, {k + 3, 1});
    a.order = order;
    int64_t bytes = 0;
    CHECK_OK(kvops_top_k_per_row_prefill_workspace(&a, &bytes));
    tests::Sparse memory(size_t(bytes + 8192));  // ends where the page does, and a guard after it
    auto* end = memory.data + memory.bytes;
    auto* base = end - (bytes + 63) / 64 * 64 - 64;
    std::fill(base + bytes, end, char(0x5A));
    a.workspace = tensor(base, KVOPS_U8, {bytes});
    CHECK_OK(kvops_top_k_per_row_prefill(&a));
    CHECK(std::all_of(base + bytes, end, [](char c) { return c == 0x5A; }));
  }
  bool right(int64_t order) {
    for (int64_t r = 0; r < rows; ++r) {
      auto value = [&](int64_t j) { return at(r, first(r) + j); };
      auto want = expected(value, length(r), k, order);
      vector<int32_t> got(result(r), result(r) + k);
      if (order == KVOPS_TOP_K_UNORDERED) std::sort(got.begin(), got.end());
      if (order == KVOPS_TOP_K_UNORDERED) std::sort(want.begin(), want.end());
      if (got != want || result(r)[-1] != -77 || result(r)[k] != -77) return false;
    }
    return true;
  }
  void check() {
    for (auto order : kOrders) {
      CAPTURE(order, rows, columns, k);
      run(order);
      CHECK(right(order));
    }
  }
};

using Random = std::mt19937;
float normal(Random& random) { return std::normal_distribution<float>()(random); }

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace

TEST_CASE("top-k: distributions that ties, buckets and samples fear") {
  tests::on_every_isa([] {
    Random random(5);
    const std::function<float(int64_t, int64_t)> kinds[] = {
        [](int64_t, int64_t) { return 1.5f; }, [](int64_t, int64_t j) { return float(j); },
        [](int64_t, int64_t j) { return -float(j); },
        [&](int64_t, int64_t) { return float(random() % 10); },
        [&](int64_t, int64_t) { return from_bits(0x3F900000 | (random() & 1023)); },
        [&](int64_t, int64_t) { return from_bits(0xBF900000 | (random() & 1)); },
        [](int64_t, int64_t j) { return j % 97 ? -kInf : float(j); },
        [](int64_t, int64_t j) { return j % 1000 ? float(j % 1000) : 1e30f; },
        [](int64_t, int64_t j) { return j < 9000 ? 2.0f : 1.0f; },
        // What a sample of runs of four at equal distances sees is not what there is.
        [](int64_t, int64_t j) {
          return j * 512 / 20000 * 20000 / 512 + 3 >= j ? 9.0f : float(j % 7);
        },
        [](int64_t, int64_t j) { return j % 39 < 5 ? 5.0f + float(j) : float(j % 11); }};
    int number = 0;
    for (auto& kind : kinds) {
      INFO("kind " << number++);
      for (int64_t k : {1, 5, 700, 2048}) Rows(2, 20000, k).fill(kind).check();
    }
  });
}

TEST_CASE("top-k: NaN of either sign first, infinities, zeros and subnormals are values") {
  tests::on_every_isa([] {
    Random random(6);
    const uint32_t odd[] = {0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0xFFFFFFFF, 0x7FFFFFFF,
                            0x7F800000, 0xFF800000, 0,          0x80000000, 1,          0x80000001,
                            0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x80800000};
    for (int64_t k : {1, 2, 6, 7, 8, 9, 10, 11, 12, 16, 100}) {
      Rows(3, 16, k)
          .fill([&](int64_t r, int64_t j) { return from_bits(odd[(j * 5 + r) % 16]); })
          .check();
      Rows(2, 500, k).fill([&](int64_t, int64_t) { return from_bits(odd[random() % 16]); }).check();
    }
    for (uint32_t one : odd)
      Rows(1, 9000, 300).fill([&](int64_t, int64_t) { return from_bits(one); }).check();
    Rows(2, 30000, 2000)
        .fill([&](int64_t, int64_t) { return from_bits(odd[random() % 16]); })
        .check();
    Rows(2, 30000, 2000)
        .fill([&](int64_t, int64_t) { return from_bits(uint32_t(random())); })
        .check();
    // +0 goes before -0, wherever they are.
    Rows zeros(1, 40, 20);
    zeros.fill([](int64_t, int64_t j) { return j < 20 ? -0.0f : 0.0f; });
    zeros.run(KVOPS_TOP_K_BY_INDEX);
    for (int32_t j = 0; j < 20; ++j) CHECK(zeros.result(0)[j] == 20 + j);
  });
}

TEST_CASE("top-k: rows are clamped to the columns and read nothing else") {
  tests::on_every_isa([] {
    Random random(7);
    const int32_t places[][2] = {{0, 0},
                                 {5, 5},
                                 {9, 3},
                                 {-4, 30},
                                 {20, 1 << 30},
                                 {90, 95},
                                 {99, 100},
                                 {100, 120},
                                 {200, 300},
                                 {-9, -3},
                                 {0, 100},
                                 {3, 67},
                                 {INT32_MIN, INT32_MAX},
                                 {INT32_MAX, INT32_MIN}};
    for (int64_t k : {1, 31, 64, 65, 200}) {
      Rows rows(14, 100, k, 1, 5, 1);
      rows.fill([&](int64_t, int64_t) { return normal(random); });
      for (size_t r = 0; r < 14; ++r) rows.starts[r] = places[r][0], rows.ends[r] = places[r][1];
      // What is outside a row's range would win.
      for (int64_t r = 0; r < 14; ++r)
        for (int64_t j = 0; j < 100; ++j)
          if (j < rows.first(r) || j >= rows.first(r) + rows.length(r))
            rows.at(r, j) = j % 2 ? NAN : 1e30f;
      rows.check();
    }
    Rows(0, 10, 3).check();
    Rows(3, 0, 3).check();
  });
}

TEST_CASE("top-k: lengths around k and around every size that the code knows") {
  tests::on_every_isa([] {
    Random random(8);
    for (int64_t k : {2048, 512, 1023})
      for (int64_t n : {k - 1, k, k + 1, int64_t{2049}, int64_t{4097}, int64_t{8191}, int64_t{8192},
                        2 * k + 4095, 2 * k + 4097, int64_t{32769}})
        Rows(1, n, k).fill([&](int64_t, int64_t) { return normal(random); }).check();
  });
  Random random(9);
  Rows(1, 163840, 2048).fill([&](int64_t, int64_t) { return normal(random); }).check();
  Rows(1, 70000, 60000).fill([&](int64_t, int64_t) { return normal(random); }).check();
  Rows(1, 200000, 1 << 20).fill([&](int64_t, int64_t) { return normal(random); }).check();
}

TEST_CASE("top-k: random rows, strides of any size and sign, unaligned bases") {
  tests::on_every_isa([] {
    Random random(10);
    for (int i = 0; i < 150; ++i) {
      const auto pick = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
      const int64_t n = 1 + pick(5), c = pick(4) ? 1 + pick(400) : 1 + pick(12000);
      const int64_t steps[] = {1, 1, 2, 5, -1, -3}, step = steps[pick(6)];
      Rows rows(n, c, 1 + pick(pick(2) ? c : 2 * c), step, pick(9), pick(4));
      const int64_t values = pick(3) ? 1 << 30 : 1 + pick(20);
      rows.fill(
          [&](int64_t, int64_t) { return normal(random) > 1.5f ? kInf : float(pick(values)) - 3; });
      for (size_t r = 0; r < size_t(n); ++r)
        rows.starts[r] = int32_t(pick(c + 5) - 2), rows.ends[r] = int32_t(pick(c + 9));
      rows.check();
    }
    // All rows are one row.
    Rows same(4, 300, 9);
    same.fill([&](int64_t, int64_t) { return normal(random); });
    same.pitch = 0;
    same.check();
  });
}

TEST_CASE("top-k: many rows, past 12288 and with offsets past 2^31 elements") {
  Random random(11);
  Rows rows(13000, 40, 9);
  rows.fill([&](int64_t, int64_t) { return float(random() % 100); });
  for (size_t r = 0; r < 13000; ++r)
    rows.ends[r] = int32_t(r % 41), rows.starts[r] = int32_t(r % 3);
  rows.check();
  const int64_t far = (int64_t{1} << 31) + 3;
  tests::Sparse memory(size_t(4 * (2 * far + 64)));
  vector<int32_t> starts(2, 0), ends(2, 3), out(4);
  for (int64_t stride : {far, int64_t{1}}) {
    auto a = tests::make<kvops_top_k_per_row_prefill_args>();
    const int64_t across = stride == 1 ? far : 1;
    a.logits = tensor(memory.data, KVOPS_F32, {2, 3}, {stride, across});
    for (int64_t r = 0; r < 2; ++r)
      for (int64_t j = 0; j < 3; ++j)
        memory.at<float>(r * stride + j * across) = float((j + r) % 3);
    a.row_starts = tensor(starts, KVOPS_I32, {2}), a.row_ends = tensor(ends, KVOPS_I32, {2});
    a.indices = tensor(out, KVOPS_I32, {2, 2});
    a.order = KVOPS_TOP_K_BY_VALUE;
    int64_t bytes = 0;
    CHECK_OK(kvops_top_k_per_row_prefill_workspace(&a, &bytes));
    vector<uint8_t> space(size_t(bytes + 64));
    auto* base = space.data() + (-reinterpret_cast<uintptr_t>(space.data()) & 63);
    a.workspace = tensor(base, KVOPS_U8, {bytes});
    CHECK_OK(kvops_top_k_per_row_prefill(&a));
    CHECK(out == vector<int32_t>{2, 1, 1, 0});
  }
}

TEST_CASE("top-k: any number of threads gives the same bits, and shapes alone the workspace") {
  Random random(12);
  for (int64_t n : {1, 2, 5})
    for (int kind = 0; kind < 3; ++kind) {
      Rows rows(n, 150000, 2048);
      rows.fill([&](int64_t, int64_t j) {
        return kind == 0 ? normal(random) : kind == 1 ? float(j / 70000) : float(j);
      });
      rows.ends[0] = 140001;
      for (auto order : kOrders) {
        vector<int32_t> first;
        for (int64_t threads : {1, 2, 3, 7, 16}) {
          kvops_set_num_threads(threads);
          rows.run(order);
          if (first.empty()) {
            CHECK(rows.right(order));
            first = rows.out;
          }
          CHECK(rows.out == first);
        }
        kvops_set_num_threads(0);
      }
    }
}

TEST_CASE("top-k: decode rows end by request or by row") {
  const int64_t batch = 3, next_n = 4, rows = batch * next_n, columns = 40, k = 5;
  Random random(13);
  vector<float> logits(size_t(rows * columns));
  for (auto& x : logits) x = normal(random);
  const vector<int32_t> shared = {2, 6, 50}, apart = {0, -3, 1, 5, 40, 41, 7, 6, 9, 12, 30, 2};
  vector<int32_t> ends_shared;
  for (int64_t r = 0; r < rows; ++r)
    ends_shared.push_back(shared[size_t(r / next_n)] - int32_t(next_n - r % next_n - 1));
  struct {
    const vector<int32_t>& lengths;
    tests::Extents shape, stride;
    const vector<int32_t>& ends;
  } const forms[] = {{shared, {batch}, {1}, ends_shared},
                     {shared, {batch, 1}, {1, 99}, ends_shared},
                     {apart, {rows}, {1}, apart},
                     {apart, {batch, next_n}, {next_n, 1}, apart}};
  for (auto& form : forms) {
    auto a = tests::make<kvops_top_k_per_row_decode_args>();
    vector<int32_t> out(size_t(rows * k), 7);
    a.logits = tensor(logits, KVOPS_F32, {rows, columns});
    a.seq_lens = tensor(form.lengths, KVOPS_I32, form.shape, form.stride);
    a.indices = tensor(out, KVOPS_I32, {rows, k});
    a.next_n = next_n, a.order = KVOPS_TOP_K_BY_VALUE;
    int64_t bytes = 0;
    CHECK_OK(kvops_top_k_per_row_decode_workspace(&a, &bytes));
    vector<uint8_t> space(size_t(bytes + 64));
    a.workspace =
        tensor(space.data() + (-reinterpret_cast<uintptr_t>(space.data()) & 63), KVOPS_U8, {bytes});
    CHECK_OK(kvops_top_k_per_row_decode(&a));
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t len = std::clamp<int64_t>(form.ends[size_t(r)], 0, columns);
      const auto want =
          expected([&](int64_t j) { return logits[size_t(r * columns + j)]; }, len, k, a.order);
      CHECK(vector<int32_t>(out.begin() + r * k, out.begin() + (r + 1) * k) == want);
    }
  }
}
