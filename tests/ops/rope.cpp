// rotary_embedding: strides of query, key and positions, addresses, threads, bad positions, and the
// inverse. Golden cases have the styles, dtypes and options.
#include "ops/rows.h"

using namespace tests;
using kvops::bf16;
using kvops::f16;

namespace {

constexpr int64_t kMaxPos = 64;

std::vector<float> angles(int64_t rot) {
  std::vector<float> rows(size_t(kMaxPos * rot));
  for (int64_t p = 0; p < kMaxPos; ++p)
    for (int64_t j = 0; j < rot / 2; ++j) {
      const double angle = double(p) * std::pow(10000.0, -2.0 * double(j) / double(rot));
      rows[size_t(p * rot + j)] = float(std::cos(angle));
      rows[size_t(p * rot + rot / 2 + j)] = float(std::sin(angle));
    }
  return rows;
}

std::vector<int64_t> some_positions(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int64_t> p(static_cast<size_t>(n));
  for (auto& x : p) x = int64_t(random() % kMaxPos);
  return p;
}

struct Call {
  int64_t size, rot, offset = 0, neox = 1, inverse = 0;
};

kvops_rotary_embedding_args rope_args(const std::vector<int64_t>& positions,
                                      const std::vector<float>& rows, const Call& c) {
  auto a = make<kvops_rotary_embedding_args>();
  a.positions = tensor(positions, KVOPS_I64, {int64_t(positions.size())});
  a.cos_sin_cache = tensor(rows, KVOPS_F32, {kMaxPos, c.rot});
  a.head_size = c.size, a.rope_dim_offset = c.offset, a.is_neox = c.neox, a.inverse = c.inverse;
  return a;
}

// Turns one head; the result before rounding.
template <class T>
std::vector<double> turned(const T* v, const float* row, const Call& c) {
  std::vector<double> out(static_cast<size_t>(c.size));
  for (int64_t i = 0; i < c.size; ++i) out[size_t(i)] = to_float(v[i]);
  const int64_t half = c.rot / 2;
  for (int64_t j = 0; j < half; ++j) {
    const int64_t a = c.offset + (c.neox ? j : 2 * j),
                  b = c.offset + (c.neox ? half + j : 2 * j + 1);
    const double x = to_float(v[a]), y = to_float(v[b]), cosine = row[j];
    const double sine = c.inverse ? -row[half + j] : row[half + j];
    out[size_t(a)] = x * cosine - y * sine;
    out[size_t(b)] = y * cosine + x * sine;
  }
  return out;
}

// Within one unit of T, or of f32 at the size of the operands where they cancel.
template <class T>
bool near(const T* seen, const std::vector<double>& want) {
  double top = 0;
  for (double w : want) top = std::max(top, std::fabs(w));
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(to_float(seen[i]) - want[i]);
    if (error > ulp<T>(want[i]) && error > 2 * ulp<float>(top)) return false;
  }
  return true;
}

}  // namespace

TEMPLATE_TEST_CASE("rope: query and key have their own strides and addresses", "[rope]", float, f16,
                   bf16) {
  using T = TestType;
  constexpr int64_t kTokens = 9, kHeads = 3, kKvHeads = 2;
  const auto positions = some_positions(kTokens, 1);
  on_every_isa([&] {
    for (const Call& c : {Call{64, 64}, Call{80, 32, 0, 0}, Call{50, 38, 7, 1, 1},
                          Call{20, 6, 14, 0, 1}, Call{128, 128, 0, 0}}) {
      const auto rows = angles(c.rot);
      for (int64_t i = 0; i < 16; ++i) {
        // A head per matrix row: the query with gaps between heads, the key dense, or the reverse.
        const int64_t gap = i % 2 ? 64 : 0, other = i % 2 ? 0 : 1 + i % 7;
        auto q = Matrix<T>(kTokens * kHeads, c.size, i, c.size + gap).randomize(2);
        auto k = Matrix<T>(kTokens * kKvHeads, c.size, 15 - i, c.size + other).randomize(3);
        const auto q0 = q, k0 = k;
        auto a = rope_args(positions, rows, c);
        a.query = tensor(q.row(0), kvops::dtype_of<T>, {kTokens, kHeads, c.size},
                         {kHeads * q.stride, q.stride, 1});
        a.key = tensor(k.row(0), kvops::dtype_of<T>, {kTokens, kKvHeads, c.size},
                       {kKvHeads * k.stride, k.stride, 1});
        CHECK_OK(kvops_rotary_embedding(&a));
        CHECK((q.intact() && k.intact()));
        bool right = true;
        for (int64_t t = 0; t < kTokens; ++t) {
          const float* row = rows.data() + positions[size_t(t)] * c.rot;
          for (int64_t h = t * kHeads; h < (t + 1) * kHeads; ++h)
            right &= near(q.row(h), turned(q0.row(h), row, c));
          for (int64_t h = t * kKvHeads; h < (t + 1) * kKvHeads; ++h)
            right &= near(k.row(h), turned(k0.row(h), row, c));
        }
        CHECK(right);
        // What is not rotated keeps its bits.
        for (int64_t j = 0; j < c.size; ++j)
          if (j < c.offset || j >= c.offset + c.rot) CHECK(same(q.row(0)[j], q0.row(0)[j]));
      }
    }
  });
}

