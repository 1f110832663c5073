// fp8 codes of x / scale for groups of elements, four at a time with the conversion instruction
// where there is one; the bytes are those of convert() in gpu/vec.cuh, which does what is unusual.
//
// The quotient is that of Divider without its last choice: where it is not the rounded one it is
// below 2^-19 or above 2^19 or NaN, and its code is zero, the largest or NaN's. A fnuz code is that
// of twice the quotient in the OCP format of as many exponent bits, but for zeros, which have no
// sign, and for the codes from kUnusual on.
#pragma once
#include <type_traits>

#include "gpu/vec.cuh"

namespace kvops::gpu {

#if !defined(__HIP__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
inline constexpr bool kCodeInstruction = true;
#else
inline constexpr bool kCodeInstruction = false;
#endif

template <class C>
struct CodesOf {
  using Ocp = std::conditional_t<Fp8Traits<C>::kMantissa == 3, f8_e4m3, f8_e5m2>;
  static constexpr bool kFnuz = Fp8Traits<C>::kFnuz;
  // The first code, without its sign, that may stand for something else: NaN or the instruction's
  // largest number.
  static constexpr uint32_t kUnusual = kFnuz ? Fp8Traits<Ocp>::kMax : 0x7F;
};

// The uppermost bytes of four elements.
template <class T, int N>
__device__ inline uint32_t upper_bytes(const Group<T, N>& x, int i) {
  if constexpr (sizeof(T) == 2) {
    return __byte_perm(x.word[i / 2], x.word[i / 2 + 1], 0x7531);
  } else {
    uint32_t low = __byte_perm(x.word[i], x.word[i + 1], 0x73);
    return __byte_perm(low, __byte_perm(x.word[i + 2], x.word[i + 3], 0x73), 0x5410);
  }
}

// Once for a kernel, however often its loops are unrolled.
template <class C, class T, int N>
static __device__ __noinline__ Group<C, N> convert_unusual(Group<T, N> x, Divider<T> divide) {
  return convert<C>(x, divide);
}

template <class C, class T, int N>
__device__ inline Group<C, N> codes_of(const Group<T, N>& x, const Divider<T>& divide) {
  if constexpr (kCodeInstruction && N % 4 == 0) {
    using Quick = CodesOf<C>;
    const float scale = Quick::kFnuz ? divide.scale * 0.5f : divide.scale;
    const float inverse = Quick::kFnuz ? divide.inverse * 2.0f : divide.inverse;
    auto quotient = [&](int i) {
      float v = x.number(i), rough = mul_rn(v, inverse);
      float q = fmaf(fmaf(-rough, scale, v), inverse, rough);
      return sizeof(T) > 2 ? fmaf(fmaf(-q, scale, v), inverse, q) : q;
    };
    Group<C, N> y;
    uint32_t unusual = 0;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      uint32_t codes = encode_pair<typename Quick::Ocp>(quotient(i), quotient(i + 1)) |
                       encode_pair<typename Quick::Ocp>(quotient(i + 2), quotient(i + 3)) << 16;
      uint32_t numbers = codes & 0x7F7F7F7Fu;
      unusual |= numbers + (0x80 - Quick::kUnusual) * 0x01010101u;
      if constexpr (Quick::kFnuz)
        codes &= (numbers + 0x7F7F7F7Fu) | 0x7F7F7F7Fu;
      else
        codes |= upper_bytes(x, i) & 0x80808080u;
      y.word[i / 4] = codes;
    }
    if (__builtin_expect(divide.divides || (unusual & 0x80808080u), 0))
      return convert_unusual<C>(x, divide);
    return y;
  } else {
    return convert<C>(x, divide);
  }
}

}  // namespace kvops::gpu
