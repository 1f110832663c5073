// concat_and_cache_mla: the latent and the rope part of each token as one entry of an MLA cache.
//
//   PLAIN         [latent | rope], copied or quantised with one scale
//   FP8_DS_MLA    512 e4m3 | 4 f32 scales, one per 128 elements | 64 16-bit rope elements
//   NVFP4_DS_MLA  512 e2m1 | 64 e4m3 rope elements | 32 e4m3 scales, one per 16 elements
//
// A thread takes some tokens. Scales by core/numeric.h: the same bytes on every back end.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/concat_and_cache_mla.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_row-inl.h"
#include "cpu/nvfp4-inl.h"

// Everything that is compiled once only.
#include "cpu/isa.h"
#include "cpu/slots.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Args = kvops_concat_and_cache_mla_args;

constexpr int64_t kLatent = 512, kRope = 64;  // of the packed records

// Calls write(latent row, rope row, entry) for every token that has a slot.
template <class S, class C, class F>
kvops_status for_each_entry(const Args& a, F&& write) {
  const auto latent = view<const S, 2>(a.kv_c), rope = view<const S, 2>(a.k_pe);
  const auto cache = view<C, 3>(a.kv_cache);
  const int64_t bytes =
      (latent.shape[1] + rope.shape[1]) * int64_t(sizeof(S)) + cache.shape[2] * int64_t(sizeof(C));
  for_each_run(slot_map(a.slot_mapping, cache.shape[0], cache.shape[1]), 1, bytes, a.faults,
               [&](int64_t t, int64_t b, int64_t o, int64_t) {
                 write(latent.at(t), rope.at(t), cache.at(b, o));
               });
  return KVOPS_OK;
}

template <class S, class C>
kvops_status write_plain(const Args& a) {
  const int64_t latent = a.kv_c.shape[1], rope = a.k_pe.shape[1];
  const float scale = scale_of(a.kv_scale)(0);
  return for_each_entry<S, C>(a, [&](const S* kv_c, const S* k_pe, C* entry) {
    write_row(kv_c, entry, latent, scale);
    write_row(k_pe, entry + latent, rope, scale);
  });
}

// The largest magnitude of n elements, a multiple of the lanes; NaN does not count.
template <class S>
HWY_INLINE float row_amax(const S* x, int64_t n) {
  const hn::ScalableTag<float> d;
  auto most = hn::Zero(d);
  for (int64_t i = 0; i < n; i += int64_t(hn::Lanes(d))) {
    const auto y = hn::Abs(load(d, x + i));
    most = hn::IfThenElse(hn::Gt(y, most), y, most);
  }
  return hn::GetLane(hn::MaxOfLanes(d, most));
}

template <class S, class F8>
void write_fp8_entry(const S* kv_c, const S* k_pe, uint8_t* entry, bool pow2) {
  constexpr int64_t kTile = 128;
  for (int64_t k = 0; k < kLatent / kTile; ++k) {
    const S* tile = kv_c + k * kTile;
    const float scale = ds_mla_scale(row_amax(tile, kTile), Fp8Traits<F8>::kFnuz, pow2);
    write_row(tile, reinterpret_cast<F8*>(entry) + k * kTile, kTile, scale);
    hwy::CopyBytes<4>(&scale, entry + kLatent + 4 * k);
  }
  hwy::CopyBytes<kRope * sizeof(S)>(k_pe, entry + 528);
}

template <class S, class F8>
kvops_status write_fp8(const Args& a) {
  const bool pow2 = a.scale_rule == KVOPS_SCALE_POW2;
  return for_each_entry<S, uint8_t>(a, [&](const S* kv_c, const S* k_pe, uint8_t* entry) {
    write_fp8_entry<S, F8>(kv_c, k_pe, entry, pow2);
  });
}

void write_nvfp4_entry(const bf16* kv_c, const bf16* k_pe, uint8_t* entry) {
  constexpr int64_t kGroups = kLatent / 16;
  for (int64_t g = 0; g < kGroups; ++g) {
    const f8_e4m3 scale = nvfp4_ds_mla_scale(group_amax(kv_c + 16 * g, 0));
    store_codes(kv_c + 16 * g, 1.0f / decode(scale), entry + 8 * g);
    entry[320 + 8 * (g % 4) + g / 4] = scale.bits;
  }
  write_row(k_pe, reinterpret_cast<f8_e4m3*>(entry + 256), kRope, 1.0f);
}

}  // namespace

kvops_status concat_and_cache_mla(const Args& a) {
  constexpr auto* op = "concat_and_cache_mla";
  if (a.format == KVOPS_FORMAT_NVFP4_DS_MLA)
    return for_each_entry<bf16, uint8_t>(a, write_nvfp4_entry);
  if (a.format == KVOPS_FORMAT_FP8_DS_MLA)
    return dispatch(op, "kv_c", a.kv_c.dtype, Halves{}, [&]<class S>() {
      return a.fp8_encoding == KVOPS_FP8_FNUZ ? write_fp8<S, f8_e4m3fnuz>(a)
                                              : write_fp8<S, f8_e4m3>(a);
    });
  return dispatch_cache(op, "kv_c", a.kv_c.dtype, a.kv_cache.dtype,
                        [&]<class S, class C>() { return write_plain<S, C>(a); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(concat_and_cache_mla)
}  // namespace kvops::cpu
#endif
