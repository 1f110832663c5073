// The gated activations: accuracy over all 16-bit gates and many f32 gates, addresses, strides,
// threads, and values that go wrong easily. Golden cases have the formulas and the options.
#include <functional>

#include "ops/rows.h"

using namespace tests;
using kvops::bf16;
using kvops::f16;

namespace {

constexpr double kThreshold = 0.3, kLimit = 7, kAlpha = 1.702;
constexpr float kInf = HUGE_VALF;

template <class Args>
Args plain(const kvops_tensor& input, const kvops_tensor& out) {
  auto a = make<Args>();
  a.input = input, a.out = out;
  return a;
}
kvops_status run(const char* op, const kvops_tensor& input, const kvops_tensor& out) {
  const std::string name = op;
  const auto a = plain<kvops_silu_and_mul_args>(input, out);
  if (name == "silu_and_mul") return kvops_silu_and_mul(&a);
  if (name == "mul_and_silu") return kvops_mul_and_silu(&a);
  if (name == "gelu_and_mul") return kvops_gelu_and_mul(&a);
  if (name == "gelu_tanh_and_mul") return kvops_gelu_tanh_and_mul(&a);
  if (name == "fatrelu_and_mul") {
    auto b = plain<kvops_fatrelu_and_mul_args>(input, out);
    b.threshold = kThreshold;
    return kvops_fatrelu_and_mul(&b);
  }
  if (name == "swigluoai_and_mul") {
    auto b = plain<kvops_swigluoai_and_mul_args>(input, out);
    b.alpha = kAlpha, b.limit = kLimit;
    return kvops_swigluoai_and_mul(&b);
  }
  auto b = plain<kvops_silu_and_mul_with_clamp_args>(input, out);
  b.limit = kLimit, b.alpha = 1;
  return kvops_silu_and_mul_with_clamp(&b);
}
constexpr const char* kOps[] = {"silu_and_mul",           "mul_and_silu",    "gelu_and_mul",
                                "gelu_tanh_and_mul",      "fatrelu_and_mul", "swigluoai_and_mul",
                                "silu_and_mul_with_clamp"};

// The activations as functions; exponentials overflow as those of f32 do.
double exp_f32(double x) { return x > 88.7228391 ? HUGE_VAL : std::exp(x); }
double silu(double x) { return x / (1 + exp_f32(-x)); }
double gelu(double x) { return x * 0.5 * (1 + std::erf(x * double(0.70710678f))); }
double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(double(0.79788456f) * (x + double(0.044715f) * x * x * x)));
}

double swiglu(double x) {
  const double g = std::fmin(x, kLimit);
  return g / (1 + exp_f32(-g * double(float(kAlpha))));
}

// Gates with 1 (swigluoai: 0) on the other side, so that the result is the rounded activation.
struct Gate {
  const char* op;
  double (*exact)(double);
  bool cancels;         // 1 + erf and 1 + tanh have the absolute error of an f32 near 1
  bool scales = false;  // alpha is not 1
};
constexpr Gate kGates[] = {
    {"silu_and_mul", silu, false},
    {"mul_and_silu", silu, false},
    {"gelu_and_mul", gelu, true},
    {"gelu_tanh_and_mul", gelu_tanh, true},
    {"swigluoai_and_mul", swiglu, false, true},
    {"silu_and_mul_with_clamp", [](double x) { return silu(std::fmin(x, kLimit)); }, false}};

// Worst error in units of T; errors that f32 must make where a sum cancels do not count.
template <class T>
double worst_error(const Gate& gate, const std::vector<T>& g, const std::vector<T>& out) {
  double worst = 0;
  for (size_t i = 0; i < g.size(); ++i) {
    const double x = to_float(g[i]), seen = to_float(out[i]);
    if (std::isnan(x) || x == -HUGE_VAL) {
      if (!std::isnan(seen)) return HUGE_VAL;
      continue;
    }
    const double want = nearest<T>(gate.exact(x));
    if (seen == want || seen == float(want)) continue;
    double error = std::fabs(seen - want);
    if (gate.cancels && x < 0) error = std::max(0.0, error - std::fabs(x) * 0x1p-23);
    // The f32 nearest to alpha x is off by half a unit, by which the exponential is off relatively.
    if (gate.scales) error = std::max(0.0, error - std::fabs(want * kAlpha * x) * 0x1p-24);
    worst = std::max(worst, error / ulp<T>(want));
  }
  return worst;
}

