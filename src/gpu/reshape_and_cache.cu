// reshape_and_cache: rows of new keys and values into the x-packed cache, or any view of another.
//
//   key_cache   [blocks][heads][size/x][block][x]   groups of 16 bytes, one token after the other
//   value_cache [blocks][heads][size][block]        a row lies across
//
// A block has a tile of tokens and kColumns columns (heads * size) of one side (K, V: blockIdx.z).
// Groups of K are moved by threads that are neighbours in tokens first, so that runs of tokens are
// dense in the cache. V is turned in shared memory: where the tokens of 16 bytes of the cache are
// in the tile one after another (a prompt), they are one store, others go element by element.
#include "core/dispatch.h"
#include "core/integers.h"
#include "gpu/codes.cuh"
#include "gpu/slots.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "reshape_and_cache";
constexpr int kThreads = 256, kMaxTile = 64;

template <class C>
constexpr int kColumns = sizeof(C) == 4 ? 64 : 128;

template <class T, class C>
struct Call {
  SlotMap slots;
  Splitter size;  // columns to heads
  int64_t columns;
  int tile;
  const T *key, *value;
  int64_t key_token, key_head, value_token, value_head;
  C *key_cache, *value_cache;
  int64_t k[5], v[4];  // strides
  const float *k_scale, *v_scale;
  bool k_grouped, v_grouped;  // 16 bytes of the cache may be one store
};

struct Tile {
  int64_t block[kMaxTile], at[kMaxTile];
  uint32_t links[2];                         // a bit for every token: it follows the one before
  uint32_t leads[2], singles[2];             // a bit for every token
  uint8_t lead[kMaxTile], single[kMaxTile];  // the tokens of those bits
};

// The n-th token of a set, for all of them.
__device__ inline void list_tokens(const uint32_t (&set)[2], uint8_t (&list)[kMaxTile]) {
  int i = int(threadIdx.x);
  if (i >= kMaxTile || !(set[i / 32] >> i % 32 & 1)) return;
  int before = int(__popc(set[i / 32] & ((1u << i % 32) - 1))) + (i / 32 ? int(__popc(set[0])) : 0);
  list[before] = uint8_t(i);
}

// The slot of this thread's token, on its way beside the rows; -1: none.
__device__ int64_t slot_of(const SlotMap& slots, int64_t first, int count) {
  int i = int(threadIdx.x);
  return i < kMaxTile && i < count && first + i < slots.tokens ? slots.slot[first + i] : -1;
}

__device__ void find_places(const SlotMap& slots, int64_t slot, bool counts, Tile& tile) {
  int i = int(threadIdx.x);
  if (i < 2) tile.links[i] = tile.leads[i] = tile.singles[i] = 0;
  if (i < kMaxTile) {
    Place place = slots.place_of(slot, counts);
    tile.block[i] = place.block, tile.at[i] = place.at;
  }
  __syncthreads();
}

// kRun: tokens of 16 bytes of V; 1: none are moved together.
template <int kRun>
__device__ void find_runs(Tile& tile) {
  int i = int(threadIdx.x);
  bool used = i < kMaxTile && tile.block[i] >= 0;
  if constexpr (kRun > 1) {
    if (used && i && tile.block[i] == tile.block[i - 1] && tile.at[i] == tile.at[i - 1] + 1)
      atomicOr(&tile.links[i / 32], 1u << i % 32);
    __syncthreads();
  }
  if (used) {
    constexpr uint64_t kAll = (uint64_t(1) << (kRun - 1)) - 1;
    uint64_t links = tile.links[0] | uint64_t(tile.links[1]) << 32;
    int offset = int(tile.at[i] % kRun), lead = i - offset;  // of these 16 bytes
    bool covered =
        kRun > 1 && lead >= 0 && lead + kRun <= kMaxTile && (links >> lead >> 1 & kAll) == kAll;
    if (!covered)
      atomicOr(&tile.singles[i / 32], 1u << i % 32);
    else if (!offset)
      atomicOr(&tile.leads[i / 32], 1u << i % 32);
  }
  __syncthreads();
  list_tokens(tile.leads, tile.lead);
  list_tokens(tile.singles, tile.single);
  __syncthreads();
}

// The scale is read before what a block waits for.
template <class T, class C>
__device__ float scale_of(const float* scale) {
  return __is_same(T, C) ? 1.0f : *scale;
}
template <class C, class T, int N>
__device__ Group<C, N> converted(const Group<T, N>& x, const Divider<T>& divide) {
  if constexpr (__is_same(T, C))
    return x;
  else
    return codes_of<C>(x, divide);
}

