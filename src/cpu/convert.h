// One number at a time: to_float(T) and from_float<T>(float) for every storage type.
//
// To f16 and bf16: to nearest even, overflow to infinity, subnormals kept, NaN stays NaN (made
// quiet, sign and leading payload bits kept). To and from fp8: core/numeric.h. From any: exact.
// cpu/simd-inl.h does the same to vectors, bit for bit.
#pragma once
#include <bit>
#include <cstdint>

#include "core/dtype.h"
#include "core/numeric.h"

namespace kvops::cpu {

template <class T>
concept IsFp8 = requires {
  Fp8Traits<T>::kBias;
};

inline constexpr uint32_t kQuietNan = 0x7FC00000, kInfinity = 0x7F800000, kSign = 0x80000000;

constexpr float to_float(float x) { return x; }

constexpr float to_float(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }

constexpr float to_float(f16 x) {
  uint32_t sign = uint32_t(x.bits & 0x8000) << 16, u = uint32_t(x.bits & 0x7FFF) << 13;
  if (u >= 0x7C00 << 13) {  // infinity, NaN
    u += 224u << 23;
    if (u > kInfinity) u |= 0x00400000;
  } else if (u >= 0x0400 << 13) {
    u += 112u << 23;
  } else {  // 0.mantissa * 2^-14
    constexpr uint32_t least = 113u << 23;
    u = std::bit_cast<uint32_t>(std::bit_cast<float>(u + least) - std::bit_cast<float>(least));
  }
  return std::bit_cast<float>(u | sign);
}

template <IsFp8 T>
constexpr float to_float(T x) {
  return decode(x);
}

template <class T>
constexpr T from_float(float x);

template <>
constexpr float from_float<float>(float x) {
  return x;
}

template <>
constexpr bf16 from_float<bf16>(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & ~kSign) > kInfinity) return {uint16_t(u >> 16 | 0x0040)};
  return {uint16_t((u + 0x7FFF + (u >> 16 & 1)) >> 16)};
}

template <>
constexpr f16 from_float<f16>(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x), sign = u >> 16 & 0x8000, m = u & ~kSign, code;
  if (m > kInfinity) {
    code = 0x7E00 | (m >> 13 & 0x1FF);
  } else if (m >= 0x477FF000) {  // 65520 and more
    code = 0x7C00;
  } else if (m >= 113u << 23) {
    code = (m - (112u << 23) + 0xFFF + (m >> 13 & 1)) >> 13;
  } else {  // the sum with 2^-1 has its last place at 2^-24
    code = std::bit_cast<uint32_t>(std::bit_cast<float>(m) + 0.5f) - (126u << 23);
  }
  return {uint16_t(code | sign)};
}

template <IsFp8 T>
constexpr T from_float(float x) {
  return encode<T>(x);
}

}  // namespace kvops::cpu
