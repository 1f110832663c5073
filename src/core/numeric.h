// Numbers narrower than 16 bits, for host and device: fp8 and e2m1 codes, and the roundings that
// must give the same bytes on every back end.
//
//   encode<F>(y)   round half to even, subnormals kept; |y| above the largest finite value gives
//                  that value with the sign of y. OCP formats: so does Inf, NaN gives 0x7F, -0
//                  stays. fnuz formats: Inf and NaN give 0x80, zero has no sign.
//   quantise       encode(RN(x / scale)): a division; x * (1 / scale) gives some other codes
#pragma once
#include "core/dtype.h"
#include "core/view.h"

namespace kvops {

// What the arithmetic below relies on: products and sums rounded one by one, never contracted.
#if defined(__CUDA_ARCH__)
KVOPS_HD inline float mul_rn(float a, float b) { return __fmul_rn(a, b); }
KVOPS_HD inline float add_rn(float a, float b) { return __fadd_rn(a, b); }
KVOPS_HD inline float div_rn(float a, float b) { return __fdiv_rn(a, b); }
#elif defined(__clang__)
KVOPS_HD inline float mul_rn(float a, float b) {
#pragma clang fp contract(off)
  return a * b;
}
KVOPS_HD inline float add_rn(float a, float b) {
#pragma clang fp contract(off)
  return a + b;
}
KVOPS_HD inline float div_rn(float a, float b) { return a / b; }
#else  // the project is compiled with -ffp-contract=off
KVOPS_HD inline float mul_rn(float a, float b) { return a * b; }
KVOPS_HD inline float add_rn(float a, float b) { return a + b; }
KVOPS_HD inline float div_rn(float a, float b) { return a / b; }
#endif

KVOPS_HD constexpr uint32_t float_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
KVOPS_HD constexpr float bits_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
KVOPS_HD constexpr float magnitude(float x) { return bits_float(float_bits(x) & 0x7FFFFFFFu); }
KVOPS_HD constexpr bool is_nan(float x) { return (float_bits(x) & 0x7FFFFFFFu) > 0x7F800000u; }

// ---- fp8 ----------------------------------------------------------------------------------------

template <int Mantissa, int Bias, int MaxCode, int NanCode>
struct Fp8Format {
  static constexpr int kMantissa = Mantissa, kBias = Bias;
  static constexpr uint8_t kMax = MaxCode, kNan = NanCode;
  static constexpr bool kFnuz = NanCode == 0x80;
  // The codes of normal numbers are bits of an f32, shifted and rebased.
  static constexpr int kShift = 23 - Mantissa;
  static constexpr uint32_t kRebase = uint32_t(127 - Bias) << Mantissa;
  static constexpr uint32_t kMaxBits = (MaxCode + kRebase) << kShift;
  static constexpr uint32_t kMinNormalBits = uint32_t(128 - Bias) << 23;
  // An f32 whose unit in the last place is the smallest subnormal, 2^(1 - Bias - Mantissa).
  static constexpr uint32_t kMagicBits = uint32_t(127 + 23 + 1 - Bias - Mantissa) << 23;
  static constexpr uint32_t kUnitBits = uint32_t(127 + 1 - Bias - Mantissa) << 23;
};
template <class F>
struct Fp8Traits;
template <>
struct Fp8Traits<f8_e4m3> : Fp8Format<3, 7, 0x7E, 0x7F> {};
template <>
struct Fp8Traits<f8_e5m2> : Fp8Format<2, 15, 0x7B, 0x7F> {};
template <>
struct Fp8Traits<f8_e4m3fnuz> : Fp8Format<3, 8, 0x7F, 0x80> {};
template <>
struct Fp8Traits<f8_e5m2fnuz> : Fp8Format<2, 16, 0x7F, 0x80> {};

template <class F>
KVOPS_HD constexpr F encode(float y) {
  using Format = Fp8Traits<F>;
  uint32_t bits = float_bits(y), m = bits & 0x7FFFFFFFu, code = 0;
  uint32_t sign = bits >> 24 & 0x80u;
  if (m > 0x7F800000u || (Format::kFnuz && m == 0x7F800000u)) return F{Format::kNan};
  if (m >= Format::kMaxBits) return F{uint8_t(sign | Format::kMax)};
  if (m >= Format::kMinNormalBits) {
    uint32_t half = (1u << (Format::kShift - 1)) - 1 + (m >> Format::kShift & 1);
    code = ((m + half) >> Format::kShift) - Format::kRebase;
  } else {  // the addition rounds to a multiple of the smallest subnormal
    code = float_bits(bits_float(m) + bits_float(Format::kMagicBits)) - Format::kMagicBits;
  }
  if (Format::kFnuz && !code) return F{0};
  return F{uint8_t(sign | code)};
}

template <class F>
KVOPS_HD constexpr float decode(F c) {
  using Format = Fp8Traits<F>;
  uint32_t m = c.bits & 0x7Fu, sign = (c.bits & 0x80u) << 24;
  constexpr float kNan = bits_float(0x7FC00000u);
  if (Format::kFnuz ? c.bits == 0x80 : m > Format::kMax) {
    bool infinite = Format::kMax == 0x7B && m == 0x7C;
    return infinite ? bits_float(sign | 0x7F800000u) : kNan;
  }
  if (m >> Format::kMantissa) return bits_float(sign | (m + Format::kRebase) << Format::kShift);
  return bits_float(sign | float_bits(float(m) * bits_float(Format::kUnitBits)));
}

template <class F>
KVOPS_HD inline F quantise(float x, float scale) {
  return encode<F>(div_rn(x, scale));
}

// ---- e2m1 ---------------------------------------------------------------------------------------

// 0, 0.5, 1, 1.5, 2, 3, 4, 6, and 8 for the sign. Half to even on the code, saturating; any NaN: 7.
KVOPS_HD constexpr uint8_t encode_e2m1(float y) {
  float m = magnitude(y);
  if (is_nan(y)) return 7;
  int code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) +
             (m > 5.0f);
  return uint8_t(uint32_t(code) | (float_bits(y) >> 28 & 8u));
}
KVOPS_HD constexpr float decode_e2m1(uint32_t code) {
  uint32_t m = code & 7;
  // From 1 on, the code is exponent and mantissa: 2 = 1.0, 3 = 1.5, 4 = 2.0.
  uint32_t bits = m >= 2 ? (m + 252) << 22 : m ? 0x3F000000u : 0;
  return bits_float(bits | (code & 8) << 28);
}

