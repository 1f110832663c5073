// reshape_and_cache: rows of new keys and values into the x-packed cache, or any view of another.
//
//   key_cache   [blocks][heads][size/x][block][x]   groups of 16 bytes, one token after the other
//   value_cache [blocks][heads][size][block]        a row lies across: tokens of neighbouring
//                                                   positions are turned in square tiles
//
// A thread takes some tokens; runs of them within one block are written together. fp8 rows are
// first quantised to a buffer of L1's size, so that layouts deal with elements of 1, 2 and 4 bytes.
// Where the strides make a row contiguous (a flash cache, permuted) it is one copy.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reshape_and_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_tiles-inl.h"

// Everything that is compiled once only.
#include "cpu/isa.h"
#include "cpu/slots.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

template <class C>
void write_keys(const Rows<C>& r, C* to, const TensorView<C, 5>& cache) {
  constexpr int64_t x = kGroup<C>;
  const int64_t group = cache.stride[2], position = cache.stride[3], element = cache.stride[4];
  if (element == 1 && group == x) {
    for (int64_t i = 0; i < r.n; ++i)
      std::memcpy(to + i * position, r.row(i), size_t(r.size) * sizeof(C));
    return;
  }
  for (int64_t d = 0; d < r.size; d += x, to += group)
    for (int64_t i = 0; i < r.n; ++i) {
      if (element == 1)
        hwy::CopyBytes<16>(r.row(i) + d, to + i * position);
      else
        scatter(r.row(i) + d, to + i * position, x, element);
    }
}

template <class C>
void write_values(const Rows<C>& r, C* to, const TensorView<C, 4>& cache) {
  const int64_t element = cache.stride[2], position = cache.stride[3];
  if (position == 1 && element != 1) return write_across(r, to, element);
  for (int64_t i = 0; i < r.n; ++i) {
    if (element == 1)
      std::memcpy(to + i * position, r.row(i), size_t(r.size) * sizeof(C));
    else
      scatter(r.row(i), to + i * position, r.size, element);
  }
}

template <class S, class C>
kvops_status write(const kvops_reshape_and_cache_args& a) {
  using U = hwy::UnsignedFromSize<sizeof(C)>;
  const auto key = view<const S, 3>(a.key), value = view<const S, 3>(a.value);
  const auto key_cache = view<U, 5>(a.key_cache);
  const auto value_cache = view<U, 4>(a.value_cache);
  const int64_t heads = key.shape[1], size = key.shape[2];
  const float k_scale = scale_of(a.k_scale)(0), v_scale = scale_of(a.v_scale)(0);
  for_each_run(
      slot_map(a.slot_mapping, key_cache.shape[0], key_cache.shape[3]), kLongest,
      2 * heads * size * int64_t(sizeof(S) + sizeof(C)), a.faults,
      [&](int64_t t, int64_t b, int64_t o, int64_t n) {
        for_each_part<S, C>(key, t, n, k_scale, [&](const Rows<U>& rows, int64_t h, int64_t d) {
          write_keys(rows, key_cache.at(b, h, d / kGroup<C>, o), key_cache);
        });
        for_each_part<S, C>(value, t, n, v_scale, [&](const Rows<U>& rows, int64_t h, int64_t d) {
          write_values(rows, value_cache.at(b, h, d, o), value_cache);
        });
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