// Items of K: 4 groups of 8 tokens, then the next groups, then the next tokens.
template <class T, class C, bool kAligned>
__device__ void move_keys(const Call<T, C>& c, int64_t first, int64_t column, Tile& tile) {
  constexpr int N = kGroup<C>, kGroups = kColumns<C> / N, kUnroll = kMaxTile * kGroups / kThreads;
  int64_t slot = slot_of(c.slots, first, c.tile);
  Group<T, N> x[kUnroll];
  auto token_of = [](int i) { return i % 32 / 4 + i / (8 * kGroups) * 8; };
  auto column_of = [&](int i) { return column + (i % 4 + i / 32 % (kGroups / 4) * 4) * N; };
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    int i = int(threadIdx.x) + u * kThreads, t = token_of(i);
    int64_t at = column_of(i);
    if (t >= c.tile || first + t >= c.slots.tokens || at >= c.columns) continue;
    auto [h, d] = c.size(at);
    x[u] = load<N, kAligned>(c.key + (first + t) * c.key_token + h * c.key_head + d);
  }
  float scale = scale_of<T, C>(c.k_scale);
  find_places(c.slots, slot, !column, tile);
  Divider<T> divide(scale);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    int i = int(threadIdx.x) + u * kThreads, t = token_of(i);
    int64_t at = column_of(i);
    if (t >= c.tile || at >= c.columns || tile.block[t] < 0) continue;
    auto [h, d] = c.size(at);
    C* to =
        c.key_cache + tile.block[t] * c.k[0] + h * c.k[1] + d / N * c.k[2] + tile.at[t] * c.k[3];
    auto y = converted<C>(x[u], divide);
    if (c.k_grouped) {
      store<true>(to, y);
    } else {
#pragma unroll
      for (int e = 0; e < N; ++e) to[e * c.k[4]] = y.get(e);
    }
  }
}

// A row of the tile: words of columns, and some more so that neighbours use all banks.
template <class C>
struct Turned {
  static constexpr int kWords = kColumns<C> * int(sizeof(C)) / 4;
  static constexpr int kPitch = kWords + (sizeof(C) == 4 ? 4 : sizeof(C) == 2 ? 2 : 1);
  uint32_t word[kMaxTile * kPitch];
};

// Column k of kGroup<C> tokens from t on: 16 bytes of the cache.
template <class C>
__device__ Group<C, kGroup<C>> column_group(const Turned<C>& turned, int t, int k) {
  constexpr int kPitch = Turned<C>::kPitch * 4 / int(sizeof(C));
  const C* from = reinterpret_cast<const C*>(turned.word) + t * kPitch + k;
  Group<C, kGroup<C>> y;
#pragma unroll
  for (int n = 0; n < kGroup<C>; ++n) y.set(n, from[n * kPitch]);
  return y;
}

template <class T, class C, bool kAligned>
__device__ void load_values(const Call<T, C>& c, int64_t first, int64_t column, Turned<C>& turned) {
  constexpr int N = kGroup<T>, kGroups = kColumns<C> / N, kUnroll = 4;
  constexpr int kWords = N * int(sizeof(C)) / 4;  // of a group
  float scale = scale_of<T, C>(c.v_scale);
  for (int base = 0; base < c.tile * kGroups; base += kThreads * kUnroll) {
    Group<T, N> x[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      int i = base + int(threadIdx.x) + u * kThreads, t = i / kGroups;
      int64_t at = column + i % kGroups * N;
      if (t >= c.tile || first + t >= c.slots.tokens || at >= c.columns) continue;
      auto [h, d] = c.size(at);
      x[u] = load<N, kAligned>(c.value + (first + t) * c.value_token + h * c.value_head + d);
    }
    Divider<T> divide(scale);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      int i = base + int(threadIdx.x) + u * kThreads, t = i / kGroups;
      if (t >= c.tile || first + t >= c.slots.tokens || column + i % kGroups * N >= c.columns)
        continue;
      auto y = converted<C>(x[u], divide);
#pragma unroll
      for (int w = 0; w < kWords; ++w)
        turned.word[t * Turned<C>::kPitch + i % kGroups * kWords + w] = y.word[w];
    }
  }
}

