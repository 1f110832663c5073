// Activations, fused_add_rms_norm, rotary_embedding and convert_fp8 on a GPU: the errors of the
// vendor's exp, erf and tanh, rows that are the same anywhere, and more than 2^31 items.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "device.h"

using namespace test;

namespace {

float from_bf16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

double unit(double x, int bits) {  // in the last place of a format of so many bits
  int exponent = std::max(std::ilogb(x == 0 ? 1e-300 : x), -126);
  return std::ldexp(1.0, exponent + 1 - bits);
}

using Function = kvops_status (*)(const kvops_silu_and_mul_args*);
struct Gate {
  const char* name;
  Function call;
  double (*exact)(double);
  bool cancels;  // 1 + f(x) is rounded to f32: that much of |x| is lost
};
const Gate kGates[] = {
    {"silu_and_mul", kvops_silu_and_mul, [](double x) { return x / (1 + std::exp(-x)); }, false},
    {"gelu_and_mul", kvops_gelu_and_mul,
     [](double x) { return 0.5 * x * (1 + std::erf(x * 0.70710678118654752)); }, true},
    {"gelu_tanh_and_mul", kvops_gelu_tanh_and_mul,
     [](double x) {
       return 0.5 * x * (1 + std::tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
     },
     true},
};

// The most units that a gate is away from the exact one, over finite gates above the overflow of
// exp(-x).
template <class T>
double worst_gate(const Gate& gate, kvops_dtype dtype, const std::vector<T>& gates, int bits,
                  float (*value)(T), T one) {
  Stream stream;
  auto n = int64_t(gates.size());
  Both<T> in(dtype, {1, 2 * n}), out(dtype, {1, n});
  std::copy(gates.begin(), gates.end(), in.h.begin());
  std::fill(in.h.begin() + n, in.h.end(), one);
  in.up(stream);
  kvops_silu_and_mul_args a = {sizeof a, in.on_gpu(stream), out.on_gpu(stream)};
  REQUIRE(gate.call(&a) == KVOPS_OK);
  auto got = out.down(stream);
  double worst = 0;
  for (size_t i = 0; i < gates.size(); ++i) {
    double x = value(gates[i]);
    if (!std::isfinite(x) || x < -87 || std::fabs(x) > 1e30 || std::isnan(worst)) continue;
    double expected = gate.exact(x);
    double lost = gate.cancels && x < 0 ? std::fabs(x) * 0x1p-23 : 0;
    double error = (std::fabs(value(got[i]) - expected) - lost) / unit(expected, bits);
    if (!(error <= worst)) worst = error;  // NaN stays
  }
  return worst;
}

}  // namespace

TEST_CASE("activations on a GPU: every bf16 gate is within one unit, f32 gates within four") {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = uint16_t(i);
  std::vector<float> many(1 << 22);
  for (size_t i = 0; i < many.size(); ++i)
    many[i] = (i % 2 ? -1.0f : 1.0f) * std::ldexp(1.0f + float(i % 8191) / 8191, int(i % 31) - 24);
  for (const auto& gate : kGates) {
    double half = worst_gate<uint16_t>(gate, KVOPS_BF16, all, 8, from_bf16, 0x3F80);
    double full = worst_gate<float>(
        gate, KVOPS_F32, many, 24, [](float x) { return x; }, 1.0f);
    INFO(gate.name << ": bf16 " << half << ", f32 " << full << " units");
    CHECK(half <= 0.51);  // of the exact gate: rounded right but near ties
    CHECK(full <= 4);
  }
}

TEST_CASE("fused_add_rms_norm on a GPU: an addition and rms_norm, in any batch, at any address") {
  Stream stream;
  for (int64_t d : {1, 33, 128, 769, 2880, 4096, 8192, 16392, 40000}) {
    constexpr int64_t kRows = 67;
    std::mt19937 generator{uint32_t(d)};
    std::normal_distribution<float> normal;
    Both<float> x(KVOPS_F32, {kRows, d}), residual(KVOPS_F32, {kRows, d}), w(KVOPS_F32, {d});
    for (auto* t : {&x, &residual, &w})
      for (auto& v : t->h) v = normal(generator);
    x.up(stream), residual.up(stream), w.up(stream);
    kvops_fused_add_rms_norm_args a = {sizeof a, x.on_gpu(stream), residual.on_gpu(stream),
                                       w.on_gpu(stream), 1e-6};
    REQUIRE(kvops_fused_add_rms_norm(&a) == KVOPS_OK);
    auto sums = residual.down(stream), fused = x.down(stream);
    bool added = true;
    for (size_t i = 0; i < sums.size(); ++i) added = added && sums[i] == x.h[i] + residual.h[i];
    CHECK(added);
    Both<float> y(KVOPS_F32, {kRows, d});
    kvops_rms_norm_args norm = {sizeof norm, a.residual, a.weight, y.on_gpu(stream), 1e-6};
    REQUIRE(kvops_rms_norm(&norm) == KVOPS_OK);
    CHECK((y.down(stream) == fused));
    Both<float> moved(KVOPS_F32, {d + 3}), other(KVOPS_F32, {d + 3});
    for (int64_t row : {int64_t(0), int64_t(41), kRows - 1}) {
      for (int64_t shift : {0, 1, 3}) {
        std::copy_n(x.h.begin() + row * d, d, moved.h.begin() + shift);
        std::copy_n(residual.h.begin() + row * d, d, other.h.begin() + shift);
        moved.up(stream), other.up(stream);
        auto one = a;
        one.input = moved.on_gpu(stream), one.residual = other.on_gpu(stream);
        for (auto* t : {&one.input, &one.residual})
          t->data = static_cast<float*>(t->data) + shift, t->shape[0] = d;
        REQUIRE(kvops_fused_add_rms_norm(&one) == KVOPS_OK);
        auto got = moved.down(stream);
        CHECK(!std::memcmp(&got[size_t(shift)], &fused[size_t(row * d)], size_t(d) * 4));
      }
    }
  }
}

namespace {

struct Buffer {
  void* data = nullptr;
  bool ok;
  explicit Buffer(int64_t bytes) : ok(!kvops_malloc(kGpu, bytes, &data)) {}
  ~Buffer() {
    if (ok) kvops_free(kGpu, data);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

}  // namespace

TEST_CASE("silu_and_mul on a GPU: more than 2^31 items, at an odd address") {
  Stream stream;
  constexpr int64_t kD = 65536, kRows = (int64_t(1) << 31) / kD + 2;
  Buffer input(kRows * 2 * kD * 2 + 16), output(kRows * kD * 2 + 16);  // 12 GiB
  if (!input.ok || !output.ok) return;
  need(kvops_fill(kGpu, stream.get(), input.data, 0x3C, kRows * 2 * kD * 2 + 16));
  Both<uint16_t> row(KVOPS_BF16, {1, 2 * kD}), alone(KVOPS_BF16, {1, kD});
  for (size_t i = 0; i < row.h.size(); ++i) row.h[i] = uint16_t(0x3F00 + i % 200);
  row.up(stream);
  auto *from = static_cast<uint16_t*>(input.data) + 1,
       *to = static_cast<uint16_t*>(output.data) + 1;
  need(kvops_copy(kGpu, stream.get(), from + (kRows - 1) * 2 * kD, row.on_gpu(stream).data,
                  2 * kD * 2));
  const int64_t in_shape[] = {kRows, 2 * kD}, out_shape[] = {kRows, kD};
  kvops_silu_and_mul_args a = {sizeof a,
                               kvops_dense(from, kGpu, stream.get(), KVOPS_BF16, 2, in_shape),
                               kvops_dense(to, kGpu, stream.get(), KVOPS_BF16, 2, out_shape)};
  CHECK(kvops_silu_and_mul(&a) == KVOPS_OK);
  kvops_silu_and_mul_args one = {sizeof one, row.on_gpu(stream), alone.on_gpu(stream)};
  CHECK(kvops_silu_and_mul(&one) == KVOPS_OK);
  std::vector<uint16_t> got(kD);
  need(kvops_copy(kGpu, stream.get(), got.data(), to + (kRows - 1) * kD, kD * 2));
  stream.wait();
  CHECK((alone.down(stream) == got));
}

TEST_CASE("convert_fp8 on a GPU: more than 2^31 items, at an odd address") {
  Stream stream;
  constexpr int64_t kN = (int64_t(1) << 31) + 1000;
  Buffer input(kN * 2 + 16), output(kN + 16);  // 6 GiB
  if (!input.ok || !output.ok) return;
  need(kvops_fill(kGpu, stream.get(), input.data, 0x3C, kN * 2 + 16));
  Both<uint16_t> end(KVOPS_BF16, {900});
  for (size_t i = 0; i < end.h.size(); ++i) end.h[i] = uint16_t(0x3E00 + i);
  end.up(stream);
  auto* from = static_cast<uint16_t*>(input.data) + 1;
  auto* to = static_cast<uint8_t*>(output.data) + 1;
  need(kvops_copy(kGpu, stream.get(), from + kN - 900, end.on_gpu(stream).data, 1800));
  kvops_convert_fp8_args a = {sizeof a, kvops_dense(from, kGpu, stream.get(), KVOPS_BF16, 1, &kN),
                              kvops_dense(to, kGpu, stream.get(), KVOPS_F8_E4M3, 1, &kN), 0.5};
  CHECK(kvops_convert_fp8(&a) == KVOPS_OK);
  Both<uint8_t> expected(KVOPS_F8_E4M3, {900});
  kvops_convert_fp8_args c = {sizeof c, end.on_cpu(), expected.on_cpu(), 0.5};
  REQUIRE(kvops_convert_fp8(&c) == KVOPS_OK);
  std::vector<uint8_t> got(900);
  need(kvops_copy(kGpu, stream.get(), got.data(), to + kN - 900, 900));
  stream.wait();
  CHECK((expected.h == got));
}
