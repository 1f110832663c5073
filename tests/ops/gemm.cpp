// Our own matrix products (cpu/gemm.h), on every instruction set and with every special path that
// this machine has: accuracy, exact integers, addresses and strides, bits across rows and threads.
#include "cpu/gemm.h"

#include "cpu/features.h"
#include "cpu/gemm_kernels.h"
#include "ops/rows.h"

using namespace tests;
using namespace kvops::cpu;
using kvops::bf16;
using kvops::f16;

namespace {

struct PathName {
  GemmPath path;
  const char* name;
};
constexpr PathName kPaths[] = {
    {GemmPath::simd, "simd"}, {GemmPath::dot, "dot"}, {GemmPath::amx, "amx"}};

// Below avx3, and where the machine lacks the instructions, the paths are one and the same.
template <class F>
void on_every_path(F&& body) {
  on_every_isa([&] {
    const Features f = features();
    for (auto& p : kPaths) {
      if (p.path == GemmPath::dot && !f.bf16_dot && !f.int8_dot) continue;
      if (p.path == GemmPath::amx && !f.amx_bf16 && !f.amx_int8) continue;
      INFO(p.name);
      limit_gemm_path(p.path);
      body();
    }
    limit_gemm_path(GemmPath::amx);
  });
}

struct Packed {
  GemmShape shape;
  Lines memory;

  Packed(GemmShape shape, const kvops_tensor& weight)
      : shape(shape), memory(gemm_packed_bytes(shape)) {
    gemm_pack(shape, weight, data());
  }
  std::byte* data() const { return reinterpret_cast<std::byte*>(memory.data); }
  std::vector<char> bytes() const { return {memory.data, memory.data + gemm_packed_bytes(shape)}; }
};

template <class T>
kvops_tensor transposed(Matrix<T>& w, kvops_dtype dtype) {
  return tests::tensor(w.row(0), dtype, {w.size, w.rows}, {1, w.stride});
}
// A weight [k, n] stored as [n, k], as linear layers have it.
template <class T>
Packed pack(Matrix<T>& w) {
  return {{w.size, w.rows, kvops::dtype_of<T>}, transposed(w, kvops::dtype_of<T>)};
}

template <class T>
void multiply(const Packed& p, Matrix<T>& x, Matrix<T>* bias, Matrix<T>& out) {
  Gemm g = {p.shape,    p.data(),  x.rows, x.row(0), x.stride, bias ? bias->row(0) : nullptr,
            out.row(0), out.stride};
  REQUIRE(gemm(g));
}

// How far f32 sums of k products in any order may be off: k + 1 roundings (of products, sums, the
// bias) of at most 2^-24 of the sum of magnitudes, twice that where even and odd k are added apart;
// half a unit for the result. Dot products take subnormals for zero: 2^-126 of the other factor
// for each product, and 2^-126 for each sum.
template <class T>
double bound(double exact, double magnitudes, double largest, int64_t k) {
  return double(k + 2) * std::ldexp(magnitudes, -24) + 0.5 * ulp<T>(exact) +
         double(k) * std::ldexp(1 + 2 * largest, -126);
}

template <class T>
void check_values(Matrix<T>& x, Matrix<T>& w, Matrix<T>* bias, const Matrix<T>& out) {
  double worst = 0;
  for (int64_t m = 0; m < x.rows; ++m)
    for (int64_t n = 0; n < w.rows; ++n) {
      double sum = bias ? to_float(bias->row(0)[n]) : 0, all = std::fabs(sum), largest = 0;
      for (int64_t k = 0; k < x.size; ++k) {
        const double a = to_float(x.row(m)[k]), b = to_float(w.row(n)[k]);
        sum += a * b, all += std::fabs(a * b);
        largest = std::max({largest, std::fabs(a), std::fabs(b)});
      }
      const double error = std::fabs(to_float(out.row(m)[n]) - sum);
      worst = std::max(worst, error / bound<T>(sum, all, largest, x.size));
    }
  CHECK(worst <= 1);
}

struct Size {
  int64_t m, k, n;
};
constexpr Size kSizes[] = {{1, 1, 1},    {2, 3, 31},   {3, 40, 33},  {4, 193, 64},
                           {5, 385, 70}, {13, 97, 96}, {16, 491, 1}, {17, 31, 130},
                           {29, 64, 32}, {33, 15, 65}, {50, 130, 5}, {150, 450, 40}};

}  // namespace

