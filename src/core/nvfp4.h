// NVFP4: 16 elements as e2m1 codes under one e4m3 scale, and where both stand in a page.
//
//   page of one side (K or V):  codes of all rows | scales of all rows
//   row of (o, h):              o * heads + h  (NHD)  or  h * block + o  (HND)
//   transposed scales:          tiles of 4 tokens x size/16 groups, turned: readers on sm_100
//
// Reciprocals are correctly rounded on every back end: a page has the same bytes everywhere.
#pragma once
#include "core/numeric.h"

namespace kvops {

struct Nvfp4Page {
  int64_t block, heads, groups;  // groups = size / 16
  bool hnd, transposed;

  KVOPS_HD int64_t row(int64_t o, int64_t h) const { return hnd ? h * block + o : o * heads + h; }
  // Byte offsets from the beginning of the page: of the 8 code bytes of group g, and of its scale.
  KVOPS_HD int64_t codes(int64_t o, int64_t h, int64_t g) const {
    return (row(o, h) * groups + g) * 8;
  }
  KVOPS_HD int64_t scale(int64_t o, int64_t h, int64_t g) const {
    if (transposed) {
      int64_t k = 4 * g + o % 4;
      o = o / 4 * 4 + k / groups, g = k % groups;
    }
    return block * heads * groups * 8 + row(o, h) * groups + g;
  }
};

// Page geometry of a cache [blocks, block, heads, 9 * size/16]; bind() made sure that it is dense.
inline Nvfp4Page nvfp4_page(const kvops_tensor& cache, bool transposed) {
  int64_t block = cache.shape[1], heads = cache.shape[2];
  bool hnd = block > 1 && heads > 1 && cache.stride[2] > cache.stride[1];
  return {block, heads, cache.shape[3] / 9, hnd, transposed};
}

// 1/6 and 1/4: the largest magnitude becomes code 6 or 4.
inline constexpr uint32_t kSixthBits = 0x3E2AAAABu, kQuarterBits = 0x3E800000u;

// The scale of a group, and the factor that turns its elements into codes; inverse = RN(1/k_scale).
KVOPS_HD inline f8_e4m3 nvfp4_scale(float amax, float part, float inverse) {
  return encode<f8_e4m3>(mul_rn(inverse, mul_rn(amax, part)));
}
KVOPS_HD inline float nvfp4_factor(f8_e4m3 scale, float inverse) {
  float s = decode(scale);
  return s == 0 ? 0.0f : div_rn(1, mul_rn(s, div_rn(1, inverse)));
}

// Sum of e^2 = (decode(code) * RN(1 / w) - x)^2 in pairs, pairs of pairs and so on: rounded after
// every operation, so that it has the same bits everywhere. e = -x where w is 0.
KVOPS_HD inline float nvfp4_error(const float (&x)[16], float w) {
  float back = w == 0 ? 0.0f : div_rn(1, w), sum[16];
  for (int i = 0; i < 16; ++i) {
    float e = add_rn(mul_rn(decode_e2m1(encode_e2m1(mul_rn(x[i], w))), back), -x[i]);
    sum[i] = mul_rn(e, e);
  }
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) sum[i] = add_rn(sum[2 * i], sum[2 * i + 1]);
  return sum[0];
}

struct Nvfp4Group {
  uint32_t codes[2];  // 16 codes, element 0 in the lowest nibble
  f8_e4m3 scale;
};

// One group; with four_over_six the rule of the smaller error, 6 when they are equal.
KVOPS_HD inline Nvfp4Group nvfp4_quantise(const float (&x)[16], float inverse, bool four_over_six) {
  float amax = magnitude(x[0]);
  for (int i = 1; i < 16; ++i) amax = max_number(amax, magnitude(x[i]));
  Nvfp4Group group = {{0, 0}, nvfp4_scale(amax, bits_float(kSixthBits), inverse)};
  float w = nvfp4_factor(group.scale, inverse);
  if (four_over_six) {
    f8_e4m3 scale = nvfp4_scale(amax, bits_float(kQuarterBits), inverse);
    float w4 = nvfp4_factor(scale, inverse);
    if (nvfp4_error(x, w4) < nvfp4_error(x, w)) group.scale = scale, w = w4;
  }
  for (int i = 0; i < 16; ++i)
    group.codes[i / 8] |= uint32_t{encode_e2m1(mul_rn(x[i], w))} << i % 8 * 4;
  return group;
}

}  // namespace kvops
