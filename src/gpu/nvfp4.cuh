// A group of NVFP4 as core/nvfp4.h makes it with four-over-six off, and the same bytes by cheaper
// means.
//
// With v = RN(|x| w), sat(t) = min(max(t, 0), 1) and RNE to integers, a code without its sign is
//
//   RNE(4 sat(v / 2) + 2 sat(v / 2 - 1) + sat(v / 2 - 2))
//
// 2 v up to 2, v + 2 up to 4, v / 2 + 4 up to 6: a line for each spacing of e2m1. Every term but
// the last one that is not 0 is an integer, so that sums beside 2^23 round once. Groups with NaN,
// infinite elements or a factor that is not a finite positive number are made the long way.
#pragma once
#include "core/nvfp4.h"
#include "gpu/vec.cuh"

namespace kvops::gpu {

struct Nvfp4Scale {
  float inverse, back;  // RN(1 / k_scale), RN(1 / inverse)
  __device__ explicit Nvfp4Scale(float scale)
      : inverse(div_rn(1, scale)), back(div_rn(1, inverse)) {}
};

__device__ inline float saturate(float x) {
#if defined(__HIP__)
  return fminf(fmaxf(x, 0.0f), 1.0f);
#else
  return __saturatef(x);
#endif
}

__device__ inline float reciprocal(float x) {
#if defined(__HIP__)
  return div_rn(1, x);
#else
  return __frcp_rn(x);
#endif
}

// Of two unsigned halves each.
__device__ inline uint32_t larger_halves(uint32_t x, uint32_t y) {
#if defined(__HIP__)
  uint32_t low = (x & 0xFFFF) > (y & 0xFFFF) ? x : y, high = x >> 16 > y >> 16 ? x : y;
  return (low & 0xFFFF) | (high & 0xFFFF0000u);
#else
  return __vmaxu2(x, y);
#endif
}

// Codes of x[i..i+8) without their signs, element i in the lowest nibble.
template <class T>
__device__ inline uint32_t nvfp4_numbers(const Group<T, 16>& x, int i, float w) {
  constexpr uint32_t kTwo23 = 0x4B000000u;
  uint32_t codes = 0;
#pragma unroll
  for (int k = 7; k >= 0; --k) {
    float v = mul_rn(magnitude(x.number(i + k)), w);
    float r = fmaf(saturate(v * 0.5f), 4.0f, bits_float(kTwo23));
    r = fmaf(saturate(fmaf(v, 0.5f, -1.0f)), 2.0f, r);
    codes = codes * 16 + float_bits(add_rn(r, saturate(fmaf(v, 0.5f, -2.0f))));
  }
  return codes - kTwo23 * 0x11111111u;
}

// Signs of x[i..i+8) as the uppermost bits of nibbles.
template <class T>
__device__ inline uint32_t nvfp4_signs(const Group<T, 16>& x, int i) {
  const uint32_t* w = x.word + i / 2;
  uint32_t even = __byte_perm(__byte_perm(w[0], w[1], 0x51), __byte_perm(w[2], w[3], 0x51), 0x5410);
  uint32_t odd = __byte_perm(__byte_perm(w[0], w[1], 0x73), __byte_perm(w[2], w[3], 0x73), 0x5410);
  return (even >> 4 & 0x08080808u) | (odd & 0x80808080u);
}

// Once for a kernel, however often its loops are unrolled.
template <class T>
static __device__ __noinline__ Nvfp4Group nvfp4_unusual(Group<T, 16> x, float inverse) {
  float numbers[16];
#pragma unroll
  for (int k = 0; k < 16; ++k) numbers[k] = x.number(k);
  return nvfp4_quantise(numbers, inverse, false);
}

template <class T>
__device__ inline Nvfp4Group nvfp4_group(const Group<T, 16>& x, const Nvfp4Scale& scale) {
  static_assert(sizeof(T) == 2);
  constexpr uint32_t kInfinite = __is_same(T, bf16) ? 0x7F80 : 0x7C00;
  uint32_t most = x.word[0] & 0x7FFF7FFFu;
#pragma unroll
  for (int i = 1; i < 8; ++i) most = larger_halves(most, x.word[i] & 0x7FFF7FFFu);
  most = (most & 0xFFFF) > most >> 16 ? most & 0xFFFF : most >> 16;
  float amax = to_float(T{uint16_t(most)});
  Nvfp4Group group;
  float y = mul_rn(scale.inverse, mul_rn(amax, bits_float(kSixthBits)));
  group.scale = f8_e4m3{uint8_t(encode_pair<f8_e4m3>(y, 0.0f))};
  float s = decode_quick<f8_e4m3>(group.scale.bits);
  float w = s == 0 ? 0.0f : reciprocal(mul_rn(s, scale.back));
  if (__builtin_expect(most < kInfinite && float_bits(w) < 0x7F800000u, 1)) {
#pragma unroll
    for (int i = 0; i < 2; ++i) group.codes[i] = nvfp4_numbers(x, 8 * i, w) | nvfp4_signs(x, 8 * i);
    return group;
  }
  return nvfp4_unusual(x, scale.inverse);
}

}  // namespace kvops::gpu
