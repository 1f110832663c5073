// One entry of an MLA cache, written by every operator that has [latent | rope] of a token:
//
//   plain         [latent | rope], copied or quantised with one scale
//   FP8_DS_MLA    512 e4m3 | 4 f32 scales, one per 128 elements | 64 16-bit rope elements
#include "cpu/cache_row-inl.h"

#if defined(KVOPS_CPU_MLA_ENTRY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_MLA_ENTRY_INL_H_
#undef KVOPS_CPU_MLA_ENTRY_INL_H_
#else
#define KVOPS_CPU_MLA_ENTRY_INL_H_
#endif

#include "kvcache_ops/cache_format.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kLatent = 512, kRope = 64;  // of the packed records

// The largest magnitude of n elements; NaN does not count.
template <class S>
HWY_INLINE float row_amax(const S* x, int64_t n) {
  const hn::ScalableTag<float> d;
  const auto lanes = int64_t(hn::Lanes(d));
  auto most = hn::Zero(d);
  for (int64_t i = 0; i < n; i += lanes) {
    const auto y = hn::Abs(i + lanes <= n ? load(d, x + i) : load_n(d, x + i, size_t(n - i)));
    most = hn::IfThenElse(hn::Gt(y, most), y, most);
  }
  return hn::GetLane(hn::MaxOfLanes(d, most));
}

template <class S, class C>
struct PlainEntry {
  using Source = S;
  using Element = C;
  int64_t latent, rope;

  HWY_INLINE void operator()(const S* kv_c, const S* k_pe, C* entry, float scale) const {
    write_row(kv_c, entry, latent, scale);
    write_row(k_pe, entry + latent, rope, scale);
  }
};

template <class S, class F8>
struct Fp8DsEntry {
  using Source = S;
  using Element = uint8_t;
  bool pow2;

  HWY_INLINE void operator()(const S* kv_c, const S* k_pe, uint8_t* entry, float) const {
    constexpr int64_t kTile = 128;
    for (int64_t k = 0; k < kLatent / kTile; ++k) {
      const S* tile = kv_c + k * kTile;
      const float scale = ds_mla_scale(row_amax(tile, kTile), Fp8Traits<F8>::kFnuz, pow2);
      write_row(tile, reinterpret_cast<F8*>(entry) + k * kTile, kTile, scale);
      hwy::CopyBytes<4>(&scale, entry + kLatent + 4 * k);
    }
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
