// Elements as int8 codes: what static_ and dynamic_scaled_int8_quant share.
//
//   code = RNE(clamp(RN(RN(x * inverse) + azp), -128, 127)),  NaN: -128
//
// Nothing is contracted: the same codes as on the CPU.
#pragma once
#include "gpu/vec.cuh"

namespace kvops::gpu {

struct Int8Code {
  uint8_t bits;
};
struct Int8Scale {
  float inverse, azp;
};

// The code in the lowest byte; what is above it is not zero. kWithin: azp is 0, and no number
// is outside the range of codes.
template <bool kWithin = false>
__device__ inline uint32_t int8_code(float x, Int8Scale scale) {
  float v = mul_rn(x, scale.inverse);
  if constexpr (!kWithin) v = add_rn(v, scale.azp);
  v = fmaxf(v, -128.0f);  // what is no NaN
  if constexpr (!kWithin) v = fminf(v, 127.0f);
  // A sum with 1.5 * 2^23 is rounded to an integer, whose two's complement is in the lowest bits.
  return float_bits(add_rn(v, 0x1.8p23f));
}

template <bool kWithin = false, class T, int N>
__device__ inline Group<Int8Code, N> int8_codes(const Group<T, N>& x, Int8Scale scale) {
  Group<Int8Code, N> y;
  if constexpr (N % 4 == 0) {
    auto pair = [&](int i) {
      return __byte_perm(int8_code<kWithin>(x.number(i), scale),
                         int8_code<kWithin>(x.number(i + 1), scale), 0x40);
    };
#pragma unroll
    for (int i = 0; i < N; i += 4) y.word[i / 4] = __byte_perm(pair(i), pair(i + 2), 0x5410);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) y.set(i, {uint8_t(int8_code<kWithin>(x.number(i), scale))});
  }
  return y;
}

}  // namespace kvops::gpu
