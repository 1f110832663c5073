// Storage types to float and back, on the device. Every conversion rounds once, to nearest even;
// fp8 saturates as core/numeric.h says, with the conversion instruction where there is one: its
// bytes are the same.
#pragma once
#include "core/numeric.h"
#include "gpu/device.cuh"
#if !defined(__HIP__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#endif

namespace kvops::gpu {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return bits_float(uint32_t(x.bits) << 16); }
__device__ inline float to_float(f16 x) {
#if defined(__HIP__)
  return float(__builtin_bit_cast(_Float16, x.bits));
#else
  return __half2float(__ushort_as_half(x.bits));
#endif
}

template <class T>
__device__ inline T from_float(float x) {
  return encode<T>(x);
}
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline f16 from_float<f16>(float x) {
#if defined(__HIP__)
  return {__builtin_bit_cast(uint16_t, _Float16(x))};
#else
  return {__half_as_ushort(__float2half_rn(x))};
#endif
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
#if defined(__HIP__)
  uint32_t bits = float_bits(x);
  if (is_nan(x)) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
#else
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#endif
}

// Within one unit in the last place.
__device__ inline float reciprocal_sqrt(float x) {
#if defined(__HIP__)
  return 1.0f / sqrtf(x);
#else
  return __frsqrt_rn(x);
#endif
}

// Two 16-bit elements in a word, the first one in its low half.
template <class T>
__device__ inline uint32_t from_pair(float x, float y) {
#if !defined(__HIP__)
  if constexpr (__is_same(T, bf16)) {
    auto pair = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<uint32_t*>(&pair);
  } else {
    auto pair = __floats2half2_rn(x, y);
    return *reinterpret_cast<uint32_t*>(&pair);
  }
#else
  return from_float<T>(x).bits | uint32_t(from_float<T>(y).bits) << 16;
#endif
}

// Two codes at once, the first one in the low byte.
template <class F>
__device__ inline uint16_t encode_pair(float x, float y) {
  return uint16_t(encode<F>(x).bits | encode<F>(y).bits << 8);
}
#if !defined(__HIP__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
template <>
__device__ inline uint16_t encode_pair<f8_e4m3>(float x, float y) {
  return __nv_cvt_float2_to_fp8x2(float2{x, y}, __NV_SATFINITE, __NV_E4M3);
}
template <>
__device__ inline uint16_t encode_pair<f8_e5m2>(float x, float y) {
  return __nv_cvt_float2_to_fp8x2(float2{x, y}, __NV_SATFINITE, __NV_E5M2);
}
#endif

// x / scale for one scale and many x of type T, where the quotient is going to be an fp8 code.
// quick(x) has the bits of the IEEE quotient where that is in [2^-20, 2^20), else a value of the
// same sign that has the same code: zero or the largest. A correction of x * RN(1 / scale) by its
// exact remainder gives the rounded quotient for every x of at most 13 bits and every scale
// (tests/ops/division.cpp); longer x take a second one (Markstein). Remainders are exact as long as
// they are not subnormal, hence the range of scales; for others `divides` is set.
template <class T>
struct Divider {
  float scale, inverse;
  bool divides;

  __device__ explicit Divider(float s) : scale(s), inverse(div_rn(1, s)) {
    divides = !(s >= 0x1p-60f && s <= 0x1p60f);
  }
  __device__ float quick(float x) const {
    float rough = mul_rn(x, inverse), m = magnitude(rough);
    float q = fmaf(fmaf(-rough, scale, x), inverse, rough);
    if (sizeof(T) > 2) q = fmaf(fmaf(-q, scale, x), inverse, q);
    return m >= 0x1p-20f && m < 0x1p20f ? q : rough;  // NaN: rough
  }
};

}  // namespace kvops::gpu