template <class T>
std::vector<T> gated_with_one(const Gate& gate, const std::vector<T>& g) {
  const auto n = int64_t(g.size());
  const bool second = std::string(gate.op) == "mul_and_silu";
  std::vector<T> in(2 * g.size(), from_float<T>(1.0f)), out(g.size());
  if (std::string(gate.op) == "swigluoai_and_mul")
    for (size_t i = 0; i < g.size(); ++i) in[2 * i] = g[i], in[2 * i + 1] = from_float<T>(0.0f);
  else
    std::copy(g.begin(), g.end(), in.begin() + (second ? n : 0));
  CHECK_OK(
      run(gate.op, tensor(in, kvops::dtype_of<T>, {2 * n}), tensor(out, kvops::dtype_of<T>, {n})));
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE("activation: every 16-bit gate is rounded right", "[activation]", f16, bf16) {
  using T = TestType;
  std::vector<T> g(65536);
  for (size_t i = 0; i < g.size(); ++i) g[i] = {uint16_t(i)};
  on_every_isa([&] {
    for (const Gate& gate : kGates) {
      INFO(gate.op);
      const auto out = gated_with_one(gate, g);
      CHECK(worst_error(gate, g, out) <= 1);  // ties of the exact value may fall either way
    }
  });
}

TEST_CASE("activation: subnormal bf16 gates are halved, ties to even", "[activation]") {
  std::vector<bf16> g;
  for (int i = 0; i < 128; ++i) g.push_back({uint16_t(i)});
  on_every_isa([&] {
    for (const Gate& gate : kGates) {
      if (std::string(gate.op) == "swigluoai_and_mul") continue;  // not halved: u + 1
      const auto out = gated_with_one(gate, g);
      for (int i = 0; i < 128; ++i) CHECK(out[size_t(i)].bits == i / 2 + (i % 4 == 3));
    }
  });
}

TEST_CASE("activation: f32 gates within four units", "[activation]") {
  std::vector<float> g;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 4001)
    g.push_back(std::bit_cast<float>(uint32_t(bits)));
  on_every_isa([&] {
    for (const Gate& gate : kGates) {
      INFO(gate.op);
      CHECK(worst_error(gate, g, gated_with_one(gate, g)) <= 4);
    }
  });
}

TEMPLATE_TEST_CASE("activation: any address and row stride give the same bits", "[activation]",
                   float, f16, bf16) {
  using T = TestType;
  on_every_isa([] {
    for (const char* op : kOps) {
      INFO(op);
      for (int64_t d : {1, 3, 16, 33, 100}) {
        auto x = Matrix<T>(3, 2 * d).randomize(1, 3);
        Matrix<T> out(3, d);
        CHECK_OK(run(op, x.tensor(), out.tensor()));
        for (int64_t i = 0; i < 16; ++i) {
          auto x2 = x.moved(i, 2 * d + 1 + i % 7);
          Matrix<T> out2(3, d, (i * 5 + 3) % 16, d + 1 + (i + 3) % 7);
          CHECK_OK(run(op, x2.tensor(), out2.tensor()));
          CHECK((out2.equals(out) && out2.intact() && x2.equals(x)));
        }
      }
    }
  });
}

