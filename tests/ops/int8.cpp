// static_ and dynamic_scaled_int8_quant: codes by scalar arithmetic on every instruction set, rows
// that have no usual scale, and reads that stay inside the tensor.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>

#include "ops/rows.h"

using namespace tests;
using kvops::bf16;
using kvops::f16;
using std::vector;

namespace {

using Static = kvops_static_scaled_int8_quant_args;
using Dynamic = kvops_dynamic_scaled_int8_quant_args;

// -ffp-contract has no say: every step is stored.
int8_t code_of(float x, float inverse, float azp) {
  volatile float product = x * inverse;
  volatile float sum = product + azp;
  const float y = std::isnan(sum) ? -128.0f : std::clamp(float(sum), -128.0f, 127.0f);
  return int8_t(std::nearbyint(y));
}

struct Result {
  float scale;
  int32_t azp;
  vector<int8_t> codes;
};

// One row as the header says; NaN does not enter the extremes.
template <class T>
Result expected(const T* x, int64_t n, bool asymmetric) {
  float least = INFINITY, most = -INFINITY;
  for (int64_t i = 0; i < n; ++i) {
    least = std::min(least, std::isnan(to_float(x[i])) ? least : to_float(x[i]));
    most = std::max(most, std::isnan(to_float(x[i])) ? most : to_float(x[i]));
  }
  Result r = {1, 0, vector<int8_t>(static_cast<size_t>(n))};
  const bool zeros = least > most || (least == 0 && most == 0);
  if (asymmetric && (zeros || least == most)) {
    if (!zeros) r.scale = std::fabs(least);
    const int sign = zeros ? 0 : least > 0 ? 1 : -1;
    std::fill(r.codes.begin(), r.codes.end(), int8_t(sign));
    return r;
  }
  if (asymmetric) {
    r.scale = std::max((most - least) / 255, 0x1p-126f);
    const double azp = std::nearbyint(-128 - least / r.scale);
    r.azp = int32_t(std::clamp(azp, -0x1p31, 0x1p31 - 1));
  } else if (!zeros) {
    r.scale = std::max(std::max(-least, most) / 127, 0x1p-126f);
  }
  for (int64_t i = 0; i < n; ++i)
    r.codes[size_t(i)] = code_of(to_float(x[i]), 1 / r.scale, float(r.azp));
  return r;
}

// Every row of x, symmetric or not; out lies at any offset and stride.
template <class T>
void check_rows(Matrix<T>& x, bool asymmetric, int64_t offset = 0) {
  const int64_t stride = x.size + offset;
  vector<int8_t> out(size_t(offset + x.rows * stride), 99);
  vector<float> scale(size_t(2 * x.rows), -1);
  vector<int32_t> azp(size_t(x.rows), -1);
  auto a = make<Dynamic>();
  a.input = x.tensor();
  a.out = tensor(&out[size_t(offset)], KVOPS_I8, {x.rows, x.size}, {stride, 1});
  a.scale = tensor(scale, KVOPS_F32, {x.rows, 1}, {2, 1});
  if (asymmetric) a.azp = tensor(azp, KVOPS_I32, {x.rows, 1});
  CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
  bool right = true;
  for (int64_t r = 0; r < x.rows; ++r) {
    const auto want = expected(x.row(r), x.size, asymmetric);
    right &= same(scale[size_t(2 * r)], want.scale) && scale[size_t(2 * r + 1)] == -1;
    right &= !asymmetric || azp[size_t(r)] == want.azp;
    right &= std::equal(want.codes.begin(), want.codes.end(), out.begin() + offset + r * stride);
    for (int64_t i = 0; i < offset; ++i) right &= out[size_t(r * stride + i)] == 99;
  }
  INFO("d " << x.size << " asymmetric " << asymmetric << " offset " << offset);
  CHECK(right);
}

}  // namespace

TEMPLATE_TEST_CASE("int8: codes, scales and zero points by scalar arithmetic", "[int8]", float, f16,
                   bf16) {
  using T = TestType;
  on_every_isa([] {
    for (int64_t d : {1, 2, 7, 15, 16, 31, 32, 33, 47, 64, 100, 257})
      for (int64_t offset : {0, 1, 3}) {
        auto x = Matrix<T>(6, d, offset, d + offset).randomize(unsigned(d), 3, 1);
        for (auto& v : x.data) v = from_float<T>(to_float(v) * 0.37f);
        check_rows(x, false, offset);
        check_rows(x, true, offset);
        for (int32_t azp : {-300, -5, 0, 128}) {
          vector<int8_t> out(size_t(6 * d), 99);
          const float scale = 0.0173f;
          auto a = make<Static>();
          a.input = x.tensor(), a.out = tensor(out, KVOPS_I8, {6, d});
          a.scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {});
          if (azp) a.azp = tensor(&azp, KVOPS_I32, {1});
          CHECK_OK(kvops_static_scaled_int8_quant(&a));
          bool right = true;
          for (int64_t i = 0; i < 6 * d; ++i)
            right &=
                out[size_t(i)] == code_of(to_float(x.row(i / d)[i % d]), 1 / scale, float(azp));
          CHECK(right);
        }
      }
  });
}

