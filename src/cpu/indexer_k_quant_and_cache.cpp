// indexer_k_quant_and_cache: keys of the sparse indexer as e4m3 codes and f32 scales of groups.
//
//   block: [position][d] codes | [position][d / q] scales
//
// A thread takes some tokens. Scales by core/indexer.h: the same bytes on every back end.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/indexer_k_quant_and_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/mla_entry-inl.h"

// Everything that is compiled once only.
#include <algorithm>

#include "core/indexer.h"
#include "cpu/isa.h"
#include "cpu/slots.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Args = kvops_indexer_k_quant_and_cache_args;

template <class S, class F8>
kvops_status run(const Args& a) {
  const auto k = view<const S, 2>(a.k);
  const auto cache = view<uint8_t, 3>(a.kv_cache);
  const int64_t d = k.shape[1], q = a.quant_block_size, groups = d / q, block = cache.shape[1];
  const bool pow2 = a.scale_rule == KVOPS_SCALE_POW2;
  SlotMap map = slot_map(a.slot_mapping, cache.shape[0], block);
  map.tokens = std::min(map.tokens, k.shape[0]);
  const int64_t bytes = d * int64_t(sizeof(S)) + d + 4 * groups;
  for_each_run(map, 1, bytes, a.faults, [&](int64_t t, int64_t b, int64_t o, int64_t) {
    const S* row = k.at(t);
    uint8_t *codes = cache.at(b) + o * d, *scales = cache.at(b) + block * d + 4 * o * groups;
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = indexer_scale(row_amax(row + g * q, q), Fp8Traits<F8>::kFnuz, pow2);
      write_row(row + g * q, reinterpret_cast<F8*>(codes) + g * q, q, scale);
      hwy::CopyBytes<4>(&scale, scales + 4 * g);
    }
  });
  return KVOPS_OK;
}

}  // namespace

kvops_status indexer_k_quant_and_cache(const Args& a) {
  return dispatch("indexer_k_quant_and_cache", "k", a.k.dtype, Floats{}, [&]<class S>() {
    return a.fp8_encoding == KVOPS_FP8_FNUZ ? run<S, f8_e4m3fnuz>(a) : run<S, f8_e4m3>(a);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(indexer_k_quant_and_cache)
}  // namespace kvops::cpu
#endif