TEST_CASE("activation: threads, batches and long rows do not change bits", "[activation]") {
  on_every_isa([] {
    for (const char* op : kOps) {
      INFO(op);
      // One row that is cut into pieces; the same elements as many rows.
      constexpr int64_t kSize = 100000;
      auto x = Matrix<bf16>(1, 2 * kSize).randomize(1, 3);
      Matrix<bf16> out(1, kSize), again(1, kSize), parts(1, kSize);
      CHECK_OK(run(op, x.tensor(), out.tensor()));
      for (int64_t threads : {1, 2, 3}) {
        kvops_set_num_threads(threads);
        CHECK_OK(run(op, x.tensor(), again.tensor()));
        CHECK(again.equals(out));
      }
      kvops_set_num_threads(0);
      const bool pairs = std::string(op) == "swigluoai_and_mul";
      constexpr int64_t kParts = 1000, kPart = kSize / kParts;
      Matrix<bf16> rows(kParts, 2 * kPart);
      for (int64_t r = 0; r < kParts; ++r)
        for (int64_t j = 0; j < kPart; ++j)
          for (int64_t side : {0, 1})
            rows.row(r)[pairs ? 2 * j + side : side * kPart + j] =
                x.row(0)[pairs ? 2 * (r * kPart + j) + side : side * kSize + r * kPart + j];
      CHECK_OK(run(op, rows.tensor(), parts.tensor({kParts, kPart})));
      CHECK(parts.equals(out));
    }
  });
}

TEST_CASE("activation: empty tensors, ranks, broadcast rows", "[activation]") {
  on_every_isa([] {
    for (const char* op : kOps) {
      INFO(op);
      auto x = Matrix<float>(24, 20).randomize(1);
      Matrix<float> out(24, 10), want(24, 10);
      CHECK_OK(run(op, x.tensor(), want.tensor()));
      CHECK_OK(run(op, x.tensor({2, 3, 4, 20}), out.tensor({2, 3, 4, 10})));
      CHECK(out.equals(want));
      auto one = x.tensor();
      one.stride[0] = 0;
      CHECK_OK(run(op, one, out.tensor()));
      for (int64_t r = 0; r < 24; ++r) CHECK(!std::memcmp(out.row(r), want.row(0), 40));
      Matrix<float> none(0, 20), nothing(0, 10), empty(5, 0);
      CHECK_OK(run(op, none.tensor(), nothing.tensor()));
      CHECK_OK(run(op, empty.tensor(), empty.tensor()));
    }
  });
}

TEST_CASE("activation: infinities, NaN and signed zeros", "[activation]") {
  const auto one = [](const char* op, float a, float b) {
    const std::vector<float> in = {a, b};
    std::vector<float> out(1);
    CHECK_OK(run(op, tensor(in, KVOPS_F32, {2}), tensor(out, KVOPS_F32, {1})));
    return out[0];
  };
  on_every_isa([&] {
    for (const char* op : kOps) {
      INFO(op);
      CHECK(std::isnan(one(op, NAN, 1)));
      CHECK(std::isnan(one(op, 1, NAN)));
    }
    for (const char* op : {"silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"}) {
      INFO(op);
      CHECK(one(op, kInf, 2) == kInf);
      CHECK(one(op, 1e30f, 2) == 2e30f);
      CHECK((one(op, -1e30f, 2) == 0 && std::signbit(one(op, -1e30f, 2))));
      CHECK((one(op, -0.0f, 1) == 0 && std::signbit(one(op, -0.0f, 1))));
      CHECK(std::isnan(one(op, -kInf, 1)));
    }
    CHECK(std::isnan(one("swigluoai_and_mul", -kInf, 1)));
    CHECK(one("fatrelu_and_mul", -kInf, 3) == 0);
    CHECK((one("fatrelu_and_mul", 0, -3) == 0 && std::signbit(one("fatrelu_and_mul", 0, -3))));
    CHECK(std::isnan(one("fatrelu_and_mul", 0, kInf)));
    // Clamped on both sides of up, above only for the gate.
    CHECK(one("silu_and_mul_with_clamp", 1, 100) == one("silu_and_mul_with_clamp", 1, 7));
    CHECK(one("silu_and_mul_with_clamp", 1, -kInf) == one("silu_and_mul_with_clamp", 1, -7));
    CHECK(one("silu_and_mul_with_clamp", 140, 1) == one("silu_and_mul_with_clamp", 7, 1));
    CHECK(one("swigluoai_and_mul", 100, -100) == one("swigluoai_and_mul", 7, -7));
    CHECK(one("swigluoai_and_mul", -9, 1) != one("swigluoai_and_mul", -7, 1));
  });
}

