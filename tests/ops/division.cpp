// The quotient of gpu/numeric.cuh and cpu/cache_row-inl.h: x * RN(1 / scale), corrected once by its
// exact remainder, is the IEEE quotient for every x of up to 11 significant bits and every scale.
// Powers of two change nothing but exponents: x and scale in [1, 2) are all there is to try.
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

int64_t wrong_quotients_of(int mantissa_bits, int step) {
  int64_t wrong = 0;
  for (int m = 0; m < 1 << mantissa_bits; m += step)
    wrong += wrong_quotients(1.0f + std::ldexp(float(m), -mantissa_bits));
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

TEST_CASE("gpu division: every bf16 by every scale") {
  if (!__builtin_cpu_supports("fma")) return;  // it would take minutes
  CHECK(wrong_quotients_of(7, 1) == 0);
}

TEST_CASE("gpu division: every f16 by every scale", "[slow]") {
  if (!__builtin_cpu_supports("fma")) return;
  CHECK(wrong_quotients_of(10, 1) == 0);
}
