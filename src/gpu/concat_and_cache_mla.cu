// concat_and_cache_mla: the latent and the rope part of each token as one entry of an MLA cache, in
// any of its records; see mla_entry.cuh.
#include "gpu/mla_entry.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_concat_and_cache_mla_args;

constexpr const char* kOp = "concat_and_cache_mla";

template <class T, class C>
struct Tokens {
  static constexpr bool kKnown = true;
  int64_t tokens;
  SlotMap slots;
  const T *latent, *rope;
  int64_t latent_stride, rope_stride;
  C* cache;
  int64_t block_stride, entry_stride;
  const float* fp8_scale;

  __device__ Source<T> source(int64_t t) const {
    return {latent + t * latent_stride, rope + t * rope_stride};
  }
  __device__ C* entry(int64_t t, bool counts) const {
    Place place = slots.place(t, counts);
    return place.block < 0 ? nullptr : cache + place.block * block_stride + place.at * entry_stride;
  }
  __device__ const float* scale(int64_t) const { return fp8_scale; }
};

template <class T, class C>
Tokens<T, C> tokens_of(const Args& a) {
  auto latent = view<const T, 2>(a.kv_c), rope = view<const T, 2>(a.k_pe);
  return {a.slot_mapping.shape[0],
          slot_map(a.slot_mapping, a.kv_cache.shape[0], a.kv_cache.shape[1], a.faults),
          latent.data,
          rope.data,
          latent.stride[0],
          rope.stride[0],
          static_cast<C*>(a.kv_cache.data),
          a.kv_cache.stride[0],
          a.kv_cache.stride[1],
          static_cast<const float*>(a.kv_scale.data)};
}

EntryLayout layout_of(const Args& a) {
  int64_t source = dtype(a.kv_c.dtype).size, cache = dtype(a.kv_cache.dtype).size, entries = 16;
  while (entries > 1 && !rows_aligned(a.kv_cache, cache, entries)) entries /= 2;
  auto aligned = [&](const kvops_tensor& t) { return is_empty(t) || rows_aligned(t, source, 16); };
  return {a.kv_c.shape[1], a.k_pe.shape[1], aligned(a.kv_c) && aligned(a.k_pe), entries};
}

}  // namespace

kvops_status concat_and_cache_mla(const Args& a) {
  EntryLayout layout = layout_of(a);
  if (a.format == KVOPS_FORMAT_NVFP4_DS_MLA)
    return write_nvfp4_ds(kOp, tokens_of<bf16, uint8_t>(a), layout, a.kv_cache);
  if (a.format == KVOPS_FORMAT_FP8_DS_MLA)
    return dispatch_fp8_ds(kOp, a.kv_c.dtype, a.fp8_encoding, [&]<class T, class F8>() {
      return write_fp8_ds<F8, T>(kOp, tokens_of<T, uint8_t>(a), layout,
                                 a.scale_rule == KVOPS_SCALE_POW2, a.kv_cache);
    });
  return dispatch_plain(kOp, a.kv_c.dtype, a.kv_cache.dtype, [&]<class T, class C>() {
    return write_plain<T, C>(kOp, tokens_of<T, C>(a), layout, a.kv_cache);
  });
}

}  // namespace kvops::KVOPS_GPU
