// concat_and_cache_mla: the latent and the rope part of each token as one entry of an MLA cache.
//
//   PLAIN, FP8_DS_MLA  see mla_entry-inl.h
//   NVFP4_DS_MLA       512 e2m1 | 64 e4m3 rope elements | 32 e4m3 scales, one per 16 elements
//
// A thread takes some tokens. Scales by core/numeric.h: the same bytes on every back end.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/concat_and_cache_mla.cpp"
#include <hwy/foreach_target.h>

#include "cpu/mla_entry-inl.h"
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

// What entries of C made of rows of S move, per token.
template <class S, class C>
int64_t bytes_of(const Args& a) {
  return (a.kv_c.shape[1] + a.k_pe.shape[1]) * int64_t(sizeof(S)) +
         a.kv_cache.shape[2] * int64_t(sizeof(C));
}

// Calls write(latent row, rope row, entry) for every token that has a slot.
template <bool stream, class S, class C, class F>
kvops_status for_each_entry(const Args& a, F&& write) {
  const auto latent = view<const S, 2>(a.kv_c), rope = view<const S, 2>(a.k_pe);
  const auto cache = view<C, 3>(a.kv_cache);
  const int64_t entry = cache.shape[2] * int64_t(sizeof(C));
  const SlotMap map = slot_map(a.slot_mapping, cache.shape[0], cache.shape[1]);
  for_each_run(
      map, 1, bytes_of<S, C>(a), a.faults,
      [&](int64_t t, int64_t b, int64_t o, int64_t) {
        map.ahead(t, [&](int64_t next_b, int64_t next_o) {
          ask_to_write<stream>(cache.at(next_b, next_o), entry);
        });
        write(latent.at(t), rope.at(t), cache.at(b, o));
      },
      [] {
        if (stream) finish_streams();
      });
  return KVOPS_OK;
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
  if (a.format == KVOPS_FORMAT_NVFP4_DS_MLA)
    return for_each_entry<false, bf16, uint8_t>(a, write_nvfp4_entry);
  const float scale = a.format == KVOPS_FORMAT_PLAIN ? scale_of(a.kv_scale)(0) : 1.0f;
  return dispatch_entry("concat_and_cache_mla", a, a.kv_cache.dtype, [&]<class W>(const W& write) {
    using S = typename W::Source;
    using C = typename W::Element;
    const auto run = [&]<bool stream>() {
      return for_each_entry<stream, S, C>(a, [&](const S* kv_c, const S* k_pe, C* entry) {
        write.template write<stream>(kv_c, k_pe, entry, scale);
      });
    };
    const bool large = entries_stream(a.slot_mapping.shape[0] * bytes_of<S, C>(a)) &&
                       write.streams(begin_lines(view<C, 3>(a.kv_cache)));
    return large ? run.template operator()<true>() : run.template operator()<false>();
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(concat_and_cache_mla)
}  // namespace kvops::cpu
#endif
