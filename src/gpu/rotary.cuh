// Pairs of rotary embeddings: (x, y) = (x c - y s, y c + x s), read and written in groups of 16
// bytes. Pairs are (j, half + j), two groups of a thread, or neighbours (2j, 2j + 1), one group.
// How a sum of products is rounded is the caller's:
//
//   float cosine(int i), sine(int i)        of pair i of the group
//   Two turned(x, y, c, s)                  one pair; what it gives is rounded to T
#pragma once
#include "gpu/vec.cuh"

namespace kvops::gpu {

// The elements of a word, NaN replaced by the quiet one.
template <class T>
__device__ inline uint32_t quiet(uint32_t word) {
  if constexpr (sizeof(T) == 4) {
    return is_nan(bits_float(word)) ? 0x7FC00000u : word;
  } else {
    constexpr uint32_t kInf = __is_same(T, bf16) ? 0x7F80 : 0x7C00;
    constexpr uint32_t kQuiet = __is_same(T, bf16) ? 0x7FC0 : 0x7E00;
    uint32_t low = word & 0xFFFF, high = word >> 16;
    if ((low & 0x7FFF) > kInf) low = kQuiet;
    if ((high & 0x7FFF) > kInf) high = kQuiet;
    return high << 16 | low;
  }
}

// T: of the elements; N: those of an access, where 1 does for both orders of pairs.
template <class T, bool kNeox, int N>
struct Turn {
  static constexpr int kElements = kNeox || N == 1 ? N : N / 2;  // pairs of a group
  static constexpr bool kAligned = N > 1, kApart = kNeox || !kAligned;
  Group<T, kElements> x = {}, y = {};           // apart
  Group<T, kApart ? 1 : 2 * kElements> v = {};  // neighbours

  // `second`: from the first element of a pair to the other one, where they are apart.
  __device__ void read(const T* p, int64_t second) {
    if constexpr (kApart)
      x = load<kElements, kAligned>(p), y = load<kElements, kAligned>(p + second);
    else
      v = load<2 * kElements, true>(p);
  }
  template <class How>
  __device__ void turn(How& how) {
    if constexpr (!kAligned) {
      Two z = how.turned(x.number(0), y.number(0), how.cosine(0), how.sine(0));
      x.set(0, from_float<T>(z.a)), y.set(0, from_float<T>(z.b));
    } else {
#pragma unroll
      for (int i = 0; i < kElements; i += 2) {  // words as a whole
        Two z = pair(how, i), next = pair(how, i + 1);
        if constexpr (kApart) {
          set_pair(x, i, z.a, next.a), set_pair(y, i, z.b, next.b);
        } else {
          set_pair(v, 2 * i, z.a, z.b), set_pair(v, 2 * i + 2, next.a, next.b);
        }
      }
    }
  }
  __device__ void quieten() {
    for (auto& word : x.word) word = quiet<T>(word);
    for (auto& word : y.word) word = quiet<T>(word);
    for (auto& word : v.word) word = quiet<T>(word);
  }
  __device__ void write(T* p, int64_t second) const {
    if constexpr (kApart)
      store<kAligned>(p, x), store<kAligned>(p + second, y);
    else
      store<true>(p, v);
  }

 private:
  template <class How>
  __device__ Two pair(How& how, int i) const {
    if constexpr (kApart)
      return how.turned(x.number(i), y.number(i), how.cosine(i), how.sine(i));
    else
      return how.turned(v.number(2 * i), v.number(2 * i + 1), how.cosine(i), how.sine(i));
  }
};

// Cosines and sines of N pairs, rounded to T; each product of a pair is rounded, then their sum.
template <class T, int N>
struct Rounded {
  float cosines[N], sines[N];
  bool nan = false;

  template <class C>
  __device__ void read(const C* cosine, const C* sine) {
    auto c = load<N, (N > 1)>(cosine), s = load<N, (N > 1)>(sine);
#pragma unroll
    for (int i = 0; i < N; ++i) cosines[i] = rounded(c.get(i)), sines[i] = rounded(s.get(i));
  }
  // Of the pairs from one on; a row of the table is f32 (`wide`) or T.
  __device__ Rounded(const char* row, bool wide, int64_t pair, int64_t half) {
    if (sizeof(T) == 4 || wide) {
      auto* cosine = reinterpret_cast<const float*>(row) + pair;
      read(cosine, cosine + half);
    } else {
      auto* cosine = reinterpret_cast<const T*>(row) + pair;
      read(cosine, cosine + half);
    }
  }
  static __device__ float rounded(T x) { return to_float(x); }
  template <class C>
  static __device__ float rounded(C x) {
    return to_float(from_float<T>(x));
  }
  __device__ float cosine(int i) const { return cosines[i]; }
  __device__ float sine(int i) const { return sines[i]; }
  __device__ Two turned(float x, float y, float c, float s) {
    Two first = products(mul_rn(x, c), mul_rn(y, s)), other = products(mul_rn(y, c), mul_rn(x, s));
    Two z = {add_rn(first.a, -first.b), add_rn(other.a, other.b)};
    nan = nan || z.a != z.a || z.b != z.b;
    return z;
  }
  static __device__ Two products(float a, float b) {
    if constexpr (sizeof(T) == 4) {
      return {a, b};
    } else {
      uint32_t pair = from_pair<T>(a, b);
      return {to_float(T{uint16_t(pair)}), to_float(T{uint16_t(pair >> 16)})};
    }
  }
};

}  // namespace kvops::gpu