TEST_CASE("rope: flat, split and packed tensors give the same bits", "[rope]") {
  constexpr int64_t kTokens = 12, kHeads = 4, kKvHeads = 2, kSize = 48, kRow = (4 + 2 * 2) * kSize;
  const Call c = {kSize, kSize};
  const auto rows = angles(c.rot);
  const auto positions = some_positions(kTokens, 1);
  on_every_isa([&] {
    auto packed = Matrix<bf16>(kTokens, kRow).randomize(2);
    auto flat = packed, twice = packed;
    auto a = rope_args(positions, rows, c);
    const auto view = [&](Matrix<bf16>& m, int64_t first, int64_t heads) {
      return tensor(m.row(0) + first, KVOPS_BF16, {kTokens, heads, kSize}, {kRow, kSize, 1});
    };
    a.query = view(packed, 0, kHeads), a.key = view(packed, kHeads * kSize, kKvHeads);
    CHECK_OK(kvops_rotary_embedding(&a));
    a.query = tensor(flat.row(0), KVOPS_BF16, {kTokens, kHeads * kSize}, {kRow, 1});
    a.key =
        tensor(flat.row(0) + kHeads * kSize, KVOPS_BF16, {kTokens, kKvHeads * kSize}, {kRow, 1});
    CHECK_OK(kvops_rotary_embedding(&a));
    CHECK(flat.equals(packed));
    // [batch, tokens] positions with strides that do not merge: the second half first.
    a.query = tensor(twice.row(6), KVOPS_BF16, {2, 6, kHeads, kSize}, {-6 * kRow, kRow, kSize, 1});
    a.key = tensor(twice.row(6) + kHeads * kSize, KVOPS_BF16, {2, 6, kKvHeads, kSize},
                   {-6 * kRow, kRow, kSize, 1});
    a.positions = tensor(const_cast<int64_t*>(positions.data()) + 6, KVOPS_I64, {2, 6}, {-6, 1});
    CHECK_OK(kvops_rotary_embedding(&a));
    CHECK(twice.equals(packed));
  });
}

TEST_CASE("rope: bad positions are skipped and counted, whatever the threads", "[rope]") {
  constexpr int64_t kTokens = 3000, kSize = 64;
  const Call c = {kSize, kSize};
  const auto rows = angles(c.rot);
  auto positions = some_positions(kTokens, 1);
  for (size_t i = 0; i < positions.size(); i += 3) positions[i] = i % 2 ? -1 : kMaxPos + int64_t(i);
  on_every_isa([&] {
    Matrix<float> first(1, 1);
    for (int64_t threads : {1, 2, 5}) {
      kvops_set_num_threads(threads);
      auto q = Matrix<float>(kTokens, kSize).randomize(2);
      const auto before = q;
      int64_t faults = 100;
      auto a = rope_args(positions, rows, c);
      a.query = q.tensor(), a.faults = tensor(&faults, KVOPS_I64, {1});
      CHECK_OK(kvops_rotary_embedding(&a));
      CHECK(faults == 100 + kTokens / 6);
      bool untouched = true;
      for (int64_t t = 0; t < kTokens; t += 3)
        untouched &= !std::memcmp(q.row(t), before.row(t), kSize * sizeof(float));
      CHECK(untouched);
      if (threads == 1) first = q;
      CHECK(q.equals(first));
      a.faults = {};
      CHECK_OK(kvops_rotary_embedding(&a));
    }
    kvops_set_num_threads(0);
  });
}

