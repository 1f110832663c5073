// Groups of consecutive elements, 16 bytes where they are aligned: one access of a thread.
#pragma once
#include "gpu/numeric.cuh"

namespace kvops::gpu {

template <class T, int N>
struct alignas(sizeof(T) * N) Group {
  T at[N];
};

// Elements in 16 bytes.
template <class T>
inline constexpr int kGroup = 16 / int(sizeof(T));

// Group p[0..N). kAligned: p is a multiple of the group's size; else element by element.
template <int N, bool kAligned, class T>
__device__ inline Group<T, N> load(const T* p) {
  Group<T, N> g;
  if constexpr (kAligned) {
    constexpr int kPart = N * sizeof(T) > 16 ? kGroup<T> : N;  // no access is wider than 16 bytes
    for (int i = 0; i < N; i += kPart)
      *reinterpret_cast<Group<T, kPart>*>(g.at + i) =
          *reinterpret_cast<const Group<T, kPart>*>(p + i);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) g.at[i] = p[i];
  }
  return g;
}

template <bool kAligned, class T, int N>
__device__ inline void store(T* p, const Group<T, N>& g) {
  if constexpr (kAligned) {
    *reinterpret_cast<Group<T, N>*>(p) = g;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = g.at[i];
  }
}

// The first n elements of a group, n may be more than N or less than 1; zeros past them.
template <int N, bool kAligned, class T>
__device__ inline Group<T, N> load_n(const T* p, int64_t n) {
  if (n >= N) return load<N, kAligned>(p);
  Group<T, N> g;
#pragma unroll
  for (int i = 0; i < N; ++i) g.at[i] = i < n ? p[i] : T{};
  return g;
}
template <bool kAligned, class T, int N>
__device__ inline void store_n(T* p, const Group<T, N>& g, int64_t n) {
  if (n >= N) return store<kAligned>(p, g);
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < n) p[i] = g.at[i];
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
