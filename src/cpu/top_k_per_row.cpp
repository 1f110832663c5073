// top_k_per_row: positions of the k largest logits of every row; docs/kernels/top_k_per_row.md.
// A thread takes rows, or one piece of a long row. It reads the row once and appends what is not
// below a floor to its slice of the workspace; a full slice is cut down to its k largest, which
// raises the floor. A sample of a long row guesses the first floor. Too high a guess leaves less
// than k, and the row is read again without one. Numerics: integer keys, exact.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/top_k_per_row.cpp"
#include <hwy/foreach_target.h>

#include "cpu/simd-inl.h"
#include "cpu/top_k_per_row-inl.h"

// Everything that is compiled once only.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <utility>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/top_k_per_row.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

struct Row {
  const float* data;
  int64_t stride, count;
};

struct Selection {
  const TopK& job;
  const TopKPlan plan;
  const int64_t k;
  const bool by_value;  // then later positions win ties

  explicit Selection(const TopK& j)
      : job(j), plan(j.plan()), k(j.k()), by_value(j.order == KVOPS_TOP_K_BY_VALUE) {}

  int64_t& count_of(int64_t slice) const {
    return static_cast<int64_t*>(const_cast<void*>(job.workspace))[slice];
  }
  Candidates slice(int64_t i) const {
    auto* keys = reinterpret_cast<int32_t*>(&count_of(TopKPlan::kSlices)) + i * plan.stride;
    return {keys, keys + plan.slices * plan.stride};
  }
  Row row(int64_t r) const {
    const auto range = job.range(r);
    return {job.logits.at(r, range.count ? range.first : 0), job.logits.stride[1], range.count};
  }

  // Logits [i, i + n) of a row, from `staged` when they are not dense.
  static const float* block(const Row& row, int64_t i, int64_t n, float* staged) {
    if (row.stride == 1) return row.data + i;
    for (int64_t j = 0; j < n; ++j) staged[j] = row.data[(i + j) * row.stride];
    return staged;
  }

