// The quotient of cpu/cache_row-inl.h: x * RN(1 / scale), corrected once by its exact remainder, is
// the IEEE quotient for every x of up to 11 significant bits and every scale. That of
// gpu/numeric.cuh, x * inverse + x * rest, nearly always is, and has its fp8 code. Powers of two
// change nothing but exponents: x and scale in [1, 2) are all there is to try.
//
// And the rounded product of cpu/concat_and_cache_mla_rope_fused.cpp: RN(65537 c x) - 65536 c x is
// c x rounded to bf16.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/convert.h"

namespace {

// Scales whose corrected quotient of x is not RN(x / scale).
__attribute__((target("avx2,fma"))) int64_t wrong_quotients(float x) {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 1u << 23; ++i) {
    uint32_t bits = 0x3F800000u | i;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    float inverse = 1.0f / scale, rough = x * inverse;
    float q = __builtin_fmaf(__builtin_fmaf(-rough, scale, x), inverse, rough);
    wrong += q != x / scale;
  }
  return wrong;
}

// Scales whose x * inverse + x * rest has another fp8 code than RN(x / scale): with up to 4
// significant bits of a normal number, fewer of a subnormal one. The sum with 1.5 * 2^(23 - k)
// rounds to multiples of 2^-k.
__attribute__((target("avx2,fma"))) int64_t wrong_codes(float x) {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 1u << 23; ++i) {
    uint32_t bits = 0x3F800000u | i;
    float scale, inverse;
    std::memcpy(&scale, &bits, sizeof scale);
    float rounded = 1.0f / scale;
    std::memcpy(&bits, &rounded, sizeof bits);
    --bits;
    std::memcpy(&inverse, &bits, sizeof inverse);
    float rest = __builtin_fmaf(-inverse, scale, 1.0f) * rounded;
    float q = __builtin_fmaf(x, inverse, x * rest), exact = x / scale;
    int differs = rest <= 0;
    for (int k = 0; k <= 4; ++k) {  // quotients are in (0.5, 2)
      float to_multiples = 0x1.8p23f / float(1 << k);
      differs |= int(q + to_multiples != exact + to_multiples);
    }
    wrong += differs;
  }
  return wrong;
}

template <class F>
int64_t of_all(F&& wrong_of, int mantissa_bits) {
  int64_t wrong = 0;
  for (int m = 0; m < 1 << mantissa_bits; ++m)
    wrong += wrong_of(1.0f + std::ldexp(float(m), -mantissa_bits));
  return wrong;
}

// Products of all mantissas, with these exponents, that are not those of from_float<bf16>().
__attribute__((target("avx2,fma"))) int64_t wrong_products(int x_exponent, int c_exponent) {
  int64_t wrong = 0;
  for (int i = 0; i < 1 << 16; ++i) {
    const float x = std::ldexp(float(128 + i % 128), x_exponent - 7) * (i & 0x4000 ? -1.0f : 1.0f);
    const float c =
        std::ldexp(float(128 + i / 128 % 128), c_exponent - 7) * (i >> 15 ? -1.0f : 1.0f);
    const float q = __builtin_fmaf(-x, 65536.0f * c, x * (65537.0f * c));
    wrong += q != kvops::cpu::to_float(kvops::cpu::from_float<kvops::bf16>(x * c));
  }
  return wrong;
}

}  // namespace

TEST_CASE("rope: the rounded product of two bf16 by FMA, in all its range") {
  if (!__builtin_cpu_supports("fma")) return;
  for (auto [x, c] : {std::pair{0, 0}, {-62, -62}, {54, 54}, {54, -62}, {-62, 54}, {3, -9}})
    CHECK(wrong_products(x, c) == 0);
}

TEST_CASE("division: every bf16 by every scale") {
  if (!__builtin_cpu_supports("fma")) return;  // it would take minutes
  CHECK(of_all(wrong_quotients, 7) == 0);
  CHECK(of_all(wrong_codes, 7) == 0);
}

TEST_CASE("division: every f16 by every scale", "[slow]") {
  if (!__builtin_cpu_supports("fma")) return;
  CHECK(of_all(wrong_quotients, 10) == 0);
  CHECK(of_all(wrong_codes, 10) == 0);
}