TEMPLATE_TEST_CASE("activation: fatrelu compares with the rounded threshold", "[activation]", f16,
                   bf16) {
  using T = TestType;
  const T least = from_float<T>(float(kThreshold)), above = {uint16_t(least.bits + 1)},
          below = {uint16_t(least.bits - 1)};
  const T unit = from_float<T>(1.0f);
  const std::vector<T> in = {least, above, below, unit, unit, unit};
  on_every_isa([&] {
    std::vector<T> out(3);
    CHECK_OK(run("fatrelu_and_mul", tensor(in, kvops::dtype_of<T>, {6}),
                 tensor(out, kvops::dtype_of<T>, {3})));
    CHECK((out[0].bits == 0 && out[1].bits == above.bits && out[2].bits == 0));
  });
}

TEST_CASE("activation: offsets beyond 2^32 elements", "[activation]") {
  constexpr int64_t kStride = (int64_t{1} << 31) + 33, kSize = 50;
  Sparse input(size_t(3 * kStride) * 2), out(size_t(3 * kStride) * 2);
  auto x = Matrix<bf16>(3, 2 * kSize).randomize(1, 3);
  for (int64_t r = 0; r < 3; ++r) std::memcpy(&input.at<bf16>(r * kStride), x.row(r), 4 * kSize);
  for (const char* op : kOps) {
    INFO(op);
    Matrix<bf16> want(3, kSize);
    CHECK_OK(run(op, x.tensor(), want.tensor()));
    CHECK_OK(run(op, tensor(input.data, KVOPS_BF16, {3, 2 * kSize}, {kStride, 1}),
                 tensor(out.data, KVOPS_BF16, {3, kSize}, {kStride, 1})));
    for (int64_t r = 0; r < 3; ++r)
      CHECK(!std::memcmp(&out.at<bf16>(r * kStride), want.row(r), 2 * kSize));
  }
  CHECK(out.pages() <= 6);
}

TEMPLATE_TEST_CASE("activation: results larger than the caches have the same bits", "[activation]",
                   float, f16, bf16) {
  using T = TestType;
  constexpr int64_t kSize = 4096 + 32, kRows = (36 << 20) / kSize / int64_t(sizeof(T));
  constexpr int64_t kBytes = kRows * kSize * int64_t(sizeof(T));
  const kvops_dtype dtype = kvops::dtype_of<T>;
  auto x = Matrix<T>(1, 2 * kSize).randomize(1, 3);  // one row for all
  Matrix<T> want(1, kSize);
  Lines out(kBytes + 64);
  on_every_isa([&] {
    for (const char* op : {"silu_and_mul", "fatrelu_and_mul", "swigluoai_and_mul"}) {
      INFO(op);
      CHECK_OK(run(op, x.tensor(), want.tensor()));
      const auto input = tensor(x.row(0), dtype, {kRows, 2 * kSize}, {0, 1});
      for (int64_t offset : {0, int(sizeof(T))}) {  // bytes: aligned and not
        std::memset(out.data, 0xFF, kBytes + 64);
        CHECK_OK(run(op, input, tensor(out.data + offset, dtype, {kRows, kSize})));
        bool equal = true;
        for (int64_t r = 0; r < kRows; ++r)
          equal &= !std::memcmp(out.data + offset + r * kSize * int64_t(sizeof(T)), want.row(0),
                                kSize * sizeof(T));
        CHECK(equal);
      }
    }
  });
}

TEST_CASE("activation: works in a child after use of threads", "[activation]") {
  auto x = Matrix<float>(500, 2048).randomize(1);
  Matrix<float> out(500, 1024);
  CHECK_OK(run("silu_and_mul", x.tensor(), out.tensor()));
  CHECK(true_in_child([&] {
    Matrix<float> again(500, 1024);
    return run("silu_and_mul", x.tensor(), again.tensor()) == KVOPS_OK && again.equals(out);
  }));
}
