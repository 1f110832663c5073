// Rows on their way into a cache in which they lie across: parts of the rows of one head, quantised
// where needed, and square tiles of them turned in registers, as many at once as fill a line.
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

// 16 bytes from element d0 on of row i, then of row i + L, i + 2 * L ... until a vector is full.
template <class D, class C>
HWY_INLINE hn::Vec<D> load_pieces(D d, const Rows<C>& r, int64_t i, int64_t d0) {
  constexpr auto lanes = int64_t(hn::MaxLanes(D()));
  if constexpr (lanes == kGroup<C>) {
    return hn::LoadU(d, r.row(i) + d0);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_pieces(half, r, i + lanes / 2, d0), load_pieces(half, r, i, d0));
  }
}

// Turns elements [d0, d0 + L) of as many rows from row i0 on as fill `bytes` with one of them:
// column j goes to to + j * stride.
template <int64_t bytes, bool stream, class C>
HWY_INLINE void turn_tile(const Rows<C>& r, int64_t i0, int64_t d0, C* to, int64_t stride) {
  constexpr int64_t L = kGroup<C>;
  const hn::FixedTag<C, bytes / sizeof(C)> d;
  hn::Vec<decltype(d)> v[L];
  for (int64_t i = 0; i < L; ++i) v[i] = load_pieces(d, r, i0 + i, d0);
  turn_square(d, v);
  for (int64_t i = 0; i < L; ++i) put_raw<stream>(d, v[i], to + i * stride);
}

// Whole tiles of rows from row i on, as long as they fill aligned pieces of `bytes`; returns the
// first row that is left. stream: past the caches, if a piece is a line.
template <int64_t bytes, bool stream, class C>
HWY_INLINE int64_t turn_tiles(const Rows<C>& r, int64_t i, C* to, int64_t element) {
  constexpr int64_t L = kGroup<C>, kRows = bytes / int64_t(sizeof(C));
  if constexpr (bytes <= int64_t(hn::MaxLanes(hn::ScalableTag<uint8_t>()))) {
    const auto address = reinterpret_cast<uintptr_t>(to + i);
    const int64_t whole = r.size - r.size % L;
    const bool aligned = (address | uintptr_t(element) * sizeof(C)) % uintptr_t(bytes) == 0;
    for (; (aligned || bytes == 16) && i + kRows <= r.n; i += kRows) {
      for (int64_t d = 0; d < whole; d += L)
        turn_tile<bytes, stream && bytes == 64>(r, i, d, to + d * element + i, element);
      for (int64_t j = i; j < i + kRows; ++j)
        scatter(r.row(j) + whole, to + whole * element + j, r.size - whole, element);
    }
  }
  return i;
}

// Positions are neighbours: whole tiles are turned, what is left is scattered.
template <bool stream = false, class C>
void write_across(const Rows<C>& r, C* to, int64_t element) {
  int64_t i = turn_tiles<64, stream>(r, 0, to, element);
  i = turn_tiles<32, stream>(r, i, to, element);
  i = turn_tiles<16, stream>(r, i, to, element);
  for (; i < r.n; ++i) scatter(r.row(i), to + i, r.size, element);
}

// Asks for n rows of `bytes`: pieces of a token that are too short for the hardware to foresee.
HWY_INLINE void ask_for(const void* rows, int64_t pitch, int64_t n, int64_t bytes) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t at = 0; at < bytes; at += 64)
      prefetch(static_cast<const char*>(rows), i * pitch + at);
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
    if (n > 1 && h + 1 < heads)
      ask_for(from.at(t, h + 1), stride * int64_t(sizeof(S)), n, size * int64_t(sizeof(S)));
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
