// rms_norm and fused_add_rms_norm: addresses, strides, ranks, batch invariance, threads, accuracy
// of long sums, special values. Golden cases have the options and the roundings.
#include "ops/rows.h"

using namespace tests;
using kvops::bf16;
using kvops::f16;

namespace {

constexpr double kEpsilon = 1e-6;

template <class T>
kvops_rms_norm_args norm_args(Matrix<T>& input, Matrix<T>& weight, Matrix<T>& out) {
  auto a = make<kvops_rms_norm_args>();
  a.input = input.tensor(), a.out = out.tensor(), a.weight = weight.tensor({weight.size});
  a.epsilon = kEpsilon;
  return a;
}
template <class T>
void norm(Matrix<T>& input, Matrix<T>& weight, Matrix<T>& out) {
  auto a = norm_args(input, weight, out);
  CHECK_OK(kvops_rms_norm(&a));
}
template <class T>
void add_norm(Matrix<T>& input, Matrix<T>& residual, Matrix<T>& weight) {
  auto a = make<kvops_fused_add_rms_norm_args>();
  a.input = input.tensor(), a.residual = residual.tensor();
  a.weight = weight.tensor({weight.size}), a.epsilon = kEpsilon;
  CHECK_OK(kvops_fused_add_rms_norm(&a));
}

template <class T>
double worst_error(const Matrix<T>& x, const Matrix<T>& weight, const Matrix<T>& out) {
  double worst = 0;
  for (int64_t r = 0; r < x.rows; ++r) {
    double sum = 0;
    for (int64_t j = 0; j < x.size; ++j) sum += std::pow(double(to_float(x.row(r)[j])), 2);
    const double scale = 1 / std::sqrt(sum / double(x.size) + double(float(kEpsilon)));
    for (int64_t j = 0; j < x.size; ++j) {
      const double want = to_float(x.row(r)[j]) * scale * to_float(weight.row(0)[j]);
      worst = std::max(worst, std::fabs(to_float(out.row(r)[j]) - want) / ulp<T>(want));
    }
  }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("norm: any address and row stride give the same bits", "[norm]", float, f16,
                   bf16) {
  using T = TestType;
  on_every_isa([] {
    for (int64_t d : {1, 5, 64, 77, 263}) {
      auto x = Matrix<T>(4, d).randomize(1), w = Matrix<T>(1, d).randomize(2, 0.1f, 1);
      Matrix<T> out(4, d);
      norm(x, w, out);
      for (int64_t i = 0; i < 16; ++i) {
        auto x2 = x.moved(i, d + 1 + i % 7), w2 = w.moved(15 - i, 0);
        Matrix<T> out2(4, d, (i * 5 + 3) % 16, d + 1 + (i + 3) % 7);
        norm(x2, w2, out2);
        CHECK(out2.equals(out));
        CHECK(out2.intact());
        norm(x2, w2, x2);  // in place
        CHECK(x2.equals(out));
        CHECK(x2.intact());
      }
    }
  });
}

TEMPLATE_TEST_CASE("norm: the fused norm is an addition and a norm, at any address", "[norm]",
                   float, f16, bf16) {
  using T = TestType;
  on_every_isa([] {
    for (int64_t d : {1, 5, 64, 77, 263}) {
      auto x = Matrix<T>(4, d).randomize(1), y = Matrix<T>(4, d).randomize(3, 20);
      auto w = Matrix<T>(1, d).randomize(2, 0.1f, 1);
      Matrix<T> sum(4, d), out(4, d);
      for (int64_t r = 0; r < 4; ++r)
        for (int64_t j = 0; j < d; ++j)
          sum.row(r)[j] = from_float<T>(to_float(x.row(r)[j]) + to_float(y.row(r)[j]));
      norm(sum, w, out);
      for (int64_t i = 0; i < 16; ++i) {
        auto x2 = x.moved(i, d + 1 + i % 7), y2 = y.moved(15 - i, d + 1 + (i + 2) % 7);
        add_norm(x2, y2, w);
        CHECK(x2.equals(out));
        CHECK(y2.equals(sum));
        CHECK((x2.intact() && y2.intact()));
      }
    }
  });
}

TEMPLATE_TEST_CASE("norm: a row has the same bits in any batch and with any threads", "[norm]",
                   float, bf16) {
  using T = TestType;
  constexpr int64_t kRows = 600, kSize = 769;
  on_every_isa([] {
    auto x = Matrix<T>(kRows, kSize).randomize(4), w = Matrix<T>(1, kSize).randomize(5);
    auto y = Matrix<T>(kRows, kSize).randomize(6);
    Matrix<T> out(kRows, kSize), x2 = x, y2 = y;
    norm(x, w, out);
    add_norm(x2, y2, w);
    for (int64_t threads : {1, 2, 3, 7}) {
      REQUIRE(kvops_set_num_threads(threads) == KVOPS_OK);
      Matrix<T> again(kRows, kSize), x3 = x, y3 = y;
      norm(x, w, again);
      add_norm(x3, y3, w);
      CHECK((again.equals(out) && x3.equals(x2) && y3.equals(y2)));
    }
    kvops_set_num_threads(0);
    for (int64_t r : {0, 1, 299, 599}) {
      Matrix<T> one(1, kSize), one_out(1, kSize, 3), other(1, kSize), want(1, kSize),
          want2(1, kSize);
      std::copy(x.row(r), x.row(r) + kSize, one.row(0));
      std::copy(y.row(r), y.row(r) + kSize, other.row(0));
      std::copy(out.row(r), out.row(r) + kSize, want.row(0));
      std::copy(x2.row(r), x2.row(r) + kSize, want2.row(0));
      norm(one, w, one_out);
      CHECK(one_out.equals(want));
      add_norm(one, other, w);
      CHECK(one.equals(want2));
    }
  });
}

TEST_CASE("norm: long sums stay within four units", "[norm]") {
  on_every_isa([] {
    for (int64_t d : {8192, 70001, 1 << 20}) {
      for (float mean : {0.0f, 3.0f}) {
        auto x = Matrix<float>(2, d).randomize(unsigned(d), 1, mean);
        auto w = Matrix<float>(1, d).randomize(7, 0.1f, 1);
        Matrix<float> out(2, d);
        norm(x, w, out);
        CHECK(worst_error(x, w, out) <= 4);
      }
    }
  });
}

TEST_CASE("norm: rounds once, after the weight", "[norm]") {
  // Rounding x * s to bf16 before the weight would give other bits in about every third element.
  auto x = Matrix<bf16>(1, 4096).randomize(8), w = Matrix<bf16>(1, 4096).randomize(9, 0.3f, 1);
  Matrix<bf16> out(1, 4096);
  on_every_isa([&] {
    norm(x, w, out);
    double sum = 0;
    for (int64_t j = 0; j < 4096; ++j) sum += std::pow(double(to_float(x.row(0)[j])), 2);
    const double scale = 1 / std::sqrt(sum / 4096 + kEpsilon);
    int once = 0;
    for (int64_t j = 0; j < 4096; ++j)
      once += to_float(out.row(0)[j]) ==
              nearest<bf16>(to_float(x.row(0)[j]) * scale * to_float(w.row(0)[j]));
    CHECK(once >= 4094);  // ties of the exact product may fall either way
  });
}

TEST_CASE("norm: ranks 1 to 6, views and broadcast rows", "[norm]") {
  on_every_isa([] {
    constexpr int64_t kSize = 33;
    auto w = Matrix<float>(1, kSize).randomize(2);
    auto x = Matrix<float>(48, kSize).randomize(1);
    Matrix<float> want(48, kSize);
    norm(x, w, want);
    for (const Extents& shape : {Extents{48, kSize},
                                 {4, 12, kSize},
                                 {4, 3, 4, kSize},
                                 {2, 2, 3, 4, kSize},
                                 {2, 1, 2, 3, 4, kSize}}) {
      Matrix<float> out(48, kSize);
      auto a = norm_args(x, w, out);
      a.input = x.tensor(shape), a.out = out.tensor(shape);
      for (size_t i = 0; i + 1 < shape.size(); ++i)
        if (shape[i] == 1) a.input.stride[i] = 987654321, a.out.stride[i] = -5;
      CHECK_OK(kvops_rms_norm(&a));
      CHECK(out.equals(want));
    }
    Matrix<float> single(1, kSize), first(1, kSize);
    std::copy(want.row(0), want.row(0) + kSize, first.row(0));
    auto a = norm_args(x, w, single);
    a.input = x.tensor({kSize}), a.out = single.tensor({kSize});
    CHECK_OK(kvops_rms_norm(&a));
    CHECK(single.equals(first));
    // q heads inside packed rows: [16, 2, kSize] of rows of 3 * kSize; and one row for all.
    Matrix<float> heads(32, kSize), repeated(48, kSize);
    a = norm_args(x, w, heads);
    a.input = tensor(x.row(0), KVOPS_F32, {16, 2, kSize}, {3 * kSize, kSize, 1});
    a.out = heads.tensor({16, 2, kSize});
    CHECK_OK(kvops_rms_norm(&a));
    for (int64_t r = 0; r < 32; ++r)
      CHECK(!std::memcmp(heads.row(r), want.row(r / 2 * 3 + r % 2), kSize * sizeof(float)));
    a = norm_args(x, w, repeated);
    a.input.stride[0] = 0;
    CHECK_OK(kvops_rms_norm(&a));
    for (int64_t r = 0; r < 48; ++r)
      CHECK(!std::memcmp(repeated.row(r), want.row(0), kSize * sizeof(float)));
  });
}

TEST_CASE("norm: zero rows, zero columns, zeros, infinity, NaN, overflow", "[norm]") {
  on_every_isa([] {
    Matrix<float> none(0, 8), weight(1, 8), out(0, 8), narrow(3, 0), no_weight(1, 0);
    norm(none, weight, out);
    norm(narrow, no_weight, narrow);
    constexpr float kInf = HUGE_VALF;
    auto x = Matrix<float>(5, 40).randomize(1), w = Matrix<float>(1, 40).randomize(2, 0.1f, 1);
    Matrix<float> y(5, 40);
    std::fill(x.row(0), x.row(0) + 40, 0.0f);
    x.row(1)[37] = kInf;
    x.row(2)[3] = NAN;
    x.row(3)[0] = 3e19f;  // its square overflows
    norm(x, w, y);
    for (int64_t j = 0; j < 40; ++j) {
      CHECK(y.row(0)[j] == 0);
      CHECK((j == 37 ? std::isnan(y.row(1)[j]) : y.row(1)[j] == 0));
      CHECK(std::isnan(y.row(2)[j]));
      CHECK(y.row(3)[j] == 0);
      CHECK(std::isfinite(y.row(4)[j]));
    }
  });
}

TEST_CASE("norm: offsets beyond 2^31 elements", "[norm]") {
  constexpr int64_t kStride = (int64_t{1} << 31) + 77, kSize = 100;
  Sparse input(size_t(3 * kStride) * 2), out(size_t(3 * kStride) * 2);
  auto x = Matrix<bf16>(3, kSize).randomize(1), w = Matrix<bf16>(1, kSize).randomize(2);
  Matrix<bf16> want(3, kSize);
  for (int64_t r = 0; r < 3; ++r) std::memcpy(&input.at<bf16>(r * kStride), x.row(r), kSize * 2);
  on_every_isa([&] {
    norm(x, w, want);
    auto a = norm_args(x, w, want);
    a.input = tensor(input.data, KVOPS_BF16, {3, kSize}, {kStride, 1});
    a.out = tensor(out.data, KVOPS_BF16, {3, kSize}, {kStride, 1});
    CHECK_OK(kvops_rms_norm(&a));
    for (int64_t r = 0; r < 3; ++r)
      CHECK(!std::memcmp(&out.at<bf16>(r * kStride), want.row(r), kSize * 2));
  });
  CHECK(out.pages() <= 6);
}

TEST_CASE("norm: results larger than the caches have the same bits", "[norm]") {
  constexpr int64_t kRows = 4500, kSize = 4096, kBytes = kRows * kSize * 2;  // 35 MiB
  Lines input(kBytes), out(kBytes + 64);
  auto x = Matrix<bf16>(kRows, kSize).randomize(1), w = Matrix<bf16>(1, kSize).randomize(2);
  std::memcpy(input.data, x.row(0), kBytes);
  Matrix<bf16> want(kRows, kSize);
  on_every_isa([&] {
    auto a = norm_args(x, w, want);
    for (int64_t r = 0; r < kRows; r += 500) {
      a.input = tensor(x.row(r), KVOPS_BF16, {500, kSize});
      a.out = tensor(want.row(r), KVOPS_BF16, {500, kSize});
      CHECK_OK(kvops_rms_norm(&a));
    }
    for (int64_t offset : {0, 2, 64}) {  // bytes: aligned, not, aligned
      std::memset(out.data, 0xFF, kBytes + 64);
      a.input = tensor(input.data, KVOPS_BF16, {kRows, kSize});
      a.out = tensor(out.data + offset, KVOPS_BF16, {kRows, kSize});
      CHECK_OK(kvops_rms_norm(&a));
      CHECK(!std::memcmp(out.data + offset, want.row(0), kBytes));
    }
  });
}

TEST_CASE("norm: works in a child after use of threads", "[norm]") {
  auto x = Matrix<float>(2000, 512).randomize(1), w = Matrix<float>(1, 512).randomize(2);
  Matrix<float> out(2000, 512);
  norm(x, w, out);
  CHECK(true_in_child([&] {
    Matrix<float> again(2000, 512);
    auto a = norm_args(x, w, again);
    return kvops_rms_norm(&a) == KVOPS_OK && again.equals(out);
  }));
}