template <class T, class C, bool kAligned>
__device__ void move_values(const Call<T, C>& c, int64_t first, int64_t column, Tile& tile,
                            Turned<C>& turned) {
  constexpr int G = kGroup<C>, kAll = kColumns<C>;
  int64_t slot = slot_of(c.slots, first, c.tile);
  load_values<T, C, kAligned>(c, first, column, turned);
  find_places(c.slots, slot, false, tile);
  if (c.v_grouped)
    find_runs<G>(tile);
  else
    find_runs<1>(tile);
  int leads = int(__popc(tile.leads[0]) + __popc(tile.leads[1]));
  int singles = int(__popc(tile.singles[0]) + __popc(tile.singles[1]));
  // Two neighbours of a block first, then the next column: 512 bytes of the cache for a warp.
  for (int i = int(threadIdx.x); i < (leads + 1) / 2 * 2 * kAll; i += kThreads) {
    int n = i / (2 * kAll) * 2 + i % 2, k = i / 2 % kAll;
    if (n >= leads || column + k >= c.columns) continue;
    int t = tile.lead[n];
    auto [h, d] = c.size(column + k);
    C* to = c.value_cache + tile.block[t] * c.v[0] + h * c.v[1] + d * c.v[2] + tile.at[t];
    store<true>(to, column_group<C>(turned, t, k));
  }
  for (int i = int(threadIdx.x); i < singles * kAll; i += kThreads) {
    int t = tile.single[i / kAll], k = i % kAll;
    if (column + k >= c.columns) continue;
    auto [h, d] = c.size(column + k);
    C* to = c.value_cache + tile.block[t] * c.v[0] + h * c.v[1] + d * c.v[2] + tile.at[t] * c.v[3];
    *to = reinterpret_cast<const C*>(turned.word)[t * (Turned<C>::kPitch * 4 / int(sizeof(C))) + k];
  }
}

template <class T, class C, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    reshape_and_cache_kernel(KVOPS_IN_PLACE Call<T, C> call) {
  __shared__ Tile tile;
  __shared__ Turned<C> turned;
  int64_t first = int64_t(blockIdx.x) * call.tile;
  for (int64_t column = int64_t(blockIdx.y) * kColumns<C>; column < call.columns;
       column += int64_t(gridDim.y) * kColumns<C>) {
    if (blockIdx.z)
      move_values<T, C, kAligned>(call, first, column, tile, turned);
    else
      move_keys<T, C, kAligned>(call, first, column, tile);
    __syncthreads();
  }
}

template <class T, class C>
kvops_status run(const kvops_reshape_and_cache_args& a) {
  constexpr int64_t kSize = sizeof(C);
  int64_t heads = a.key.shape[1], size = a.key.shape[2];
  Call<T, C> c = {slot_map(a.slot_mapping, a.key_cache.shape[0], a.key_cache.shape[3], a.faults),
                  Splitter(size),
                  heads * size,
                  kMaxTile,
                  static_cast<const T*>(a.key.data),
                  static_cast<const T*>(a.value.data),
                  a.key.stride[0],
                  a.key.stride[1],
                  a.value.stride[0],
                  a.value.stride[1],
                  static_cast<C*>(a.key_cache.data),
                  static_cast<C*>(a.value_cache.data),
                  {},
                  {},
                  static_cast<const float*>(a.k_scale.data),
                  static_cast<const float*>(a.v_scale.data),
                  false,
                  false};
  for (int i = 0; i < 5; ++i) c.k[i] = a.key_cache.stride[i];
  for (int i = 0; i < 4; ++i) c.v[i] = a.value_cache.stride[i];
  auto dense_groups = [&](const kvops_tensor& t, int inner) {
    bool dense = is_multiple(t.data, 16) && t.stride[inner] == 1;
    for (int i = 0; i < t.rank; ++i)
      dense = dense && (i == inner || t.shape[i] <= 1 || t.stride[i] * kSize % 16 == 0);
    return dense;
  };
  c.k_grouped = dense_groups(a.key_cache, 4);
  c.v_grouped = dense_groups(a.value_cache, 3);
  bool aligned = rows_aligned(a.key, sizeof(T), 16) && rows_aligned(a.value, sizeof(T), 16);
  int64_t columns = ceil_div(c.columns, kColumns<C>);
  if (columns > 65535) columns = 65535;
  while (c.tile > 16 &&
         ceil_div(c.slots.tokens, c.tile) * columns * 2 < 4 * compute_units(a.key_cache))
    c.tile /= 2;
  Grid grid = {.x = ceil_div(c.slots.tokens, c.tile), .y = columns, .z = 2, .threads = kThreads};
  return aligned ? launch(kOp, reshape_and_cache_kernel<T, C, true>, grid, a.key_cache, c)
                 : launch(kOp, reshape_and_cache_kernel<T, C, false>, grid, a.key_cache, c);
}

// A copy looks at the size of elements only.
struct Bits16 {
  uint16_t bits;
};

}  // namespace

kvops_status reshape_and_cache(const kvops_reshape_and_cache_args& a) {
  if (a.key.dtype == a.key_cache.dtype)
    return a.key.dtype == KVOPS_F32 ? run<float, float>(a) : run<Bits16, Bits16>(a);
  return dispatch(kOp, "key_cache", a.key_cache.dtype, Fp8s{}, [&]<class C>() {
    return dispatch(kOp, "key", a.key.dtype, Floats{}, [&]<class T>() { return run<T, C>(a); });
  });
}

}  // namespace kvops::KVOPS_GPU
