// concat_and_cache_mla_grouped: [kv_c | k_pe] of several layers in one launch, each into a cache of
// its own that is reached by an address in device memory; see mla_entry.cuh. Tokens are numbered
// layer by layer. A layer without an address is skipped, its slots are not looked at.
#include "gpu/mla_entry.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_concat_and_cache_mla_grouped_args;

constexpr const char* kOp = "concat_and_cache_mla_grouped";

// Strides of sources in elements, those of caches in bytes: nobody checks these, so they wrap
// around and never overflow.
template <class T, class C>
struct Tokens {
  static constexpr bool kKnown = false;
  int64_t tokens;    // of all layers
  Splitter a_layer;  // tokens of one
  SlotMap slots;
  int64_t slot_stride;  // of a layer
  const T *latent, *rope;
  int64_t latent_layer, latent_token, rope_layer, rope_token;
  const int64_t* caches;
  uint64_t block_bytes, entry_bytes;
  const float* scales;

  __device__ Source<T> source(int64_t i) const {
    auto [layer, t] = a_layer(i);
    return {latent + layer * latent_layer + t * latent_token,
            rope + layer * rope_layer + t * rope_token};
  }
  __device__ C* entry(int64_t i, bool counts) const {
    auto [layer, t] = a_layer(i);
    auto address = uint64_t(caches[layer]);
    int64_t slot = slots.slot[layer * slot_stride + t];  // both are on their way
    if (!address) return nullptr;
    Place place = slots.place_of(slot, counts);
    if (place.block < 0) return nullptr;
    return reinterpret_cast<C*>(address + uint64_t(place.block) * block_bytes +
                                uint64_t(place.at) * entry_bytes);
  }
  __device__ const float* scale(int64_t i) const { return scales + a_layer(i).quotient; }
};

template <class T, class C>
Tokens<T, C> tokens_of(const Args& a) {
  auto latent = view<const T, 3>(a.kv_c), rope = view<const T, 3>(a.k_pe);
  int64_t layers = a.slot_mapping.shape[0], tokens = a.slot_mapping.shape[1], capacity;
  if (!a.num_blocks || __builtin_mul_overflow(a.num_blocks, a.block_size, &capacity))
    capacity = INT64_MAX;
  auto bytes = [](int64_t elements) { return uint64_t(elements) * sizeof(C); };
  return {layers * tokens,
          Splitter(tokens),
          {static_cast<const int64_t*>(a.slot_mapping.data), tokens, capacity,
           Splitter(a.block_size), static_cast<int64_t*>(a.faults.data)},
          a.slot_mapping.stride[0],
          latent.data,
          rope.data,
          latent.stride[0],
          latent.stride[1],
          rope.stride[0],
          rope.stride[1],
          static_cast<const int64_t*>(a.kv_cache_ptrs.data),
          bytes(a.block_stride),
          bytes(a.entry_stride),
          static_cast<const float*>(a.kv_scales.data)};
}

// Entries are taken to be aligned: who stores one looks at its address.
EntryLayout layout_of(const Args& a) {
  int64_t size = dtype(a.kv_c.dtype).size;
  auto aligned = [&](const kvops_tensor& t) { return is_empty(t) || rows_aligned(t, size, 16); };
  return {a.kv_c.shape[2], a.k_pe.shape[2], aligned(a.kv_c) && aligned(a.k_pe), 16};
}

}  // namespace

kvops_status concat_and_cache_mla_grouped(const Args& a) {
  EntryLayout layout = layout_of(a);
  if (a.format == KVOPS_FORMAT_FP8_DS_MLA)
    return dispatch_fp8_ds(kOp, a.kv_c.dtype, a.fp8_encoding, [&]<class T, class F8>() {
      return write_fp8_ds<F8, T>(kOp, tokens_of<T, uint8_t>(a), layout,
                                 a.scale_rule == KVOPS_SCALE_POW2, a.kv_c);
    });
  return dispatch_plain(kOp, a.kv_c.dtype, kvops_dtype(a.cache_dtype), [&]<class T, class C>() {
    return write_plain<T, C>(kOp, tokens_of<T, C>(a), layout, a.kv_c);
  });
}

}  // namespace kvops::KVOPS_GPU
