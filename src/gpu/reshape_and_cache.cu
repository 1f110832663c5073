// reshape_and_cache: rows of new keys and values into the x-packed cache, or any view of another.
//
//   key_cache   [blocks][heads][size/x][block][x]   groups of 16 bytes, one token after the other
//   value_cache [blocks][heads][size][block]        a row lies across
//
// A block has a tile of tokens and kColumns columns (heads * size) of one side (K, V: blockIdx.z).
// Groups of K are moved by threads that are neighbours in tokens first, so that runs of tokens are
// dense in the cache. V is turned: elements in registers, then words in shared memory. Where the
// tokens of 16 bytes of the cache are in the tile one after another (a prompt), they are one store,
// others go element by element.
#include "core/dispatch.h"
#include "core/integers.h"
#include "gpu/codes.cuh"
#include "gpu/slots.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "reshape_and_cache";
// Four blocks on an SM (H200): K and V together would take more registers than either alone.
constexpr int kThreads = 256, kBlocks = 4, kMaxTile = 64;

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
  int leads, singles;                        // how many there are
  uint8_t lead[kMaxTile], single[kMaxTile];  // first tokens of 16 bytes, tokens on their own
};

// The first 32 threads look up the slots of the tokens i and 32 + i of the tile.
struct Lookup {
  static constexpr int kEach = kMaxTile / 32;
  int64_t slot[kEach], before[kEach];  // on their way beside the rows; -1: none

  __device__ Lookup(const SlotMap& slots, int64_t first, int count) {
    int i = int(threadIdx.x);
    if (i >= 32) return;
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      int t = n * 32 + i;
      bool live = t < count && first + t < slots.tokens;
      slot[n] = live ? slots.slot[first + t] : -1;
      before[n] = live && t ? slots.slot[first + t - 1] : -1;
    }
  }
  // Places of all tokens. kRun: tokens of 16 bytes that are to be found, 1: none are; 0: of K.
  template <int kRun>
  __device__ void find_places(const SlotMap& slots, bool counts, Tile& tile) const {
    int i = int(threadIdx.x);
    if (i < 32) {
      Place place[kEach];
      uint64_t links = 0;  // a bit for every token: it follows the one before
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        place[n] = slots.place_of(slot[n], counts);
        tile.block[n * 32 + i] = place[n].block, tile.at[n * 32 + i] = place[n].at;
        if constexpr (kRun > 1) {
          bool follows = place[n].block >= 0 && place[n].at && slot[n] == before[n] + 1;
          links |= uint64_t(uint32_t(ballot(follows))) << n * 32;
        }
      }
      if constexpr (kRun > 0) list_runs<kRun>(place, links, tile);
    }
    __syncthreads();
  }

 private:
  template <int kRun>
  static __device__ void list_runs(const Place (&place)[kEach], uint64_t links, Tile& tile) {
    constexpr uint64_t kAll = (uint64_t(1) << (kRun - 1)) - 1;
    int i = int(threadIdx.x), leads = 0, singles = 0;
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      bool used = place[n].block >= 0;
      int offset = int(place[n].at % kRun), lead = n * 32 + i - offset;  // of these 16 bytes
      bool covered = kRun > 1 && used && lead >= 0 && lead + kRun <= kMaxTile &&
                     (links >> lead >> 1 & kAll) == kAll;
      leads = list(covered && !offset, n * 32 + i, leads, tile.lead);
      singles = list(used && !covered, n * 32 + i, singles, tile.single);
    }
    if (!i) tile.leads = leads, tile.singles = singles;
  }
  // Token t joins those of a list, of which there are `all`; how many then.
  static __device__ int list(bool joins, int t, int all, uint8_t (&tokens)[kMaxTile]) {
    uint32_t set = uint32_t(ballot(joins));
    if (joins) tokens[all + int(__popc(set & ((1u << t % 32) - 1)))] = uint8_t(t);
    return all + int(__popc(set));
  }
};

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
  Lookup lookup(c.slots, first, c.tile);
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
  lookup.find_places<0>(c.slots, !column, tile);
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

// The tile's tokens of each column, one after another. Chunks of 16 bytes of a column are turned
// by as many places as let eight neighbours of a row, and of what load_values() stores at once, be
// in other banks (two of them in one bank, where C has 8 bits).
template <class C>
struct Turned {
  static constexpr int kPerWord = 4 / int(sizeof(C)), kWords = kMaxTile / kPerWord;
  static constexpr int kChunks = kWords / 4, kPerLine = kWords < 32 ? 32 / kWords : 1;
  alignas(16) uint32_t words[kColumns<C> * kWords];

  // Word w of column k.
  __device__ uint32_t* word(int k, int w) {
    int chunk = (w / 4 + k / kPerLine + k / 8) % kChunks;
    return words + k * kWords + chunk * 4 + w % 4;
  }
  __device__ C get(int k, int t) {
    return reinterpret_cast<const C*>(word(k, t / kPerWord))[t % kPerWord];
  }
  // kGroup<C> tokens from t on: 16 bytes of the cache.
  __device__ Group<C, kGroup<C>> run(int k, int t) {
    if (t % kGroup<C> == 0)
      return load<kGroup<C>, true>(reinterpret_cast<const C*>(word(k, t / kPerWord)));
    Group<C, kGroup<C>> y;
    int first = t / kPerWord;
    uint32_t low = *word(k, first);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t high = first + i + 1 < kWords ? *word(k, first + i + 1) : 0;
      y.word[i] = uint32_t((uint64_t(high) << 32 | low) >> t % kPerWord * (32 / kPerWord));
      low = high;
    }
    return y;
  }
};

