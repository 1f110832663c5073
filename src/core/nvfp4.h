// NVFP4: 16 elements as e2m1 codes under one e4m3 scale, and where both stand in a page.
//
//   page of one side (K or V):  codes of all rows | scales of all rows     block*heads*9*size/16 bytes
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

struct Nvfp4Group {
  uint32_t codes[2];  // 16 codes, element 0 in the lowest nibble
  f8_e4m3 scale;
};

// One candidate: the largest magnitude times `sixth` becomes the largest code.
KVOPS_HD inline Nvfp4Group nvfp4_group(const float (&x)[16], float amax, float sixth, float inverse,
                                       float* error) {
  Nvfp4Group out = {{0, 0}, encode<f8_e4m3>(mul_rn(inverse, mul_rn(amax, sixth)))};
  float scale = decode(out.scale), w = 0;
  if (scale != 0) w = div_rn(1, mul_rn(scale, div_rn(1, inverse)));
  float back = w == 0 ? 0.0f : div_rn(1, w), sum = 0;
  for (int i = 0; i < 16; i += 2) {
    float square[2];
    for (int j = 0; j < 2; ++j) {
      uint32_t code = encode_e2m1(mul_rn(x[i + j], w));
      out.codes[(i + j) / 8] |= code << (i + j) % 8 * 4;
      float e = w == 0 ? x[i + j] : add_rn(mul_rn(decode_e2m1(code), back), -x[i + j]);
      square[j] = mul_rn(e, e);
    }
    sum = add_rn(sum, add_rn(square[0], square[1]));
  }
  *error = sum;
  return out;
}

// Quantises 16 elements; inverse = RN(1 / k_scale). With four_over_six the largest magnitude becomes
// 6 or 4, whichever has the smaller sum of squared errors; 6 when they are equal.
KVOPS_HD inline Nvfp4Group nvfp4_quantise(const float (&x)[16], float inverse, bool four_over_six) {
  float amax = magnitude(x[0]), error6, error4;
  for (int i = 1; i < 16; ++i) amax = max_number(amax, magnitude(x[i]));
  auto six = nvfp4_group(x, amax, bits_float(0x3E2AAAABu), inverse, &error6);  // RN(1 / 6)
  if (!four_over_six) return six;
  auto four = nvfp4_group(x, amax, 0.25f, inverse, &error4);
  return error4 < error6 ? four : six;
}

}  // namespace kvops
