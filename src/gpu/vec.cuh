// Groups of consecutive elements, 16 bytes where they are aligned: one access of a thread. A group
// is kept in whole registers: elements of 16 and 8 bits stay packed until they are used.
#pragma once
#include "gpu/numeric.cuh"

namespace kvops::gpu {

// Elements in 16 bytes.
template <class T>
inline constexpr int kGroup = 16 / int(sizeof(T));

template <class T, int N>
struct Group {
  static constexpr int kPerWord = 4 / int(sizeof(T)), kBits = 8 * int(sizeof(T));
  uint32_t word[(N + kPerWord - 1) / kPerWord];

  __device__ T get(int i) const {
    if constexpr (kPerWord == 1) {
      return __builtin_bit_cast(T, word[i]);
    } else {
      return T{decltype(T::bits)(word[i / kPerWord] >> i % kPerWord * kBits)};
    }
  }
  __device__ float number(int i) const { return to_float(get(i)); }
  // Elements are set in ascending order: the first one of a word clears the others.
  __device__ void set(int i, T x) {
    if constexpr (kPerWord == 1) {
      word[i] = __builtin_bit_cast(uint32_t, x);
    } else {
      uint32_t bits = uint32_t(x.bits) << i % kPerWord * kBits;
      word[i / kPerWord] = i % kPerWord ? word[i / kPerWord] | bits : bits;
    }
  }
};

#if defined(__HIP__)
using Words2 = HIP_vector_type<uint32_t, 2>;
using Words4 = HIP_vector_type<uint32_t, 4>;
#else
using Words2 = uint2;
using Words4 = uint4;
#endif

// Group p[0..N). kAligned: p is a multiple of the group's size, at most 16; else element by
// element.
template <int N, bool kAligned, class T>
__device__ inline Group<T, N> load(const T* p) {
  constexpr int kBytes = N * int(sizeof(T));
  Group<T, N> g;
  if constexpr (!kAligned || N == 1) {
#pragma unroll
    for (int i = 0; i < N; ++i) g.set(i, p[i]);
  } else if constexpr (kBytes % 16 == 0) {
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) {
      auto v = reinterpret_cast<const Words4*>(p)[i];
      g.word[4 * i] = v.x, g.word[4 * i + 1] = v.y, g.word[4 * i + 2] = v.z,
                 g.word[4 * i + 3] = v.w;
    }
  } else if constexpr (kBytes == 8) {
    auto v = *reinterpret_cast<const Words2*>(p);
    g.word[0] = v.x, g.word[1] = v.y;
  } else {
    static_assert(kBytes == 4);
    g.word[0] = *reinterpret_cast<const uint32_t*>(p);
  }
  return g;
}

template <bool kAligned, class T, int N>
__device__ inline void store(T* p, const Group<T, N>& g) {
  constexpr int kBytes = N * int(sizeof(T));
  if constexpr (!kAligned || N == 1) {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = g.get(i);
  } else if constexpr (kBytes % 16 == 0) {
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i)
      reinterpret_cast<Words4*>(p)[i] =
          Words4{g.word[4 * i], g.word[4 * i + 1], g.word[4 * i + 2], g.word[4 * i + 3]};
  } else if constexpr (kBytes == 8) {
    *reinterpret_cast<Words2*>(p) = Words2{g.word[0], g.word[1]};
  } else {
    static_assert(kBytes == 4);
    *reinterpret_cast<uint32_t*>(p) = g.word[0];
  }
}

// The first n elements of a group, n may be more than N or less than 1; zeros past them.
template <int N, bool kAligned, class T, class Index>
__device__ inline Group<T, N> load_n(const T* p, Index n) {
  if (n >= N) return load<N, kAligned>(p);
  Group<T, N> g;
#pragma unroll
  for (int i = 0; i < N; ++i) g.set(i, i < n ? p[i] : T{});
  return g;
}
template <bool kAligned, class T, int N, class Index>
__device__ inline void store_n(T* p, const Group<T, N>& g, Index n) {
  if (n >= N) return store<kAligned>(p, g);
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < n) p[i] = g.get(i);
}

// Two elements from floats: element i is even.
template <class T, int N>
__device__ inline void set_pair(Group<T, N>& g, int i, float x, float y) {
  if constexpr (sizeof(T) == 2) {
    g.word[i / 2] = from_pair<T>(x, y);
  } else {
    g.set(i, from_float<T>(x)), g.set(i + 1, from_float<T>(y));
  }
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

// The bits of the largest magnitude of 16-bit elements; above those of an infinite one: NaN.
template <class T>
inline constexpr uint32_t kInfinite = __is_same(T, bf16) ? 0x7F80 : 0x7C00;
template <class T, int N>
__device__ inline uint32_t largest_bits(const Group<T, N>& x) {
  static_assert(sizeof(T) == 2 && N % 2 == 0);
  uint32_t most = x.word[0] & 0x7FFF7FFFu;
#pragma unroll
  for (int i = 1; i < N / 2; ++i) most = larger_halves(most, x.word[i] & 0x7FFF7FFFu);
  return (most & 0xFFFF) > most >> 16 ? most & 0xFFFF : most >> 16;
}

// The largest magnitude, NaN left out.
template <class T, int N>
__device__ inline float magnitude_of(const Group<T, N>& x) {
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    uint32_t bits = largest_bits(x);
    if (__builtin_expect(bits <= kInfinite<T>, 1)) return to_float(T{uint16_t(bits)});
  }
  float most = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) most = fmaxf(most, magnitude(x.number(i)));
  return most;
}

// RN_T(value * scale) of fp8 codes.
template <class T, class C, int N>
__device__ inline Group<T, N> convert_back(const Group<C, N>& codes, float scale) {
  Group<T, N> y;
  if constexpr (N == 1) {
    y.set(0, from_float<T>(mul_rn(decode_quick<C>(codes.word[0] & 0xFF), scale)));
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      Two x = decode_pair<C>(codes.word[i / 4] >> i % 4 * 8);
      set_pair(y, i, mul_rn(x.a, scale), mul_rn(x.b, scale));
    }
  }
  return y;
}

// Rows at one distance, as nearly all are: fewer parameters to read before the first load.
template <class T>
struct FlatRows {
  T* data;
  int64_t stride;
};
template <class T>
__device__ inline T* row_of(const FlatRows<T>& v, int64_t r) {
  return v.data + r * v.stride;
}
template <class T>
__device__ inline T* row_of(const RowsView<T>& v, int64_t r) {
  int64_t offset = 0;
  for (int i = 0; i + 1 < v.levels; ++i) {
    auto at = split(r, v.extent[i]);
    offset += at.remainder * v.stride[i];
    r = at.quotient;
  }
  return v.data + offset + r * v.stride[v.levels - 1];
}

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

inline bool is_multiple(const void* data, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % uintptr_t(bytes) == 0;
}

// Does every row of the tensor begin at a multiple of `bytes`?
inline bool rows_aligned(const kvops_tensor& t, int64_t element, int64_t bytes) {
  bool aligned = is_multiple(t.data, bytes);
  for (int i = 0; i + 1 < t.rank; ++i)
    aligned = aligned && (t.shape[i] <= 1 || t.stride[i] * element % bytes == 0);
  return aligned;
}

}  // namespace kvops::KVOPS_GPU