TEMPLATE_TEST_CASE("gemm: within the bound of f32 sums at any size, stride and address", "[gemm]",
                   float, f16, bf16) {
  using T = TestType;
  on_every_path([] {
    for (auto [m, k, n] : kSizes) {
      CAPTURE(m, k, n);
      auto x = Matrix<T>(m, k, m % 5, k + n % 7).randomize(unsigned(m));
      auto w = Matrix<T>(n, k, n % 3, k + m % 4).randomize(unsigned(n), 0.3f);
      auto bias = Matrix<T>(1, n, 1).randomize(unsigned(k), 5);
      const auto packed = pack(w);
      for (auto* b : {&bias, static_cast<Matrix<T>*>(nullptr)}) {
        Matrix<T> out(m, n, k % 9, n + k % 5);
        multiply(packed, x, b, out);
        check_values(x, w, b, out);
        CHECK(out.intact());
      }
      CHECK((x.intact() && w.intact() && bias.intact()));
    }
  });
}

TEMPLATE_TEST_CASE("gemm: no rows, no columns, no k", "[gemm]", float, f16, bf16) {
  using T = TestType;
  on_every_path([] {
    auto bias = Matrix<T>(1, 37).randomize(3);
    Matrix<T> none(3, 0), no_weight(37, 0), out(3, 37, 2, 41);
    multiply(pack(no_weight), none, &bias, out);
    for (int64_t r = 0; r < 3; ++r) CHECK(!std::memcmp(out.row(r), bias.row(0), 37 * sizeof(T)));
    CHECK(out.intact());
    multiply<T>(pack(no_weight), none, nullptr, out);
    for (int64_t j = 0; j < 37; ++j) CHECK(to_float(out.row(2)[j]) == 0);
    Matrix<T> x(0, 8), w(37, 8), empty(0, 37, 5);
    multiply(pack(w), x, &bias, empty);
    CHECK(empty.intact());
    Matrix<T> some(2, 8), no_columns(0, 8), nothing(2, 0, 4, 1);
    multiply<T>(pack(no_columns), some, nullptr, nothing);
    CHECK(nothing.intact());
  });
}

TEMPLATE_TEST_CASE("gemm: a row has the same bits in any batch and with any threads", "[gemm]",
                   float, f16, bf16) {
  using T = TestType;
  constexpr int64_t kRows = 300, kDepth = 801, kColumns = 711;
  auto x = Matrix<T>(kRows, kDepth).randomize(1), w = Matrix<T>(kColumns, kDepth).randomize(2);
  auto bias = Matrix<T>(1, kColumns).randomize(3);
  for (auto& p : kPaths) {  // of the best instruction set; sizes above have the others
    INFO(p.name);
    limit_gemm_path(p.path);
    const auto packed = pack(w);
    Matrix<T> out(kRows, kColumns);
    multiply(packed, x, &bias, out);
    for (int64_t threads : {1, 2, 3, 7}) {
      REQUIRE(kvops_set_num_threads(threads) == KVOPS_OK);
      Matrix<T> again(kRows, kColumns);
      multiply(packed, x, &bias, again);
      CHECK(again.equals(out));
    }
    kvops_set_num_threads(0);
    for (int64_t rows : {1, 2, 4, 5, 14, 15, 16, 33, 141})
      for (int64_t first : {int64_t{0}, kRows - rows}) {
        Matrix<T> some(rows, kDepth), part(rows, kColumns), want(rows, kColumns);
        for (int64_t r = 0; r < rows; ++r) {
          std::copy_n(x.row(first + r), kDepth, some.row(r));
          std::copy_n(out.row(first + r), kColumns, want.row(r));
        }
        multiply(packed, some, &bias, part);
        CHECK(part.equals(want));
      }
  }
  limit_gemm_path(GemmPath::amx);
}

TEMPLATE_TEST_CASE("gemm: any row stride of the input, one row for all, rows backwards", "[gemm]",
                   float, bf16) {
  using T = TestType;
  on_every_path([] {
    auto x = Matrix<T>(20, 77, 0, 80).randomize(1), w = Matrix<T>(40, 77).randomize(2);
    const auto packed = pack(w);
    Matrix<T> out(20, 40), backwards(20, 40), repeated(20, 40);
    multiply<T>(packed, x, nullptr, out);
    REQUIRE(gemm({packed.shape, packed.data(), 20, x.row(19), -80, nullptr, backwards.row(0), 40}));
    REQUIRE(gemm({packed.shape, packed.data(), 20, x.row(7), 0, nullptr, repeated.row(0), 40}));
    for (int64_t r = 0; r < 20; ++r) {
      CHECK(!std::memcmp(backwards.row(r), out.row(19 - r), 40 * sizeof(T)));
      CHECK(!std::memcmp(repeated.row(r), out.row(7), 40 * sizeof(T)));
    }
  });
}

