// reshape_and_cache: rows of new keys and values into the x-packed cache, or any view of another.
//
//   key_cache   [blocks][heads][size/x][block][x]   groups of 16 bytes, one token after the other
//   value_cache [blocks][heads][size][block]        a row lies across: tokens of neighbouring
//                                                   positions are turned in square tiles
//
// A thread takes some tokens; runs of them within one block are written together. Where the strides
// make a row contiguous (a flash cache seen as [blocks, heads, size/x, block, x]) it is one copy.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reshape_and_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_row-inl.h"

// Everything that is compiled once only.
#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/slots.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

template <class C>
inline constexpr int64_t kGroup = 16 / int64_t(sizeof(C));  // x, and the side of a tile

// What a run of n tokens of one head is: rows `from_stride` apart, n neighbouring positions.
template <class S>
struct Rows {
  const S* from;
  int64_t from_stride, n, size;
  float scale;
};

template <class S, class C>
void write_keys(const Rows<S>& r, C* to, const TensorView<C, 5>& cache) {
  constexpr int64_t x = kGroup<C>;
  const int64_t group = cache.stride[2], position = cache.stride[3], element = cache.stride[4];
  for (int64_t i = 0; element == 1 && group == x && i < r.n; ++i)
    write_row(r.from + i * r.from_stride, to + i * position, r.size, r.scale);
  if (element == 1 && group == x) return;
  for (int64_t d = 0; d < r.size; d += x, to += group)
    for (int64_t i = 0; i < r.n; ++i) {
      const S* from = r.from + i * r.from_stride + d;
      if (element == 1)
        write_row(from, to + i * position, x, r.scale);
      else
        scatter_row(from, to + i * position, x, element, r.scale);
    }
}

// Column j of a tile goes to to + j * stride. L perfect shuffles of L vectors turn the tile.
template <class C>
HWY_INLINE void turn_tile(const C* const (&rows)[kGroup<C>], C* to, int64_t stride) {
  using U = hwy::UnsignedFromSize<sizeof(C)>;
  constexpr int64_t L = kGroup<C>;
  const hn::FixedTag<U, L> d;
  hn::Vec<decltype(d)> v[L], next[L];
  for (int64_t i = 0; i < L; ++i) v[i] = load_raw(d, rows[i]);
  for (int64_t step = 1; step < L; step *= 2) {
    for (int64_t i = 0; i < L / 2; ++i) {
      next[2 * i] = hn::InterleaveLower(d, v[i], v[i + L / 2]);
      next[2 * i + 1] = hn::InterleaveUpper(d, v[i], v[i + L / 2]);
    }
    for (int64_t i = 0; i < L; ++i) v[i] = next[i];
  }
  for (int64_t i = 0; i < L; ++i) store_raw(d, v[i], to + i * stride);
}

// Positions are neighbours: whole tiles are turned, what is left is scattered.
template <class S, class C>
void write_across(const Rows<S>& r, C* to, int64_t element) {
  constexpr int64_t L = kGroup<C>;
  const int64_t whole = r.size - r.size % L;
  int64_t i = 0;
  for (; i + L <= r.n; i += L) {
    for (int64_t d = 0; d < whole; d += L) {
      C converted[L][L];
      const C* rows[L];
      for (int64_t j = 0; j < L; ++j) {
        const S* from = r.from + (i + j) * r.from_stride + d;
        if constexpr (std::is_same_v<S, C>) {
          rows[j] = from;
        } else {
          write_row(from, converted[j], L, r.scale);
          rows[j] = converted[j];
        }
      }
      turn_tile<C>(rows, to + d * element + i, element);
    }
    for (int64_t j = 0; whole < r.size && j < L; ++j)
      scatter_row(r.from + (i + j) * r.from_stride + whole, to + whole * element + i + j,
                  r.size - whole, element, r.scale);
  }
  for (; i < r.n; ++i) scatter_row(r.from + i * r.from_stride, to + i, r.size, element, r.scale);
}

template <class S, class C>
void write_values(const Rows<S>& r, C* to, const TensorView<C, 4>& cache) {
  const int64_t element = cache.stride[2], position = cache.stride[3];
  if (position == 1 && element != 1) return write_across(r, to, element);
  for (int64_t i = 0; i < r.n; ++i) {
    const S* from = r.from + i * r.from_stride;
    if (element == 1)
      write_row(from, to + i * position, r.size, r.scale);
    else
      scatter_row(from, to + i * position, r.size, element, r.scale);
  }
}

template <class S, class C>
kvops_status write(const kvops_reshape_and_cache_args& a) {
  constexpr int64_t kLongest = 64;  // tokens that are written together
  const auto key = view<const S, 3>(a.key), value = view<const S, 3>(a.value);
  const auto key_cache = view<C, 5>(a.key_cache);
  const auto value_cache = view<C, 4>(a.value_cache);
  const int64_t heads = key.shape[1], size = key.shape[2];
  const float k_scale = scale_of(a.k_scale)(0), v_scale = scale_of(a.v_scale)(0);
  for_each_run(slot_map(a.slot_mapping, key_cache.shape[0], key_cache.shape[3]), kLongest,
               2 * heads * size * int64_t(sizeof(S) + sizeof(C)), a.faults,
               [&](int64_t t, int64_t b, int64_t o, int64_t n) {
                 for (int64_t h = 0; h < heads; ++h) {
                   const Rows<S> k = {key.at(t, h), key.stride[0], n, size, k_scale};
                   const Rows<S> v = {value.at(t, h), value.stride[0], n, size, v_scale};
                   write_keys(k, key_cache.at(b, h, 0, o), key_cache);
                   write_values(v, value_cache.at(b, h, 0, o), value_cache);
                 }
               });
  return KVOPS_OK;
}

}  // namespace

kvops_status reshape_and_cache(const kvops_reshape_and_cache_args& a) {
  return dispatch_cache("reshape_and_cache", "key", a.key.dtype, a.key_cache.dtype,
                        [&]<class S, class C>() { return write<S, C>(a); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(reshape_and_cache)
}  // namespace kvops::cpu
#endif