TEST_CASE("int8: halves go to the even code, what is beyond saturates, NaN is -128", "[int8]") {
  const float x[] = {0.5f,    1.5f,  -0.5f,  -1.5f,    2.5f,      126.5f, 127.5f,
                     -128.5f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN,    -0.0f};
  const int8_t want[] = {0, 2, 0, -2, 2, 126, 127, -128, 127, -128, 127, -128, -128, 0};
  const float one = 1;
  on_every_isa([&] {
    vector<int8_t> out(14);
    auto a = make<Static>();
    a.input = tensor(const_cast<float*>(x), KVOPS_F32, {14}), a.out = tensor(out, KVOPS_I8, {14});
    a.scale = tensor(const_cast<float*>(&one), KVOPS_F32, {1});
    CHECK_OK(kvops_static_scaled_int8_quant(&a));
    CHECK(std::equal(out.begin(), out.end(), want));
  });
}

TEST_CASE("int8: rows of zeros, of one value, of NaN, of tiny, huge and close values", "[int8]") {
  const vector<vector<float>> rows = {{0, -0.0f},
                                      {-2.5f},
                                      {3e-39f},
                                      {INFINITY},
                                      {-INFINITY},
                                      {NAN, INFINITY},
                                      {NAN},
                                      {NAN, 4},
                                      {NAN, 1, -3},
                                      {1e-45f, -1e-45f},
                                      {1e-40f, 3e-41f},
                                      {2, std::nextafter(2.0f, 3.0f)},
                                      {1e30f, 1.0000001e30f},
                                      {1, 2, 3},
                                      {-7, -5}};
  on_every_isa([&] {
    for (int64_t d : {1, 3, 40}) {
      Matrix<float> x(int64_t(rows.size()), d);
      for (int64_t r = 0; r < x.rows; ++r)
        for (int64_t j = 0; j < d; ++j) {
          auto& values = rows[size_t(r)];
          x.row(r)[j] = values[size_t(j) % values.size()];
        }
      check_rows(x, false);
      check_rows(x, true);
    }
  });
  // A constant comes back exactly: scale * (code - azp).
  const auto r = expected(rows[1].data(), 1, true);
  CHECK((r.scale == 2.5f && r.azp == 0 && r.codes[0] == -1));
  const auto zero = expected(rows[0].data(), 2, true);
  CHECK((zero.scale == 1 && zero.azp == 0 && zero.codes[0] == 0));
}

TEST_CASE("int8: a range that f32 cannot hold has a finite scale", "[int8]") {
  Matrix<float> x(1, 20);
  std::fill(x.row(0), x.row(0) + 20, 1e38f);
  x.row(0)[0] = 3e38f, x.row(0)[1] = -3e38f;
  vector<int8_t> out(20);
  float scale = 0;
  int32_t azp = 0;
  auto a = make<Dynamic>();
  a.input = x.tensor(), a.out = tensor(out, KVOPS_I8, {1, 20});
  a.scale = tensor(&scale, KVOPS_F32, {1, 1}), a.azp = tensor(&azp, KVOPS_I32, {1, 1});
  CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
  for (int64_t i = 0; i < 20; ++i)
    CHECK(std::fabs(double(scale) * (out[size_t(i)] - azp) - x.row(0)[i]) <= 0.51 * scale);
}

