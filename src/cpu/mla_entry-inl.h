// One entry of an MLA cache, written by every operator that has [latent | rope] of a token:
//
//   plain         [latent | rope], copied or quantised with one scale
//   FP8_DS_MLA    512 e4m3 | 4 f32 scales, one per 128 elements | 64 16-bit rope elements
//
// And the groups of elements with a scale of their own, which the indexer's cache has, too.
#include <limits>

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

#if HWY_TARGET <= HWY_AVX3
// The largest magnitude of n 16-bit elements, a multiple of 32, as integers.
HWY_INLINE uint16_t most_of(const uint16_t* x, int64_t n) {
  const hn::FixedTag<uint16_t, 32> d;
  const auto magnitude = hn::Set(d, uint16_t{0x7FFF});
  auto most = hn::And(hn::LoadU(d, x), magnitude);
  for (int64_t i = 32; i < n; i += 32)
    most = hn::Max(most, hn::And(hn::LoadU(d, x + i), magnitude));
  const auto ymm =
      _mm256_max_epu16(_mm512_castsi512_si256(most.raw), _mm512_extracti64x4_epi64(most.raw, 1));
  const auto xmm = _mm_max_epu16(_mm256_castsi256_si128(ymm), _mm256_extracti128_si256(ymm, 1));
  const auto least = _mm_minpos_epu16(_mm_xor_si128(xmm, _mm_set1_epi16(-1)));
  return uint16_t(~_mm_cvtsi128_si32(least));
}
#endif

// The largest magnitude of n elements; NaN does not count. 16-bit ones are compared as integers.
template <class S>
HWY_INLINE float row_amax(const S* x, int64_t n) {
  using Bits = std::conditional_t<sizeof(S) == 2, int16_t, int32_t>;
  constexpr Bits kInf = Bits(sizeof(S) == 4            ? 0x7F800000
                             : std::is_same_v<S, bf16> ? 0x7F80
                                                       : 0x7C00);
#if HWY_TARGET <= HWY_AVX3
  if constexpr (sizeof(S) == 2)
    if (n % 32 == 0) {
      const uint16_t most = most_of(reinterpret_cast<const uint16_t*>(x), n);
      if (most <= kInf) return to_float(S{most});
    }
#endif
  const hn::ScalableTag<Bits> d;
  const hn::ScalableTag<int32_t> d32;
  const auto lanes = int64_t(hn::Lanes(d));
  auto most = hn::Zero(d);
  for (int64_t i = 0; i < n; i += lanes) {
    const auto raw = i + lanes <= n ? load_raw(d, x + i) : load_raw_n(d, x + i, size_t(n - i));
    const auto m = hn::And(raw, hn::Set(d, std::numeric_limits<Bits>::max()));
    most = hn::Max(most, hn::IfThenZeroElse(hn::Gt(m, hn::Set(d, kInf)), m));
  }
  auto all = hn::BitCast(d32, most);
  if constexpr (sizeof(S) == 2)
    all = hn::Max(hn::And(all, hn::Set(d32, 0xFFFF)), hn::ShiftRight<16>(all));
  const auto bits = uint32_t(hn::GetLane(hn::MaxOfLanes(d32, all)));
  if constexpr (sizeof(S) == 2)
    return to_float(S{uint16_t(bits)});
  else
    return bits_float(bits);
}

// Do all entries begin lines?
template <class C>
bool begin_lines(const TensorView<C, 3>& cache) {
  return on_line(cache.data) &&
         whole_lines((cache.stride[0] | cache.stride[1]) * int64_t(sizeof(C)));
}

// Asks for the lines of an entry that will be written.
HWY_INLINE void ask_to_write(const void* entry, int64_t bytes) {
  const auto* p = static_cast<const char*>(entry);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 1, 3);
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

  bool streams(bool) const { return false; }  // 10 1/4 lines
  template <bool stream>
  HWY_INLINE void write(const S* kv_c, const S* k_pe, uint8_t* entry, float) const {
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