  // Appends the ones of n logits whose key is at least `floor`; the first has this position.
  static void append(const float* x, int64_t n, int64_t position, int32_t floor, Candidates& c) {
    const KeyTag d;
    const auto lanes = int64_t(hn::Lanes(d));
    const auto least = hn::Set(d, floor), step = hn::Set(d, int32_t(lanes));
    auto positions = hn::Iota(d, int32_t(position));
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      const auto key = keys_of(d, load_raw(d, x + i));
      const auto taken = hn::Not(hn::Lt(key, least));
      // A branch costs more than it saves, except where vectors are emulated.
      if (HWY_TARGET != HWY_EMU128 || !hn::AllFalse(d, taken)) c.append(key, positions, taken);
      positions = hn::Add(positions, step);
    }
    if (i == n) return;
    const auto key = keys_of(d, load_raw_n(d, x + i, size_t(n - i)));
    c.append(key, positions, hn::AndNot(hn::Lt(key, least), hn::FirstN(d, size_t(n - i))));
  }

  // The k largest of positions [begin, end) of a row, and maybe more, are in c afterwards, unless
  // less than k keys are at least `floor`.
  void collect(const Row& row, int64_t begin, int64_t end, int32_t floor, Candidates& c) const {
    alignas(64) float staged[TopKPlan::kBlock];
    for (int64_t n; begin < end; begin += n) {
      n = std::min(TopKPlan::kBlock, end - begin);
      if (c.count + n > plan.capacity) floor = std::max(floor, c.keep(k, by_value));
      append(block(row, begin, n, staged), n, begin, floor, c);
    }
  }

  // A floor that about 1.3 to 2 k logits reach if the row is like its sample: runs of four logits
  // at equal distances. The margin is four standard deviations of the sample's count.
  int32_t guess(const Row& row) const {
    constexpr int64_t kRun = 4, kMost = 2048;
    if (row.count < 8192) return INT32_MIN;
    alignas(64) float sample[kMost];
    alignas(64) int32_t keys[kMost + TopKPlan::kSlack];
    const KeyTag d;
    const int64_t runs = std::min(kMost, row.count / 16) / kRun / 16 * 16, n = runs * kRun;
    const double expected = double(n) * double(k) / double(row.count);
    const auto rank = int64_t(expected + 4 * std::sqrt(expected)) + 4;
    if (rank >= n) return INT32_MIN;
    for (int64_t i = 0; i < runs; ++i) {
      const float* x = row.data + i * row.count / runs * row.stride;
      for (int64_t j = 0; j < kRun; ++j) sample[i * kRun + j] = x[j * row.stride];
    }
    for (int64_t i = 0; i < n; i += int64_t(hn::Lanes(d)))
      hn::StoreU(keys_of(d, load_raw(d, sample + i)), d, keys + i);
    const Cut cut = cut_at(keys, n, rank, false);
    return cut.ties ? cut.bound : cut.bound + 1;
  }

  static void fill_rest(int32_t* out, int64_t from, int64_t k) {
    std::fill(out + from, out + k, -1);
  }

  void whole_row(int64_t r, Candidates c) const {
    const Row x = row(r);
    int32_t* out = job.indices.at(r);
    if (x.count > k) {
      collect(x, 0, x.count, guess(x), c);
      return finish(x, c, out);
    }
    if (by_value) {
      collect(x, 0, x.count, INT32_MIN, c);
      sort(c);
      std::copy(c.positions, c.positions + c.count, out);
    } else {
      for (int64_t i = 0; i < x.count; ++i) out[i] = int32_t(i);
    }
    fill_rest(out, x.count, k);
  }

  // The row's candidates, or too few of them -> its positions.
  void finish(const Row& x, Candidates& c, int32_t* out) const {
    if (c.count < k) {
      c.count = 0;
      collect(x, 0, x.count, INT32_MIN, c);
    }
    c.keep(k, by_value);
    if (by_value) sort(c);
    std::copy(c.positions, c.positions + k, out);
  }

  void piece(int64_t item, int64_t pieces) const {
    const Row x = row(item / pieces);
    const int64_t size = (x.count + pieces - 1) / pieces;
    const int64_t begin = std::min(x.count, item % pieces * size);
    Candidates c = slice(item);
    if (x.count > k) collect(x, begin, std::min(x.count, begin + size), guess(x), c);
    count_of(item) = c.count;
  }

  // Moves the candidates of all pieces of a row together, which leaves them in order.
  void join(int64_t r, int64_t pieces) const {
    const Row x = row(r);
    Candidates c = slice(r * pieces);
    if (x.count <= k) return whole_row(r, c);
    for (int64_t p = r * pieces; p < (r + 1) * pieces; ++p) {
      const Candidates part = slice(p);
      std::memmove(c.keys + c.count, part.keys, size_t(count_of(p)) * sizeof(int32_t));
      std::memmove(c.positions + c.count, part.positions, size_t(count_of(p)) * sizeof(int32_t));
      c.count += count_of(p);
    }
    finish(x, c, job.indices.at(r));
  }

  // Descending keys, equal ones by descending position: from the last position on, a stable sort
  // by the bytes of the inverted key. There is room for as many pairs behind them.
  static void sort(Candidates& c) {
    const int64_t n = c.count;
    std::reverse(c.keys, c.keys + n);
    std::reverse(c.positions, c.positions + n);
    Candidates from = c, to = {c.keys + n, c.positions + n};
    for (int shift = 0; shift < 32; shift += 8) {
      auto digit = [&](int32_t key) { return ~(uint32_t(key) ^ 0x80000000u) >> shift & 255; };
      int64_t begin[256] = {};
      for (int64_t i = 0; i < n; ++i) ++begin[digit(from.keys[i])];
      if (n && begin[digit(from.keys[0])] == n) continue;
      int64_t sum = 0;
      for (auto& b : begin) sum += std::exchange(b, sum);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = begin[digit(from.keys[i])]++;
        to.keys[at] = from.keys[i], to.positions[at] = from.positions[i];
      }
      std::swap(from, to);
    }
    if (from.keys != c.keys) std::copy(from.positions, from.positions + n, c.positions);
  }
};

}  // namespace

kvops_status top_k_per_row(const TopK& job) {
  const Selection s(job);
  const int64_t rows = job.rows(), columns = job.columns();
  const TopKPlan& plan = s.plan;
  if (!plan.slices) {
    for (int64_t r = 0; r < rows; ++r) s.fill_rest(job.indices.at(r), 0, s.k);
    return KVOPS_OK;
  }
  const int64_t pieces = std::min(plan.pieces, plan.slices / std::min(rows, plan.slices));
  if (pieces > 1 && 2 * rows <= num_threads()) {
    parallel_for(rows * pieces, 1, [&](int64_t i, int64_t) { s.piece(i, pieces); });
    parallel_for(rows, 1, [&](int64_t r, int64_t) { s.join(r, pieces); });
    return KVOPS_OK;
  }
  // Every slices-th row, so that each group has its share of long ones.
  const int64_t groups = std::min(rows, plan.slices);
  const int64_t bytes = (rows + groups - 1) / groups * columns * int64_t(sizeof(float));
  parallel_for(groups, rows_per_piece(bytes), [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      for (int64_t r = g; r < rows; r += groups) s.whole_row(r, s.slice(g));
  });
  return KVOPS_OK;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {

kvops_status top_k_per_row(const TopK& job) { return KVOPS_CPU_CHOSEN(top_k_per_row)(job); }

}  // namespace kvops::cpu
#endif
