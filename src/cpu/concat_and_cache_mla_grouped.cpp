// concat_and_cache_mla_grouped: [kv_c | k_pe] of several layers, each into a cache of its own that
// is reached by address. Entries: mla_entry-inl.h. A thread takes some (layer, token) pairs.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/concat_and_cache_mla_grouped.cpp"
#include <hwy/foreach_target.h>

#include "cpu/mla_entry-inl.h"

// Everything that is compiled once only.
#include <atomic>

#include "core/view.h"
#include "cpu/indices.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Args = kvops_concat_and_cache_mla_grouped_args;

// Where entries lie; the caller answers for addresses, so they wrap around and never overflow.
struct Caches {
  const int64_t* addresses;
  int64_t block, capacity;  // capacity: of slots
  uint64_t block_bytes, entry_bytes;

  Caches(const Args& a, size_t element)
      : addresses(static_cast<const int64_t*>(a.kv_cache_ptrs.data)),
        block(a.block_size),
        block_bytes(uint64_t(a.block_stride) * element),
        entry_bytes(uint64_t(a.entry_stride) * element) {
    const bool unknown = a.num_blocks == 0;
    if (unknown || __builtin_mul_overflow(a.num_blocks, block, &capacity)) capacity = INT64_MAX;
  }
  bool begin_lines(int64_t layers) const {
    uint64_t all = block_bytes | entry_bytes;
    for (int64_t i = 0; i < layers; ++i) all |= uint64_t(addresses[i]);
    return all % 64 == 0;
  }
  void* entry(int64_t layer, int64_t slot) const {
    return reinterpret_cast<void*>(uint64_t(addresses[layer]) +
                                   uint64_t(slot / block) * block_bytes +
                                   uint64_t(slot % block) * entry_bytes);
  }
};

// What an entry moves.
template <class W>
int64_t bytes_of(const Args& a) {
  return (a.kv_c.shape[2] + a.k_pe.shape[2]) *
         int64_t(sizeof(typename W::Source) + sizeof(typename W::Element));
}

// Apart from the loop: one entry is much work, and the loop's registers are not for it.
template <bool stream, class W, class S, class C>
HWY_NOINLINE void put(const W& write, const S* kv_c, const S* k_pe, C* entry, float scale) {
  write.template write<stream>(kv_c, k_pe, entry, scale);
}

template <bool stream, class W>
kvops_status run(const Args& a, const W& write) {
  using S = typename W::Source;
  using C = typename W::Element;
  const auto latent = view<const S, 3>(a.kv_c), rope = view<const S, 3>(a.k_pe);
  const auto slots = view<const int64_t, 2>(a.slot_mapping);
  const Caches caches(a, sizeof(C));
  const auto* scales = static_cast<const float*>(a.kv_scales.data);
  const int64_t layers = slots.shape[0], tokens = slots.shape[1];
  std::atomic<int64_t> bad = 0;
  parallel_for(layers * tokens, rows_per_piece(bytes_of<W>(a)), [&](int64_t begin, int64_t end) {
    int64_t faults = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / tokens, t = i % tokens, slot = slots(layer, t);
      if (!caches.addresses[layer] || !valid(slot, caches.capacity, faults)) continue;
      put<stream>(write, latent.at(layer, t), rope.at(layer, t),
                  static_cast<C*>(caches.entry(layer, slot)), scales ? scales[layer] : 1.0f);
    }
    if (stream) finish_streams();
    if (faults) bad.fetch_add(faults, std::memory_order_relaxed);
  });
  if (bad && present(a.faults)) *static_cast<int64_t*>(a.faults.data) += bad;
  return KVOPS_OK;
}

}  // namespace

kvops_status concat_and_cache_mla_grouped(const Args& a) {
  return dispatch_entry(
      "concat_and_cache_mla_grouped", a, kvops_dtype(a.cache_dtype), [&]<class W>(const W& write) {
        const int64_t layers = a.slot_mapping.shape[0];
        const bool large = entries_stream(layers * a.slot_mapping.shape[1] * bytes_of<W>(a));
        const Caches caches(a, sizeof(typename W::Element));
        return large && write.streams(caches.begin_lines(layers)) ? run<true>(a, write)
                                                                  : run<false>(a, write);
      });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(concat_and_cache_mla_grouped)
}  // namespace kvops::cpu
#endif
