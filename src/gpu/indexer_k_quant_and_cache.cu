// indexer_k_quant_and_cache: keys of the sparse indexer as e4m3 codes and f32 scales of groups.
//
//   block: [position][d] codes | [position][d / q] scales
//
// `lanes` threads share a group of q elements: one access of 16 bytes each where q allows it, else
// 32 threads go over single elements twice. Scales by core/indexer.h: the same bytes as on the CPU.
#include "core/dispatch.h"
#include "core/indexer.h"
#include "gpu/codes.cuh"
#include "gpu/mla_entry.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "indexer_k_quant_and_cache";
constexpr int kThreads = 128;

template <class T>
struct Keys {
  SlotMap slots;
  const T* k;
  int64_t stride, d, q;
  uint8_t* cache;
  int64_t block_stride, scales;  // scales: where they begin in a block
  int64_t groups_of_all;
  Splitter groups;  // of a token
  int lanes;
  bool pow2;
};

// N: elements of an access; above 1, a group is one access of its threads.
template <class F8, class T, int N>
__global__ void __launch_bounds__(kThreads) indexer_kernel(KVOPS_IN_PLACE Keys<T> keys) {
  int lane = int(threadIdx.x) % keys.lanes;
  int64_t item = int64_t(blockIdx.x) * (kThreads / keys.lanes) + int(threadIdx.x) / keys.lanes;
  bool live = item < keys.groups_of_all;
  auto [t, g] = keys.groups(live ? item : 0);
  const int64_t slot = live ? keys.slots.slot[t] : -1;  // on its way beside the elements
  const T* from = keys.k + t * keys.stride + g * keys.q;
  Group<T, N> x = {};
  float most = 0;
  if constexpr (N > 1) {
    x = load<N, true>(from + lane * N);
    most = magnitude_of(x);
  } else {
    for (int64_t i = lane; i < keys.q; i += keys.lanes)
      most = fmaxf(most, magnitude_of(load<1, true>(from + i)));
  }
  Place place = keys.slots.place_of(slot, !g && !lane);
  float scale = indexer_scale(most_of(most, keys.lanes), Fp8Traits<F8>::kFnuz, keys.pow2);
  if (place.block < 0) return;
  uint8_t* block = keys.cache + place.block * keys.block_stride;
  auto* codes = reinterpret_cast<F8*>(block + place.at * keys.d + g * keys.q);
  Divider<T> divide(scale);
  if constexpr (N > 1) {
    store<true>(codes + lane * N, codes_of<F8>(x, divide));
  } else {
    for (int64_t i = lane; i < keys.q; i += keys.lanes)
      store<true>(codes + i, codes_of<F8>(load<1, true>(from + i), divide));
  }
  if (!lane) {
    Group<Byte, 4> bytes = {{float_bits(scale)}};
    put_bytes<(N > 1)>(block + keys.scales + 4 * (place.at * keys.groups.d + g), bytes);
  }
}

template <class T, class F8>
kvops_status run(const kvops_indexer_k_quant_and_cache_args& a) {
  constexpr int N = kGroup<T>;
  int64_t d = a.k.shape[1], q = a.quant_block_size, block = a.kv_cache.shape[1], groups = d / q;
  Keys<T> keys = {slot_map(a.slot_mapping, a.kv_cache.shape[0], block, a.faults),
                  static_cast<const T*>(a.k.data),
                  a.k.stride[0],
                  d,
                  q,
                  static_cast<uint8_t*>(a.kv_cache.data),
                  a.kv_cache.stride[0],
                  block * d,
                  0,
                  Splitter(groups),
                  32,
                  a.scale_rule == KVOPS_SCALE_POW2};
  if (a.k.shape[0] < keys.slots.tokens) keys.slots.tokens = a.k.shape[0];
  keys.groups_of_all = keys.slots.tokens * groups;
  int64_t lanes = q / N;
  bool wide = q % N == 0 && lanes <= 32 && (lanes & (lanes - 1)) == 0 &&
              rows_aligned(a.k, sizeof(T), 16) && is_multiple(a.kv_cache.data, 8) &&
              (a.kv_cache.shape[0] <= 1 || a.kv_cache.stride[0] % 8 == 0);
  if (wide) keys.lanes = int(lanes);
  int64_t per_block = kThreads / keys.lanes;
  Grid grid = {.x = (keys.groups_of_all + per_block - 1) / per_block, .threads = kThreads};
  return wide ? launch(kOp, indexer_kernel<F8, T, N>, grid, a.kv_cache, keys)
              : launch(kOp, indexer_kernel<F8, T, 1>, grid, a.kv_cache, keys);
}

}  // namespace

kvops_status indexer_k_quant_and_cache(const kvops_indexer_k_quant_and_cache_args& a) {
  return dispatch(kOp, "k", a.k.dtype, Floats{}, [&]<class T>() {
    return a.fp8_encoding == KVOPS_FP8_FNUZ ? run<T, f8_e4m3fnuz>(a) : run<T, f8_e4m3>(a);
  });
}

}  // namespace kvops::KVOPS_GPU
