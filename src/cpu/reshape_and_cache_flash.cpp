// reshape_and_cache_flash: rows of new keys and values into a paged cache with rows of `size`.
//
//   PLAIN   one run of heads * size elements per token where source, cache and scale allow it, else
//           head by head; NHD, HND, packed K|V and the like are strides
//   NVFP4   codes and scales of a row at the offsets of core/nvfp4.h
//
// A thread takes some tokens. Rows of equal types are copied as bytes. What does not stay in the
// last cache goes past it.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reshape_and_cache_flash.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_row-inl.h"
#include "cpu/nvfp4-inl.h"

// Everything that is compiled once only.
#include "core/nvfp4.h"
#include "cpu/isa.h"
#include "cpu/slots.h"
#include "cpu/stream.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

// Keys or values: where they come from and go to.
template <class S, class C>
struct Side {
  TensorView<const S, 3> rows;  // [padded, heads, size]
  TensorView<C, 4> cache;       // [blocks, block, heads, width]
  Scale scale;
  bool flat;     // the heads of a token follow each other on both sides, and share a scale
  bool streams;  // ... and are written past the caches

  Side(const kvops_tensor& from, const kvops_tensor& to, const kvops_tensor& scale)
      : rows(view<const S, 3>(from)), cache(view<C, 4>(to)), scale(scale_of(scale)) {
    const int64_t heads = rows.shape[1], size = rows.shape[2];
    flat = heads == 1 || (rows.stride[1] == size && cache.stride[2] == size && !this->scale.stride);
    const auto whole = [](int64_t n) { return whole_lines(n * int64_t(sizeof(C))); };
    streams = flat && whole(heads * size) && whole(cache.stride[0]) && whole(cache.stride[1]) &&
              on_line(cache.data);
  }

  void write(int64_t t, int64_t b, int64_t o) const {
    const int64_t heads = rows.shape[1], size = rows.shape[2];
    const S* from = rows.at(t);
    if (streams)
      return write_row<true>(from, cache.at(b, o), heads * size, scale(0), from + rows.stride[0]);
    if (flat) return write_row(from, cache.at(b, o), heads * size, scale(0));
    for (int64_t h = 0; h < heads; ++h) write_row(rows.at(t, h), cache.at(b, o, h), size, scale(h));
  }
};

int64_t bytes_per_token(const kvops_reshape_and_cache_flash_args& a) {
  return 2 * a.key.shape[1] *
         (a.key.shape[2] * dtype(a.key.dtype).size +
          a.key_cache.shape[3] * dtype(a.key_cache.dtype).size);
}

SlotMap slots_of(const kvops_reshape_and_cache_flash_args& a) {
  return slot_map(a.slot_mapping, a.key_cache.shape[0], a.key_cache.shape[1]);
}

template <class S, class C>
kvops_status write_plain(const kvops_reshape_and_cache_flash_args& a) {
  Side<S, C> key(a.key, a.key_cache, a.k_scale), value(a.value, a.value_cache, a.v_scale);
  const bool large = entries_stream(a.slot_mapping.shape[0] * bytes_per_token(a));
  key.streams &= large, value.streams &= large;
  for_each_run(
      slots_of(a), 1, bytes_per_token(a), a.faults,
      [&](int64_t t, int64_t b, int64_t o, int64_t) {
        key.write(t, b, o);
        value.write(t, b, o);
      },
      [&] {
        if (key.streams || value.streams) finish_streams();
      });
  return KVOPS_OK;
}

template <class S>
struct Nvfp4Side {
  TensorView<const S, 3> rows;
  uint8_t* pages;
  int64_t page_stride;
  Nvfp4Page page;
  float inverse;

  Nvfp4Side(const kvops_tensor& from, const kvops_tensor& to, const kvops_tensor& scale,
            bool transposed)
      : rows(view<const S, 3>(from)),
        pages(static_cast<uint8_t*>(to.data)),
        page_stride(to.stride[0]),
        page(nvfp4_page(to, transposed)),
        inverse(1.0f / *static_cast<const float*>(scale.data)) {}

  void write(int64_t t, int64_t b, int64_t o, bool four_over_six) const {
    uint8_t* const base = pages + b * page_stride;
    for (int64_t h = 0; h < page.heads; ++h)
      for (int64_t g = 0; g < page.groups; g += kNvfp4Groups) {
        const int64_t n = HWY_MIN(kNvfp4Groups, page.groups - g);
        uint8_t scales[kNvfp4Groups];
        nvfp4_groups(rows.at(t, h, 16 * g), n, inverse, four_over_six, base + page.codes(o, h, g),
                     scales);
        for (int64_t i = 0; i < n; ++i) base[page.scale(o, h, g + i)] = scales[i];
      }
  }
};

template <class S>
kvops_status write_nvfp4(const kvops_reshape_and_cache_flash_args& a) {
  const bool transposed = a.v_scale_layout == KVOPS_V_SCALE_TRANSPOSED;
  const bool four_over_six = a.format == KVOPS_FORMAT_NVFP4_4OVER6;
  const Nvfp4Side<S> key(a.key, a.key_cache, a.k_scale, false),
      value(a.value, a.value_cache, a.v_scale, transposed);
  for_each_run(slots_of(a), 1, bytes_per_token(a), a.faults,
               [&](int64_t t, int64_t b, int64_t o, int64_t) {
                 key.write(t, b, o, four_over_six);
                 value.write(t, b, o, four_over_six);
               });
  return KVOPS_OK;
}

}  // namespace

kvops_status reshape_and_cache_flash(const kvops_reshape_and_cache_flash_args& a) {
  constexpr auto* op = "reshape_and_cache_flash";
  if (a.format != KVOPS_FORMAT_PLAIN)
    return dispatch(op, "key", a.key.dtype, Halves{}, [&]<class S>() { return write_nvfp4<S>(a); });
  return dispatch_cache(op, "key", a.key.dtype, a.key_cache.dtype,
                        [&]<class S, class C>() { return write_plain<S, C>(a); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(reshape_and_cache_flash)
}  // namespace kvops::cpu
#endif
