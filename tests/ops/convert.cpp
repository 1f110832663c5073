// f16, bf16 and fp8 conversions, one by one and in vectors of every target, against a reference
// that knows only what a format is: the list of its finite values, as doubles.
//
// Rounding to a format is a staircase. It is right everywhere if it is right at every code and on
// both sides of every step, which is what is tested, besides all 65,536 inputs of f16 and bf16.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/convert.cpp"
#include <hwy/foreach_target.h>

#include "cpu/simd-inl.h"

// Everything that is compiled once only.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/dtype.h"
#include "cpu/convert.h"
#include "cpu/isa.h"
#include "harness/isas.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

template <class T>
void load_all(const T* p, float* out, int64_t n) {
  const hn::ScalableTag<float> d;
  const auto lanes = int64_t(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(load(d, p + i), d, out + i);
  HWY_ALIGN float rest[hn::MaxLanes(hn::ScalableTag<float>())];
  hn::Store(load_n(d, p + i, size_t(n - i)), d, rest);
  std::memcpy(out + i, rest, size_t(n - i) * sizeof *out);
  for (int64_t j = n - i; j < lanes; ++j)
    if (rest[j] != 0) out[0] = std::numeric_limits<float>::quiet_NaN();  // not zero past n
}

template <class T>
void store_all(const float* p, T* out, int64_t n) {
  const hn::ScalableTag<float> d;
  const auto lanes = int64_t(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(d, hn::LoadU(d, p + i), out + i);
  store_n(d, load_n(d, p + i, size_t(n - i)), out + i, size_t(n - i));
}

#define KVOPS_TEST_TYPES(X) \
  X(float) X(f16) X(bf16) X(f8_e4m3) X(f8_e5m2) X(f8_e4m3fnuz) X(f8_e5m2fnuz)
#define KVOPS_TEST_INSTANCE(T)                          \
  template void load_all<T>(const T*, float*, int64_t); \
  template void store_all<T>(const float*, T*, int64_t);
KVOPS_TEST_TYPES(KVOPS_TEST_INSTANCE)

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {

template <class T>
void (*loader(Isa isa))(const T*, float*, int64_t) {
  constexpr decltype(&N_EMU128::load_all<T>) all[] = {N_EMU128::load_all<T>, N_SSE4::load_all<T>,
                                                      N_AVX2::load_all<T>, N_AVX3::load_all<T>};
  return all[int(isa)];
}
template <class T>
void (*storer(Isa isa))(const float*, T*, int64_t) {
  constexpr decltype(&N_EMU128::store_all<T>) all[] = {N_EMU128::store_all<T>, N_SSE4::store_all<T>,
                                                       N_AVX2::store_all<T>, N_AVX3::store_all<T>};
  return all[int(isa)];
}

namespace {

// What a format is. codes: how many codes without sign are finite numbers.
struct Format {
  int mantissa, bias, codes, bits;
  bool saturates, fnuz;
  uint32_t nan_code;
};
template <class T>
constexpr Format kFormat = {};
template <>
constexpr Format kFormat<f16> = {10, 15, 0x7C00, 16, false, false, 0};
template <>
constexpr Format kFormat<bf16> = {7, 127, 0x7F80, 16, false, false, 0};
template <>
constexpr Format kFormat<f8_e4m3> = {3, 7, 0x7F, 8, true, false, 0x7F};
template <>
constexpr Format kFormat<f8_e5m2> = {2, 15, 0x7C, 8, true, false, 0x7F};
template <>
constexpr Format kFormat<f8_e4m3fnuz> = {3, 8, 0x80, 8, true, true, 0x80};
template <>
constexpr Format kFormat<f8_e5m2fnuz> = {2, 16, 0x80, 8, true, true, 0x80};

double value_of(const Format& f, int code) {
  int exponent = code >> f.mantissa, fraction = code & ((1 << f.mantissa) - 1);
  return exponent ? std::ldexp((1 << f.mantissa) + fraction, exponent - f.bias - f.mantissa)
                  : std::ldexp(fraction, 1 - f.bias - f.mantissa);
}

// The code of the nearest value, of two the even one; past the last half step: see saturates.
uint32_t nearest(const Format& f, double x) {
  if (std::isnan(x) || (f.fnuz && std::isinf(x))) return f.nan_code;
  const uint32_t sign = std::signbit(x) ? 1u << (f.bits - 1) : 0;
  x = std::fabs(x);
  int low = 0, high = f.codes;  // value(low) <= x < value(high), as far as there are values
  while (high - low > 1) (value_of(f, (low + high) / 2) <= x ? low : high) = (low + high) / 2;
  const double down = x - value_of(f, low), up = value_of(f, low + 1) - x;
  int code = down < up || (down == up && low % 2 == 0) ? low : low + 1;
  if (code == f.codes && f.saturates) --code;
  return f.fnuz && code == 0 ? 0 : uint32_t(code) | sign;
}

template <class T>
bool same(T seen, uint32_t expected, float x) {
  if constexpr (!kFormat<T>.saturates)
    if (std::isnan(x)) return std::isnan(to_float(seen)) && (seen.bits >> 15) == std::signbit(x);
  return seen.bits == expected;
}

// Every f16 and bf16 as f32, both sides of every step of T, and values that go wrong easily.
template <class T>
std::vector<float> inputs() {
  std::vector<float> v;
  for (uint32_t i = 0; i < 0x10000; ++i) {
    v.push_back(to_float(f16{uint16_t(i)}));
    v.push_back(to_float(bf16{uint16_t(i)}));
  }
  for (int code = 0; code < kFormat<T>.codes; ++code) {
    const double step = (value_of(kFormat<T>, code) + value_of(kFormat<T>, code + 1)) / 2;
    for (float x : {float(step), std::nextafter(float(step), 0.0f),
                    std::nextafter(float(step), std::numeric_limits<float>::infinity())})
      v.insert(v.end(), {x, -x});
  }
  for (uint32_t bits : {0x00000001u, 0x007FFFFFu, 0x00800000u, 0x7F7FFFFFu, 0x7F800000u,
                        0x7F800001u, 0x7FBFFFFFu, 0x7FC00000u, 0x7FFFFFFFu})
    v.insert(v.end(), {std::bit_cast<float>(bits), std::bit_cast<float>(bits | kSign)});
  return v;
}

// The reference decodes independently of to_float.
template <class T>
double decoded(uint32_t bits) {
  const Format& f = kFormat<T>;
  const int magnitude = int(bits & ((1u << (f.bits - 1)) - 1));
  const bool negative = bits >> (f.bits - 1);
  if (f.fnuz ? bits == f.nan_code : magnitude >= f.codes) {
    const int infinity = f.bits == 16 || f.mantissa == 2 ? f.codes : -1;
    if (f.fnuz || magnitude != infinity) return std::numeric_limits<double>::quiet_NaN();
    return negative ? -HUGE_VAL : HUGE_VAL;
  }
  return negative ? -value_of(f, magnitude) : value_of(f, magnitude);
}

bool same_number(float seen, double expected) {
  if (std::isnan(expected)) return std::isnan(seen);
  return seen == expected && std::signbit(seen) == std::signbit(expected);
}

}  // namespace

#define KVOPS_NARROW_TYPES f16, bf16, f8_e4m3, f8_e5m2, f8_e4m3fnuz, f8_e5m2fnuz

TEMPLATE_TEST_CASE("convert: every code has its value on every target", "[convert]",
                   KVOPS_NARROW_TYPES) {
  using T = TestType;
  using U = decltype(T::bits);
  std::vector<T> codes(size_t{1} << kFormat<T>.bits);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = {U(i)};
  std::vector<double> expected(codes.size());
  int wrong = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    expected[i] = decoded<T>(uint32_t(i));
    wrong += !same_number(to_float(codes[i]), expected[i]);
  }
  CHECK(wrong == 0);
  for (Isa isa : usable_isas()) {
    std::vector<float> seen(codes.size());
    loader<T>(isa)(codes.data(), seen.data(), int64_t(codes.size()));
    for (size_t i = 0; i < codes.size(); ++i)
      wrong += std::bit_cast<uint32_t>(seen[i]) != std::bit_cast<uint32_t>(to_float(codes[i]));
    CAPTURE(int(isa));
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("convert: rounds to the nearest code on every target", "[convert]",
                   KVOPS_NARROW_TYPES) {
  using T = TestType;
  const std::vector<float> v = inputs<T>();
  std::vector<T> scalar(v.size());
  int wrong = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    scalar[i] = from_float<T>(v[i]);
    if (same(scalar[i], nearest(kFormat<T>, v[i]), v[i])) continue;
    if (!wrong++) UNSCOPED_INFO("first at " << v[i] << ": " << scalar[i].bits);
  }
  CHECK(wrong == 0);
  for (Isa isa : usable_isas()) {
    std::vector<T> seen(v.size());
    storer<T>(isa)(v.data(), seen.data(), int64_t(v.size()));
    for (size_t i = 0; i < v.size(); ++i)
      if (seen[i].bits != scalar[i].bits && !wrong++)
        UNSCOPED_INFO("first at " << std::hex << std::bit_cast<uint32_t>(v[i]) << ": "
                                  << seen[i].bits << ", expected " << scalar[i].bits);
    CAPTURE(int(isa));
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("convert: short loads and stores stay inside", "[convert]", float,
                   KVOPS_NARROW_TYPES) {
  using T = TestType;
  for (Isa isa : usable_isas()) {
    for (int64_t n = 0; n <= 40; ++n) {
      // Blocks of exactly n elements: a sanitizer sees every byte beyond; the guards see writes.
      std::vector<float> numbers(size_t(n), 1.5f);
      std::vector<T> stored(size_t(n) + 2, from_float<T>(-2.0f));
      storer<T>(isa)(numbers.data(), stored.data() + 1, n);
      CHECK(to_float(stored[0]) == -2);
      CHECK(to_float(stored[size_t(n) + 1]) == -2);
      std::vector<T> exact(stored.begin() + 1, stored.end() - 1);
      std::vector<float> back(size_t(n) + 1, 7.0f);
      loader<T>(isa)(exact.data(), back.data(), n);
      if (n)
        CHECK(back == [&] {
          auto v = numbers;
          v.push_back(7.0f);
          return v;
        }());
    }
  }
}

TEST_CASE("convert: golden fp8 vectors", "[convert]") {
  // bf16 input, divided by 0.1f; the bytes of e4m3, e5m2 and e4m3fnuz.
  struct Vector {
    uint16_t bf16_bits;
    uint8_t e4m3, e5m2, fnuz;
  };
  constexpr Vector kVectors[] = {
      {0x0000, 0x00, 0x00, 0x00}, {0x8000, 0x80, 0x80, 0x00}, {0x3F80, 0x52, 0x49, 0x5A},
      {0xBF80, 0xD2, 0xC9, 0xDA}, {0x3E9A, 0x44, 0x42, 0x4C}, {0x4049, 0x60, 0x50, 0x68},
      {0xC02E, 0xDE, 0xCF, 0xE6}, {0x3A83, 0x05, 0x21, 0x0A}, {0x3B40, 0x0F, 0x28, 0x17},
      {0x3F88, 0x53, 0x49, 0x5B}, {0x3F98, 0x54, 0x4A, 0x5C}, {0x42C8, 0x7E, 0x64, 0x7F},
      {0x7F80, 0x7E, 0x7B, 0x80}, {0xFF80, 0xFE, 0xFB, 0x80}, {0x7FC0, 0x7F, 0x7F, 0x80}};
  for (const Vector& v : kVectors) {
    CAPTURE(v.bf16_bits);
    const float y = to_float(bf16{v.bf16_bits}) / 0.1f;
    CHECK(from_float<f8_e4m3>(y).bits == v.e4m3);
    CHECK(from_float<f8_e5m2>(y).bits == v.e5m2);
    CHECK(from_float<f8_e4m3fnuz>(y).bits == v.fnuz);
  }
  CHECK(from_float<f8_e4m3>(1.0625f).bits == 0x38);
  CHECK(from_float<f8_e4m3>(1.1875f).bits == 0x3A);
  CHECK(from_float<f8_e4m3>(0.0009765625f).bits == 0x00);
  CHECK(from_float<f8_e4m3>(0.000999451f).bits == 0x01);
  CHECK(from_float<f8_e4m3>(464.0f).bits == 0x7E);
}

}  // namespace kvops::cpu
#endif