// ---- scales -------------------------------------------------------------------------------------

// The least power of two that is not below v; v is positive and normal, or Inf.
KVOPS_HD constexpr float pow2_ceil(float v) {
  return bits_float((float_bits(v) + 0x007FFFFFu) & 0xFF800000u);
}

// The larger one; NaN only if both are.
KVOPS_HD constexpr float max_number(float a, float b) { return is_nan(a) || b > a ? b : a; }

// FP8_DS_MLA: the scale of 128 elements whose largest magnitude is amax. 224 leaves fnuz headroom.
KVOPS_HD inline float ds_mla_scale(float amax, bool fnuz, bool pow2) {
  float ratio = div_rn(amax, fnuz ? 224.0f : 448.0f);
  if (pow2) return pow2_ceil(ratio > 1e-4f ? ratio : 1e-4f);
  return ratio > 0x1p-126f ? ratio : 0x1p-126f;
}

// NVFP4_DS_MLA: the scale of 16 elements, rounded up so that no element saturates.
KVOPS_HD constexpr f8_e4m3 nvfp4_ds_mla_scale(float amax) {
  float least = amax / 6.0f;
  if (!(least > 0x1p-9f)) least = 0x1p-9f;
  f8_e4m3 code = encode<f8_e4m3>(least);
  if (decode(code) < least && code.bits < 0x7E) ++code.bits;
  return code;
}

}  // namespace kvops