// Column j of the tokens of a word.
template <class C, int N, int kTokens>
__device__ uint32_t across(const Group<C, N> (&x)[kTokens], int j) {
  if constexpr (kTokens == 1) {
    return x[0].word[j];
  } else if constexpr (kTokens == 2) {
    return __byte_perm(x[0].word[j / 2], x[1].word[j / 2], j % 2 ? 0x7632 : 0x5410);
  } else {
    uint32_t half = j % 4 < 2 ? 0x5140 : 0x7362;
    return __byte_perm(__byte_perm(x[0].word[j / 4], x[1].word[j / 4], half),
                       __byte_perm(x[2].word[j / 4], x[3].word[j / 4], half),
                       j % 2 ? 0x7632 : 0x5410);
  }
}

// A thread has kPerWord tokens of a group of 16 bytes: eight neighbours have groups of one token,
// 32 the tokens of a chunk.
template <class T, class C, bool kAligned>
__device__ void load_values(const Call<T, C>& c, int64_t first, int64_t column, Turned<C>& turned) {
  constexpr int N = kGroup<T>, kGroups = kColumns<C> / N, kR = Turned<C>::kPerWord;
  constexpr int kItems = kMaxTile / kR * kGroups;
  static_assert(kItems % kThreads == 0 && kGroups % 8 == 0);
  constexpr int kUnroll = kItems / kThreads;
  float scale = scale_of<T, C>(c.v_scale);
  Group<T, N> x[kUnroll][kR];
  auto group_of = [](int i) { return i % 8 + i / 32 % (kGroups / 8) * 8; };
  auto word_of = [](int i) { return i / 8 % 4 + i / (4 * kGroups) * 4; };
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    int i = int(threadIdx.x) + u * kThreads, t = word_of(i) * kR;
    int64_t at = column + group_of(i) * N;
    if (at >= c.columns) continue;
    auto [h, d] = c.size(at);
    const T* from = c.value + (first + t) * c.value_token + h * c.value_head + d;
#pragma unroll
    for (int r = 0; r < kR; ++r, from += c.value_token)
      x[u][r] = t + r < c.tile && first + t + r < c.slots.tokens ? load<N, kAligned>(from)
                                                                 : Group<T, N>{};
  }
  Divider<T> divide(scale);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    int i = int(threadIdx.x) + u * kThreads, w = word_of(i), k = group_of(i) * N;
    if (w * kR >= c.tile || column + k >= c.columns) continue;
    Group<C, N> y[kR];
#pragma unroll
    for (int r = 0; r < kR; ++r) y[r] = converted<C>(x[u][r], divide);
#pragma unroll
    for (int j = 0; j < N; ++j) *turned.word(k + j, w) = across(y, j);
  }
}

template <class T, class C, bool kAligned>
__device__ void move_values(const Call<T, C>& c, int64_t first, int64_t column, Tile& tile,
                            Turned<C>& turned) {
  constexpr int G = kGroup<C>, kAll = kColumns<C>;
  Lookup lookup(c.slots, first, c.tile);
  load_values<T, C, kAligned>(c, first, column, turned);
  if (c.v_grouped)
    lookup.find_places<G>(c.slots, false, tile);
  else
    lookup.find_places<1>(c.slots, false, tile);
  int leads = tile.leads, singles = tile.singles;
  // Two neighbours of a block first, then the next column: 512 bytes of the cache for a warp.
#pragma unroll 1
  for (int i = int(threadIdx.x); i < (leads + 1) / 2 * 2 * kAll; i += kThreads) {
    int n = i / (2 * kAll) * 2 + i % 2, k = i / 2 % kAll;
    if (n >= leads || column + k >= c.columns) continue;
    int t = tile.lead[n];
    auto [h, d] = c.size(column + k);
    C* to = c.value_cache + tile.block[t] * c.v[0] + h * c.v[1] + d * c.v[2] + tile.at[t];
    store<true>(to, turned.run(k, t));
  }
#pragma unroll 1
  for (int i = int(threadIdx.x); i < singles * kAll; i += kThreads) {
    int t = tile.single[i / kAll], k = i % kAll;
    if (column + k >= c.columns) continue;
    auto [h, d] = c.size(column + k);
    C* to = c.value_cache + tile.block[t] * c.v[0] + h * c.v[1] + d * c.v[2] + tile.at[t] * c.v[3];
    *to = turned.get(k, t);
  }
}

template <class T, class C, bool kAligned>
__global__ void __launch_bounds__(kThreads, kBlocks)
    reshape_and_cache_kernel(KVOPS_IN_PLACE Call<T, C> call) {
  __shared__ Tile tile;
  __shared__ Turned<C> turned;
  int64_t first = int64_t(blockIdx.x) * call.tile;
  auto each_column = [&](auto&& move) {
    for (int64_t column = int64_t(blockIdx.y) * kColumns<C>; column < call.columns;
         column += int64_t(gridDim.y) * kColumns<C>) {
      move(column);
      __syncthreads();
    }
  };
  if (blockIdx.z)
    each_column(
        [&](int64_t column) { move_values<T, C, kAligned>(call, first, column, tile, turned); });
  else
    each_column([&](int64_t column) { move_keys<T, C, kAligned>(call, first, column, tile); });
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