TEMPLATE_TEST_CASE("gemm: NaN and infinity stay in their rows and columns", "[gemm]", float, f16,
                   bf16) {
  using T = TestType;
  on_every_path([] {
    auto x = Matrix<T>(19, 45).randomize(1), w = Matrix<T>(50, 45).randomize(2);
    Matrix<T> want(19, 50), out(19, 50);
    multiply<T>(pack(w), x, nullptr, want);
    x.row(3)[44] = from_float<T>(NAN), x.row(18)[0] = from_float<T>(HUGE_VALF);
    w.row(33)[44] = from_float<T>(NAN), w.row(49)[7] = from_float<T>(-HUGE_VALF);
    multiply<T>(pack(w), x, nullptr, out);
    for (int64_t r = 0; r < 19; ++r)
      for (int64_t c = 0; c < 50; ++c) {
        const float y = to_float(out.row(r)[c]);
        if (r == 3 || c == 33)
          CHECK(std::isnan(y));
        else if (r == 18 || c == 49)
          CHECK(!std::isfinite(y));
        else
          CHECK(same(out.row(r)[c], want.row(r)[c]));
      }
  });
}

TEST_CASE("gemm: packed weights are the same bytes for all strides and instruction sets",
          "[gemm]") {
  auto check = [&]<class T>(T, kvops_dtype dtype) {
    for (auto [k, n] : {std::pair{37, 70}, {200, 64}, {64, 33}, {1, 1}, {133, 32}}) {
      CAPTURE(dtype, k, n);
      const auto bits = random_bits<T>(size_t(k * n), unsigned(k));
      std::vector<char> want;
      on_every_isa([&, k = k, n = n] {
        for (int64_t gap : {0, 1, 2, 4}) {  // [n][k] and [k][n], with gaps, from odd addresses
          const int64_t columns = k + gap, rows = n + gap;
          std::vector<T> a(size_t(1 + n * columns)), b(size_t(1 + k * rows));
          for (int64_t i = 0; i < k; ++i)
            for (int64_t j = 0; j < n; ++j)
              a[size_t(1 + j * columns + i)] = b[size_t(1 + i * rows + j)] =
                  bits[size_t(i * n + j)];
          const Extents shape = {k, n};
          Packed first({k, n, dtype}, tensor(a.data() + 1, dtype, shape, {1, columns}));
          Packed second({k, n, dtype}, tensor(b.data() + 1, dtype, shape, {rows, 1}));
          if (want.empty()) want = first.bytes();
          CHECK(first.bytes() == want);
          CHECK(second.bytes() == want);
        }
      });
    }
  };
  check(uint32_t{}, KVOPS_F32), check(uint16_t{}, KVOPS_F16), check(uint16_t{}, KVOPS_BF16);
  check(uint8_t{}, KVOPS_I8);
}

TEST_CASE("gemm: sums of int8 are exact on every path, for any columns", "[gemm]") {
  on_every_path([] {
    for (auto [m, k, n] :
         {Size{1, 1, 1}, {3, 15, 70}, {17, 1001, 130}, {150, 900, 200}, {9, 0, 5}}) {
      CAPTURE(m, k, n);
      auto x = random_bits<int8_t>(size_t(m * (k + 3)), 1),
           w = random_bits<int8_t>(size_t(k * n), 2);
      for (int64_t i = 0; i < k; ++i) {  // the largest sums that there are
        x[size_t(i)] = -128;
        w[size_t(i)] = -128;
      }
      Packed packed({k, n, KVOPS_I8}, tensor(w, KVOPS_I8, {k, n}, {1, k}));
      for (int64_t begin : {int64_t{0}, n > kGemmColumns ? kGemmColumns : 0})
        for (int64_t end : {n, std::min(n, begin + kGemmColumns)}) {
          const int64_t cols = end - begin, stride = cols + 5;
          std::vector<int32_t> sums(size_t(m * stride + 5), -77);
          REQUIRE(gemm_i8({packed.shape, packed.data(), m, x.data(), k + 3, begin, end,
                           sums.data() + 5, stride}));
          int64_t wrong = 0;
          for (int64_t i = 0; i < int64_t(sums.size()); ++i) {
            const int64_t r = (i - 5) / stride, c = (i - 5) % stride;
            int64_t want = -77;
            if (i >= 5 && c < cols) {
              want = 0;
              for (int64_t j = 0; j < k; ++j)
                want += x[size_t(r * (k + 3) + j)] * w[size_t((begin + c) * k + j)];
            }
            wrong += sums[size_t(i)] != want;
          }
          CHECK(wrong == 0);
        }
    }
  });
}

TEST_CASE("gemm: special instructions are used with the best instruction set only", "[gemm]") {
  for (const char* isa : {"scalar", "sse4", "avx2"}) {
    if (kvops_set_option("cpu_isa", isa)) continue;
    const Features f = features();
    CHECK(!(f.bf16_dot || f.int8_dot || f.amx_bf16 || f.amx_int8));
  }
  kvops_set_option("cpu_isa", "");
}