TEST_CASE("rope: the inverse undoes it, zeros and NaN", "[rope]") {
  constexpr int64_t kTokens = 40, kSize = 96;
  const auto positions = some_positions(kTokens, 1);
  on_every_isa([&] {
    for (int64_t neox : {0, 1}) {
      Call c = {kSize, 64, 32, neox};
      const auto rows = angles(c.rot);
      auto q = Matrix<float>(kTokens, kSize).randomize(2);
      const auto before = q;
      for (int64_t inverse : {0, 1}) {
        c.inverse = inverse;
        auto a = rope_args(positions, rows, c);
        a.query = q.tensor();
        CHECK_OK(kvops_rotary_embedding(&a));
      }
      double worst = 0;
      for (size_t i = 0; i < q.data.size() - 16; ++i)
        worst = std::max(worst, std::fabs(double(q.data[i]) - before.data[i]));
      CHECK(worst < 2e-6);
    }
    // NaN touches its own pair only; no tokens, nothing to rotate: nothing happens.
    Call c = {kSize, kSize};
    auto rows = angles(kSize);
    auto q = Matrix<float>(kTokens, kSize).randomize(2);
    q.row(5)[7] = NAN;
    auto a = rope_args(positions, rows, c);
    a.query = q.tensor();
    CHECK_OK(kvops_rotary_embedding(&a));
    int nans = 0;
    for (float x : q.data) nans += std::isnan(x);
    CHECK(nans == 2);
    CHECK((std::isnan(q.row(5)[7]) && std::isnan(q.row(5)[7 + kSize / 2])));
    const auto after = q;
    a.cos_sin_cache.shape[1] = 0;
    CHECK_OK(kvops_rotary_embedding(&a));
    std::vector<int64_t> none;
    a = rope_args(none, rows, c);
    a.query = tensor(q.row(0), KVOPS_F32, {0, kSize});
    CHECK_OK(kvops_rotary_embedding(&a));
    CHECK(!std::memcmp(after.data.data(), q.data.data(), q.data.size() * sizeof(float)));
  });
}

TEST_CASE("rope: a token alone has the bits it has in a batch", "[rope]") {
  constexpr int64_t kTokens = 1000, kHeads = 8, kSize = 128;
  const Call c = {kSize, kSize};
  const auto rows = angles(c.rot);
  const auto positions = some_positions(kTokens, 1);
  on_every_isa([&] {
    auto q = Matrix<bf16>(kTokens, kHeads * kSize).randomize(2);
    auto all = q;
    auto a = rope_args(positions, rows, c);
    a.query = all.tensor();
    CHECK_OK(kvops_rotary_embedding(&a));
    for (int64_t t : {0, 1, 517, 999}) {
      const std::vector<int64_t> position = {positions[size_t(t)]};
      a = rope_args(position, rows, c);
      a.query = tensor(q.row(t), KVOPS_BF16, {1, kHeads * kSize});
      CHECK_OK(kvops_rotary_embedding(&a));
      CHECK(!std::memcmp(q.row(t), all.row(t), kHeads * kSize * sizeof(bf16)));
    }
  });
}

TEST_CASE("rope: offsets beyond 2^31 elements", "[rope]") {
  constexpr int64_t kStride = (int64_t{1} << 31) + 9, kSize = 64;
  const Call c = {kSize, kSize};
  const auto rows = angles(c.rot);
  const auto positions = some_positions(3, 1);
  Sparse far(size_t(3 * kStride) * 2);
  auto q = Matrix<bf16>(3, kSize).randomize(1);
  for (int64_t t = 0; t < 3; ++t) std::memcpy(&far.at<bf16>(t * kStride), q.row(t), kSize * 2);
  auto a = rope_args(positions, rows, c);
  a.query = q.tensor();
  CHECK_OK(kvops_rotary_embedding(&a));
  a.query = tensor(far.data, KVOPS_BF16, {3, kSize}, {kStride, 1});
  CHECK_OK(kvops_rotary_embedding(&a));
  for (int64_t t = 0; t < 3; ++t)
    CHECK(!std::memcmp(&far.at<bf16>(t * kStride), q.row(t), kSize * 2));
  CHECK(far.pages() <= 6);
}