TEMPLATE_TEST_CASE("int8: nothing past a row of 1 to 33 elements is read", "[int8]", float, bf16) {
  using T = TestType;
  const auto page = size_t(getpagesize());
  Sparse memory(2 * page);
  REQUIRE(mprotect(memory.data + page, page, PROT_NONE) == 0);
  on_every_isa([&] {
    for (int64_t d = 1; d <= 33; ++d) {
      T* x = reinterpret_cast<T*>(memory.data + page) - 2 * d;  // two rows end with the page
      for (int64_t i = 0; i < 2 * d; ++i) x[i] = from_float<T>(float(i + 1));
      vector<int8_t> out(size_t(2 * d));
      vector<float> scale(2);
      vector<int32_t> azp(2);
      auto a = make<Dynamic>();
      a.input = tensor(x, kvops::dtype_of<T>, {2, d}), a.out = tensor(out, KVOPS_I8, {2, d});
      a.scale = tensor(scale, KVOPS_F32, {2, 1});
      CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
      CHECK(out.back() == 127);
      a.azp = tensor(azp, KVOPS_I32, {2, 1});
      CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
      auto s = make<Static>();
      s.input = a.input, s.out = a.out, s.scale = tensor(scale, KVOPS_F32, {1});
      CHECK_OK(kvops_static_scaled_int8_quant(&s));
    }
  });
}

TEST_CASE("int8: threads, long rows and results larger than the caches", "[int8]") {
  constexpr int64_t kRows = 2300, kSize = 16448;  // 36 MiB of codes
  auto x = Matrix<bf16>(3, kSize).randomize(1);
  Lines out(kRows * kSize + 64);
  vector<int8_t> want(3 * kSize), one(3 * kSize);
  vector<float> scale(kRows), few(3);
  const float given = 0.031f;
  auto a = make<Dynamic>();
  auto s = make<Static>();
  s.scale = tensor(const_cast<float*>(&given), KVOPS_F32, {1});
  s.input = a.input = x.tensor();
  a.out = tensor(want, KVOPS_I8, {3, kSize}), a.scale = tensor(few, KVOPS_F32, {3, 1});
  s.out = tensor(one, KVOPS_I8, {3, kSize});
  REQUIRE(!kvops_set_num_threads(1));
  CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
  CHECK_OK(kvops_static_scaled_int8_quant(&s));
  REQUIRE(!kvops_set_num_threads(3));
  // The middle row over and over, by a stride of 0.
  s.input = a.input = tensor(x.row(1), KVOPS_BF16, {kRows, kSize}, {0, 1});
  a.scale = tensor(scale, KVOPS_F32, {kRows, 1});
  for (int64_t offset : {0, 1}) {
    s.out = a.out = tensor(out.data + offset, KVOPS_I8, {kRows, kSize});
    CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
    bool right = true;
    for (int64_t r = 0; r < kRows; ++r)
      right &= !std::memcmp(out.data + offset + r * kSize, &want[kSize], kSize) &&
               scale[size_t(r)] == few[1];
    CHECK_OK(kvops_static_scaled_int8_quant(&s));
    for (int64_t r = 0; r < kRows; ++r)
      right &= !std::memcmp(out.data + offset + r * kSize, &one[kSize], kSize);
    CHECK(right);
  }
  kvops_set_num_threads(0);
}

TEST_CASE("int8: ranks 1 to 6, offsets beyond 2^31 elements", "[int8]") {
  auto x = Matrix<float>(24, 5).randomize(1);
  for (const Extents& leading : {Extents{24}, {4, 6}, {2, 1, 3, 2, 2}}) {
    vector<int8_t> out(120);
    vector<float> scale(24);
    auto shape = leading, ones = leading;
    shape.push_back(5), ones.push_back(1);
    auto a = make<Dynamic>();
    a.input = x.tensor(shape), a.out = tensor(out, KVOPS_I8, shape);
    a.scale = tensor(scale, KVOPS_F32, ones);
    CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
    for (int64_t r = 0; r < 24; ++r) {
      const auto want = expected(x.row(r), 5, false);
      CHECK((scale[size_t(r)] == want.scale &&
             std::equal(want.codes.begin(), want.codes.end(), out.begin() + r * 5)));
    }
  }
  constexpr int64_t kFar = (int64_t{1} << 32) + 4096;
  Sparse from(size_t(2 * (kFar + 4096))), to(size_t(kFar + 4096));
  from.at<uint16_t>(kFar + 2) = 0x4000;
  float scale[2];
  auto a = make<Dynamic>();
  a.input = tensor(from.data, KVOPS_BF16, {2, 3}, {kFar, 1});
  a.out = tensor(to.data, KVOPS_I8, {2, 3}, {kFar, 1});
  a.scale = tensor(scale, KVOPS_F32, {2, 1});
  CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
  CHECK(to.at<int8_t>(kFar + 2) == 127);
  auto s = make<Static>();
  s.input = a.input, s.out = a.out, s.scale = tensor(&scale[0], KVOPS_F32, {1});
  CHECK_OK(kvops_static_scaled_int8_quant(&s));
  CHECK(to.at<int8_t>(kFar + 2) == 2);
  CHECK(to.pages() == 2);
}
