// fp8 codes of x / scale for groups of elements, four at a time with the conversion instruction
// where there is one; the bytes are those of quantise() in core/numeric.h, which does what is
// unusual.
//
// A fnuz code is that of twice the quotient in the OCP format of as many exponent bits, but for
// zeros, which have no sign, and for the codes from kUnusual on.
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
  // The first code, without its sign, that may stand for something else in a fnuz format: the
  // instruction's largest number, above which are NaN and infinite elements, too.
  static constexpr uint32_t kUnusual = Fp8Traits<Ocp>::kMax;
};

// Once for a kernel, however often its loops are unrolled.
template <class C, class T, int N>
static __device__ __noinline__ Group<C, N> codes_by_division(Group<T, N> x, float scale) {
  Group<C, N> y;
#pragma unroll 1
  for (int i = 0; i < N; ++i) y.set(i, quantise<C>(x.number(i), scale));
  return y;
}

template <class C, class T, int N>
__device__ inline Group<C, N> codes_of(const Group<T, N>& x, const Divider<T>& divide) {
  constexpr bool kFnuz = CodesOf<C>::kFnuz;
  Group<C, N> y;
  bool unusual = divide.divides;
  if constexpr (kCodeInstruction) {
    using Ocp = typename CodesOf<C>::Ocp;
    const auto divider = kFnuz ? divide.times(2) : divide;
    auto quotient = [&](int i) { return i < N ? divider.quick(x.number(i)) : 0.0f; };
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      uint32_t codes = encode_pair<Ocp>(quotient(i), quotient(i + 1)) |
                       encode_pair<Ocp>(quotient(i + 2), quotient(i + 3)) << 16;
      if constexpr (kFnuz) {
        uint32_t numbers = codes & 0x7F7F7F7Fu;
        unusual |= ((numbers + (0x80 - CodesOf<C>::kUnusual) * 0x01010101u) & 0x80808080u) != 0;
        codes &= (numbers + 0x7F7F7F7Fu) | 0x7F7F7F7Fu;
      }
      y.word[i / 4] = codes;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float q = divide.quick(x.number(i));
      if (kFnuz) unusual |= !(magnitude(q) < 0x1p20f);  // are they infinite?
      y.set(i, encode<C>(q));
    }
  }
  return __builtin_expect(unusual, 0) ? codes_by_division<C>(x, divide.scale) : y;
}

}  // namespace kvops::gpu
