// One entry of an MLA cache, written by every operator that has [latent | rope] of a token:
//
//   plain         [latent | rope], copied or quantised with one scale
//   FP8_DS_MLA    512 e4m3 | 4 f32 scales, one per 128 elements | 64 16-bit rope elements
#include "cpu/amax-inl.h"
#include "cpu/cache_row-inl.h"

#if defined(KVOPS_CPU_MLA_ENTRY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_MLA_ENTRY_INL_H_
#undef KVOPS_CPU_MLA_ENTRY_INL_H_
#else
#define KVOPS_CPU_MLA_ENTRY_INL_H_
#endif

#include "cpu/stream.h"
#include "kvcache_ops/cache_format.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kLatent = 512, kRope = 64;  // of the packed records

// Do all entries begin lines?
template <class C>
bool begin_lines(const TensorView<C, 3>& cache) {
  return on_line(cache.data) &&
         whole_lines((cache.stride[0] | cache.stride[1]) * int64_t(sizeof(C)));
}

// Asks for the lines of an entry that will be written. stream: those that go through the caches,
// because they are not written whole.
template <bool stream>
HWY_INLINE void ask_to_write(const void* entry, int64_t bytes) {
  const auto* p = static_cast<const char*>(entry);
  if constexpr (stream) {
    if (!on_line(p)) __builtin_prefetch(p, 1, 3);
    if (!on_line(p + bytes)) __builtin_prefetch(p + bytes - 1, 1, 3);
  } else {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 1, 3);
  }
}

// Writers: write<stream>(latent row, rope row, entry, scale), stream if streams(begin_lines()).
template <class S, class C>
struct PlainEntry {
  using Source = S;
  using Element = C;
  static constexpr int64_t kSize = sizeof(C);
  int64_t latent, rope;

  bool streams(bool on_lines) const {
    return on_lines && whole_lines(latent * kSize) && whole_lines(rope * kSize);
  }
  template <bool stream>
  HWY_INLINE void write(const S* kv_c, const S* k_pe, C* entry, float scale) const {
    if (latent)
      write_row<stream>(kv_c, entry, latent, scale, kv_c + 4 * latent);  // else no address
    if (rope) write_row<stream>(k_pe, entry + latent, rope, scale, k_pe + 4 * rope);
  }
};

template <class S, class F8>
struct Fp8DsEntry {
  using Source = S;
  using Element = uint8_t;
  bool pow2;

  static constexpr int64_t kBytes = kLatent + 16 + kRope * int64_t(sizeof(S));
  bool streams(bool) const { return true; }
  // 10 1/4 lines: the whole ones go past the caches, from where they are put together.
  template <bool stream>
  HWY_INLINE void write(const S* kv_c, const S* k_pe, uint8_t* entry, float) const {
    if constexpr (stream) {
      alignas(64) uint8_t record[kBytes + 64];
      uint8_t* at = record + reinterpret_cast<uintptr_t>(entry) % 64;
      put(kv_c, k_pe, at);
      copy_bytes<true>(at, entry, kBytes);
    } else {
      put(kv_c, k_pe, entry);
    }
  }
  HWY_INLINE void put(const S* kv_c, const S* k_pe, uint8_t* entry) const {
    constexpr int64_t kTiles = 4, kTile = kLatent / kTiles;
    float scales[kTiles];
    for (int64_t k = 0; k < kTiles; ++k)
      scales[k] = ds_mla_scale(row_amax(kv_c + k * kTile, kTile), Fp8Traits<F8>::kFnuz, pow2);
    for (int64_t k = 0; k < kTiles; ++k)
      write_row(kv_c + k * kTile, reinterpret_cast<F8*>(entry) + k * kTile, kTile, scales[k]);
    hwy::CopyBytes<sizeof scales>(scales, entry + kLatent);
    hwy::CopyBytes<kRope * sizeof(S)>(k_pe, entry + 528);
  }
};

// f(entry writer) for PLAIN or FP8_DS_MLA with sources and caches of these dtypes. The sources of a
// plain copy are integers of their size.
template <class Args, class F>
kvops_status dispatch_entry(const char* op, const Args& a, kvops_dtype cache, F&& f) {
  if (a.format == KVOPS_FORMAT_FP8_DS_MLA)
    return dispatch(op, "kv_c", a.kv_c.dtype, Halves{}, [&]<class S>() {
      const bool pow2 = a.scale_rule == KVOPS_SCALE_POW2;
      return a.fp8_encoding == KVOPS_FP8_FNUZ ? f(Fp8DsEntry<S, f8_e4m3fnuz>{pow2})
                                              : f(Fp8DsEntry<S, f8_e4m3>{pow2});
    });
  const int64_t latent = a.kv_c.shape[a.kv_c.rank - 1], rope = a.k_pe.shape[a.k_pe.rank - 1];
  return dispatch_cache(op, "kv_c", a.kv_c.dtype, cache, [&]<class S, class C>() {
    return f(PlainEntry<S, C>{latent, rope});
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
