// Rows on their way into a cache in which they lie across: parts of the rows of one head, quantised
// where needed, and square tiles of them turned in registers.
#include <cstring>

#include "cpu/cache_row-inl.h"
#include "cpu/turn-inl.h"

#if defined(KVOPS_CPU_CACHE_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_CACHE_TILES_INL_H_
#undef KVOPS_CPU_CACHE_TILES_INL_H_
#else
#define KVOPS_CPU_CACHE_TILES_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

template <class C>
inline constexpr int64_t kGroup = 16 / int64_t(sizeof(C));  // x, and the side of a tile

constexpr int64_t kLongest = 64;  // tokens that are written together
constexpr int64_t kChunk = 128;   // elements of a row that are quantised together

// Part of n rows of one head, `pitch` bytes apart, for neighbouring positions of a block. C may be
// a word of several elements: no alignment but theirs.
template <class C>
struct Rows {
  const void* from;
  int64_t pitch, n, size;
  const C* row(int64_t i) const {
    return reinterpret_cast<const C*>(static_cast<const char*>(from) + i * pitch);
  }
};

template <class C>
HWY_INLINE void scatter(const C* from, C* to, int64_t n, int64_t stride) {
  for (int64_t i = 0; i < n; ++i) hwy::CopyBytes<sizeof(C)>(from + i, to + i * stride);
}

// Turns elements [d0, d0 + L) of L rows from row i0 on: column j goes to to + j * stride.
template <class C>
HWY_INLINE void turn_tile(const Rows<C>& r, int64_t i0, int64_t d0, C* to, int64_t stride) {
  constexpr int64_t L = kGroup<C>;
  const hn::FixedTag<C, L> d;
  hn::Vec<decltype(d)> v[L];
  for (int64_t i = 0; i < L; ++i) v[i] = hn::LoadU(d, r.row(i0 + i) + d0);
  turn_square(d, v);
  for (int64_t i = 0; i < L; ++i) hn::StoreU(v[i], d, to + i * stride);
}

// Positions are neighbours: whole tiles are turned, what is left is scattered.
template <class C>
void write_across(const Rows<C>& r, C* to, int64_t element) {
  constexpr int64_t L = kGroup<C>;
  const int64_t whole = r.size - r.size % L;
  int64_t i = 0;
  for (; i + L <= r.n; i += L) {
    for (int64_t d = 0; d < whole; d += L) turn_tile(r, i, d, to + d * element + i, element);
    for (int64_t j = i; j < i + L; ++j)
      scatter(r.row(j) + whole, to + whole * element + j, r.size - whole, element);
  }
  for (; i < r.n; ++i) scatter(r.row(i), to + i, r.size, element);
}

// Tokens [t, t + n) of from[tokens][heads][size]: calls put(rows, h, d) for the elements
// [d, d + rows.size) of their rows of head h, as they are, or quantised in pieces.
template <class S, class C, class F>
HWY_INLINE void for_each_part(const TensorView<const S, 3>& from, int64_t t, int64_t n, float scale,
                              F&& put) {
  using U = hwy::UnsignedFromSize<sizeof(C)>;
  const int64_t heads = from.shape[1], size = from.shape[2], stride = from.stride[0];
  for (int64_t h = 0; h < heads; ++h) {
    const S* rows = from.at(t, h);
    if constexpr (std::is_same_v<S, C>) {
      put(Rows<U>{rows, stride * int64_t(sizeof(S)), n, size}, h, 0);
    } else {
      C part[kLongest * kChunk];
      for (int64_t d = 0; d < size; d += kChunk) {
        const int64_t count = HWY_MIN(kChunk, size - d);
        for (int64_t i = 0; i < n; ++i)
          write_row(rows + i * stride + d, part + i * kChunk, count, scale);
        put(Rows<U>{part, kChunk * int64_t(sizeof(C)), n, count}, h, d);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
