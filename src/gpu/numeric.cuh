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

// Sums and products of two 16-bit elements, rounded once. The same bits as RN_T of the f32 sum
// or product: 24 bits are enough to round twice (2 p + 2), but for products of bf16 that are
// subnormal, where this is the better one.
template <class T>
__device__ inline uint32_t add_pair(uint32_t x, uint32_t y) {
#if !defined(__HIP__)
  if constexpr (__is_same(T, bf16)) {
    auto z = __hadd2_rn(reinterpret_cast<__nv_bfloat162&>(x), reinterpret_cast<__nv_bfloat162&>(y));
    return reinterpret_cast<uint32_t&>(z);
  } else {
    auto z = __hadd2_rn(reinterpret_cast<__half2&>(x), reinterpret_cast<__half2&>(y));
    return reinterpret_cast<uint32_t&>(z);
  }
#else
  return from_pair<T>(to_float(T{uint16_t(x)}) + to_float(T{uint16_t(y)}),
                      to_float(T{uint16_t(x >> 16)}) + to_float(T{uint16_t(y >> 16)}));
#endif
}
template <class T>
__device__ inline uint32_t multiply_pair(uint32_t x, uint32_t y) {
#if !defined(__HIP__)
  if constexpr (__is_same(T, bf16)) {
    auto z = __hmul2_rn(reinterpret_cast<__nv_bfloat162&>(x), reinterpret_cast<__nv_bfloat162&>(y));
    return reinterpret_cast<uint32_t&>(z);
  } else {
    auto z = __hmul2_rn(reinterpret_cast<__half2&>(x), reinterpret_cast<__half2&>(y));
    return reinterpret_cast<uint32_t&>(z);
  }
#else
  return from_pair<T>(to_float(T{uint16_t(x)}) * to_float(T{uint16_t(y)}),
                      to_float(T{uint16_t(x >> 16)}) * to_float(T{uint16_t(y >> 16)}));
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

// The same back, exactly. An e5m2 code is the upper half of an f16; others are moved into the bits
// of an f32, whose exponent has another bias: a subnormal code becomes a subnormal.
struct Two {
  float a, b;
};
template <class F>
__device__ inline float decode_quick(uint32_t code) {
  using Format = Fp8Traits<F>;
  if constexpr (__is_same(F, f8_e5m2)) {
    return to_float(f16{uint16_t(code << 8)});
  } else {
    uint32_t m = code & 0x7F;
    float x = bits_float((code & 0x80) << 24 | m << Format::kShift) *
              bits_float(uint32_t(254 - Format::kBias) << 23);
    return (Format::kFnuz ? code == 0x80 : m == 0x7F) ? bits_float(0x7FC00000u) : x;
  }
}
template <class F>
__device__ inline Two decode_pair(uint32_t codes) {
  return {decode_quick<F>(codes & 0xFF), decode_quick<F>(codes >> 8 & 0xFF)};
}
#if !defined(__HIP__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
template <>
__device__ inline Two decode_pair<f8_e4m3>(uint32_t codes) {
  __half2 pair = __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t(codes), __NV_E4M3);
  return {__low2float(pair), __high2float(pair)};
}
#endif

// x / d for d >= 1, rounded as IEEE says. Quick: as long as `usual` stays true; else all is to be
// done again with Exact. The compiler's division goes a long way round for each zero and each small
// x, which real activations are full of. For x of type T one correction is enough where T has up to
// 13 bits (as in Divider), other x take a second one.
struct Exact {
  template <class T>
  __device__ float divide(float x, float d, T) {
    return x / d;
  }
};
struct Quick {
  bool usual = true;

  template <class T>
  __device__ float divide(float x, float d, T) {
#if defined(__HIP__)
    return x / d;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    r = fmaf(fmaf(-d, r, 1.0f), r, r);
    float q = mul_rn(x, r);
    q = fmaf(fmaf(-d, q, x), r, q);
    if constexpr (sizeof(T) > 2) q = fmaf(fmaf(-d, q, x), r, q);
    usual = usual && d < 0x1p100f && q == q;  // not so: huge d, NaN, infinite x
    return copysignf(q, x);                   // of zeros
#endif
  }
};

// The smaller, the larger one; NaN if x is. The limit is none.
__device__ inline float min_keep_nan(float x, float limit) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(limit));
  return x;
#else
  return x > limit ? limit : x;
#endif
}
__device__ inline float max_keep_nan(float x, float limit) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(limit));
  return x;
#else
  return x < limit ? limit : x;
#endif
}

// Correctly rounded.
__device__ inline float reciprocal(float x) {
#if defined(__HIP__)
  return div_rn(1, x);
#else
  return __frcp_rn(x);
#endif
}

// x / scale for one scale and many x of type T, where the quotient is going to be an fp8 code.
// quick(x) has the code of the IEEE quotient: the same bits, or on the same side of everything that
// fp8 rounds to and from, or so small or large that its code is zero or the largest. NaN and
// infinite x stay what they are, and so does the sign.
//
//   x of at most 11 bits   x inverse + x rest, rounded twice. inverse is below 1 / scale, so that
//                          rest, what is missing, is positive: tests/ops/division.cpp tries all.
//   longer x               x RN(1 / scale) corrected twice by its exact remainder (Markstein),
//                          which it is not, if subnormal: hence the range
//
// For scales out of [2^-60, 2^60] `divides` is set.
template <class T>
struct Divider {
  static constexpr bool kShort = sizeof(T) < 4;
  float scale, inverse, rest = 0;
  bool divides;

  __device__ explicit Divider(float s) : scale(s), inverse(reciprocal(s)) {
    divides = !(s >= 0x1p-60f && s <= 0x1p60f);
    if constexpr (kShort) {
      float rounded = inverse;
      inverse = bits_float(float_bits(rounded) - 1);
      rest = mul_rn(fmaf(-inverse, s, 1.0f), rounded);
    }
  }
  // Of a power of two times the quotients.
  __device__ Divider times(float power) const {
    Divider d = *this;
    d.scale /= power, d.inverse *= power, d.rest *= power;
    return d;
  }
  __device__ float quick(float x) const {
    if constexpr (kShort) return fmaf(x, inverse, mul_rn(x, rest));
    float rough = mul_rn(x, inverse), m = magnitude(rough);
    float q = fmaf(fmaf(-rough, scale, x), inverse, rough);
    q = fmaf(fmaf(-q, scale, x), inverse, q);
    return m >= 0x1p-20f && m < 0x1p20f ? q : rough;  // NaN: rough
  }
};

}  // namespace kvops::gpu
