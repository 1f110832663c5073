// The quotient of gpu/numeric.cuh, on the CPU: x * RN(1 / scale), corrected once by its exact
// remainder, is the IEEE quotient for every x of up to 11 significant bits and every scale. Powers
// of two change nothing but exponents, so that x and scale in [1, 2) are all there is to try.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>

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

}  // namespace

TEST_CASE("gpu division: every bf16 by every scale") {
  if (!__builtin_cpu_supports("fma")) return;  // it would take minutes
  CHECK(wrong_quotients_of(7, 1) == 0);
}

TEST_CASE("gpu division: every f16 by every scale", "[slow]") {
  if (!__builtin_cpu_supports("fma")) return;
  CHECK(wrong_quotients_of(10, 1) == 0);
}
