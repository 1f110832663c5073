// Groups of 16 e2m1 codes with the bytes of core/numeric.h and core/nvfp4.h by cheaper means, and
// of NVFP4 with four-over-six off.
//
// With v = RN(|x| w), a code without its sign is the least of
//
//   RNE(2 v)  RNE(v + 2)  RNE(v / 2 + 4)  7
//
// a line for each spacing of e2m1. In units of the smallest f32, sums round to whole ones, which
// are their own bits. Groups with NaN, infinite elements or a factor out of range are made the long
// way.
#pragma once
#include "core/nvfp4.h"
#include "gpu/vec.cuh"

namespace kvops::gpu {

struct Nvfp4Scale {
  float inverse, back;  // RN(1 / k_scale), RN(1 / inverse)
  __device__ explicit Nvfp4Scale(float scale)
      : inverse(reciprocal(scale)), back(reciprocal(inverse)) {}
};

__device__ inline float saturate(float x) {
#if defined(__HIP__)
  return fminf(fmaxf(x, 0.0f), 1.0f);
#else
  return __saturatef(x);
#endif
}

__device__ inline int least_of(int x, int y, int z) {
#if defined(__HIP__)
  return min(min(x, y), z);
#else
  return __vimin3_s32(x, y, z);
#endif
}

// Codes of x[i..i+8) * w without their signs, element i in the lowest nibble; eighth = w / 8 is not
// subnormal. Up to v = 8, so that the last line ends at 8, which is one too many.
template <class T>
__device__ inline uint32_t e2m1_numbers(const Group<T, 16>& x, int i, float eighth) {
  uint32_t codes = 0;
#pragma unroll
  for (int k = 7; k >= 0; --k) {
    float u = saturate(mul_rn(fabsf(x.number(i + k)), eighth));
    int code = least_of(__float_as_int(mul_rn(u, bits_float(16))),
                        __float_as_int(fmaf(u, bits_float(8), bits_float(2))),
                        __float_as_int(fmaf(u, bits_float(4), bits_float(4))));
    codes = codes * 16 + uint32_t(code);
  }
  return codes - (codes >> 3 & 0x11111111u);
}

// Signs of x[i..i+8) as the uppermost bits of nibbles.
template <class T>
__device__ inline uint32_t e2m1_signs(const Group<T, 16>& x, int i) {
  const uint32_t* w = x.word + i / 2;
  uint32_t even = __byte_perm(__byte_perm(w[0], w[1], 0x51), __byte_perm(w[2], w[3], 0x51), 0x5410);
  uint32_t odd = __byte_perm(__byte_perm(w[0], w[1], 0x73), __byte_perm(w[2], w[3], 0x73), 0x5410);
  return (even >> 4 & 0x08080808u) | (odd & 0x80808080u);
}

// All 16 codes; w in [2^-123, inf) or 0.
template <class T>
__device__ inline void e2m1_codes(const Group<T, 16>& x, float w, uint32_t (&codes)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) codes[i] = e2m1_numbers(x, 8 * i, w * 0.125f) | e2m1_signs(x, 8 * i);
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
  uint32_t most = largest_bits(x);
  Nvfp4Group group;
  float y = mul_rn(scale.inverse, mul_rn(to_float(T{uint16_t(most)}), bits_float(kSixthBits)));
  group.scale = f8_e4m3{uint8_t(encode_pair<f8_e4m3>(y, 0.0f))};
  float s = decode_pair<f8_e4m3>(group.scale.bits).a;
  float w = s == 0 ? 0.0f : reciprocal(mul_rn(s, scale.back));
  bool usual = most < kInfinite<T> && (s == 0 || (w >= 0x1p-123f && w <= 0x1.FFFFFEp127f));
  if (__builtin_expect(!usual, 0)) return nvfp4_unusual(x, scale.inverse);
  e2m1_codes(x, w, group.codes);
  return group;
}

}  // namespace kvops::gpu
