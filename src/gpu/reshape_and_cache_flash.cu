// key_cache[b, o, h, :] = conv(key[t, h, :]), and so for value, for the slot b * block + o of token
// t. A block has a tile of tokens of one side (K or V: blockIdx.z), a thread one group of 16 bytes
// of up to kUnroll tokens' rows. The block looks the slots up once, into shared memory. conv: a
// copy, or one division and one rounding to fp8; NVFP4 with the bytes of core/nvfp4.h.
#include "core/dispatch.h"
#include "gpu/codes.cuh"
#include "gpu/nvfp4.cuh"
#include "gpu/slots.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "reshape_and_cache_flash";
constexpr int kThreads = 256, kUnroll = 4, kMaxTile = 256;
constexpr int64_t kEnough = 2;  // H200: fewer leave SMs idle, more look slots up too often

struct Slots {
  SlotMap map;
  int tile, lanes;  // tokens of a block; threads that share a token, a power of two
};

// Strides in elements; of key and key_cache, or of value and value_cache.
template <class T, class C>
struct Side {
  const T* src;
  int64_t token, head;
  C* dst;
  int64_t dst_block, dst_token, dst_head;
  const float* scale;
  int64_t scale_step;  // 1: a scale per head
};
template <class T, class C>
struct Sides {
  Side<T, C> side[2];
};

// Block and place of the tokens of a tile; block -1: not to be written.
struct Places {
  int64_t block[kMaxTile];
  int64_t at[kMaxTile];
};

__device__ void find_places(const Slots& slots, Places& places) {
  int64_t first = int64_t(blockIdx.x) * slots.tile;
  for (int i = int(threadIdx.x); i < slots.tile; i += kThreads) {
    Place place = {-1, 0};
    if (first + i < slots.map.tokens)
      place = slots.map.place(first + i, !(blockIdx.y | blockIdx.z));
    places.block[i] = place.block, places.at[i] = place.at;
  }
  __syncthreads();
}

// Rows of one side on their way: group `item` of those of tokens sub, sub + subs, ... of the tile.
// N: elements of a group, a divisor of size.
template <class T, class C, int N, bool kAligned>
struct Rows {
  const Side<T, C>& side;
  const Slots& slots;
  int sub, subs;
  int64_t h, j;  // head, first element
  Group<T, N> x[kUnroll];

  __device__ void load_rows(int64_t item, int64_t groups) {
    auto [head, group] = split(item, groups);
    h = head, j = group * N;
    int64_t first = int64_t(blockIdx.x) * slots.tile;
    const T* src = side.src + first * side.token + h * side.head + j;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      int i = sub + u * subs;
      if (i < slots.tile && first + i < slots.map.tokens)
        x[u] = load<N, kAligned>(src + i * side.token);
    }
  }
  // f(x, block, place) for the tokens that are to be written.
  template <class F>
  __device__ void each(const Places& places, F&& f) const {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      int i = sub + u * subs;
      if (i < slots.tile && places.block[i] >= 0) f(x[u], places.block[i], places.at[i]);
    }
  }
};

// The rows are on their way while the slots are looked up, and so is the scale: those of skipped
// tokens are read, too.
template <class T, class C, int N>
__global__ void __launch_bounds__(kThreads, 4)
    plain_kernel(KVOPS_IN_PLACE Sides<T, C> sides, KVOPS_IN_PLACE Slots slots, int64_t heads,
                 int64_t size) {
  __shared__ Places places;
  int sub = int(threadIdx.x) / slots.lanes, subs = kThreads / slots.lanes;
  const auto& side = sides.side[blockIdx.z];
  Rows<T, C, N, true> rows{side, slots, sub, subs, 0, 0, {}};
  int64_t groups = size / N, items = heads * groups, step = int64_t(gridDim.y) * slots.lanes;
  int64_t item = int64_t(blockIdx.y) * slots.lanes + int(threadIdx.x) % slots.lanes;
  float scale = 1;
  auto load = [&] {
    rows.load_rows(item, groups);
    if constexpr (!__is_same(T, C)) scale = side.scale[rows.h * side.scale_step];
  };
  if (item < items) load();
  find_places(slots, places);
  while (item < items) {
    C* dst = side.dst + rows.h * side.dst_head + rows.j;
    Divider<T> divide(scale);
    rows.each(places, [&](const Group<T, N>& x, int64_t block, int64_t at) {
      C* to = dst + block * side.dst_block + at * side.dst_token;
      if constexpr (__is_same(T, C))
        store<true>(to, x);
      else
        store<true>(to, codes_of<C>(x, divide));
    });
    item += step;
    if (item < items) load();
  }
}

struct Byte {
  uint8_t bits;
};
struct Pages {
  Nvfp4Page of[2];
};

// One thread per 16 elements. kAligned: rows are multiples of 16 bytes and pages of 8.
template <class T, bool kAligned, bool kFourOverSix>
__global__ void __launch_bounds__(kThreads)
    nvfp4_kernel(KVOPS_IN_PLACE Sides<T, uint8_t> sides, KVOPS_IN_PLACE Slots slots,
                 KVOPS_IN_PLACE Pages pages) {
  __shared__ Places places;
  const auto& side = sides.side[blockIdx.z];
  const auto& page = pages.of[blockIdx.z];
  int sub = int(threadIdx.x) / slots.lanes, subs = kThreads / slots.lanes;
  Rows<T, uint8_t, 16, kAligned> rows{side, slots, sub, subs, 0, 0, {}};
  int64_t items = page.heads * page.groups, step = int64_t(gridDim.y) * slots.lanes;
  int64_t item = int64_t(blockIdx.y) * slots.lanes + int(threadIdx.x) % slots.lanes;
  float k_scale = *side.scale;
  if (item < items) rows.load_rows(item, page.groups);
  find_places(slots, places);
  Nvfp4Scale scale(k_scale);
  while (item < items) {
    rows.each(places, [&](const Group<T, 16>& x, int64_t block, int64_t at) {
      Nvfp4Group out;
      if constexpr (kFourOverSix) {
        float numbers[16];
#pragma unroll
        for (int k = 0; k < 16; ++k) numbers[k] = x.number(k);
        out = nvfp4_quantise(numbers, scale.inverse, true);
      } else {
        out = nvfp4_group(x, scale);
      }
      uint8_t* to = side.dst + block * side.dst_block;
      Group<Byte, 8> codes = {{out.codes[0], out.codes[1]}};
      int64_t g = rows.j / 16;
      store<kAligned>(reinterpret_cast<Byte*>(to + page.codes(at, rows.h, g)), codes);
      to[page.scale(at, rows.h, g)] = out.scale.bits;
    });
    item += step;
    if (item < items) rows.load_rows(item, page.groups);
  }
}

constexpr int64_t up(int64_t n, int64_t d) { return (n + d - 1) / d; }

// As many tokens in a block as leave `kEnough` blocks for every SM.
Grid tile_tokens(Slots& slots, int64_t items, const kvops_tensor& on) {
  slots.lanes = 1;
  while (slots.lanes < items && slots.lanes < kThreads) slots.lanes *= 2;
  int64_t subs = kThreads / slots.lanes, columns = up(items, slots.lanes);
  if (columns > 65535) columns = 65535;
  int64_t tile = subs, enough = kEnough * compute_units(on);
  while (tile < subs * kUnroll && tile < kMaxTile &&
         up(slots.map.tokens, tile * 2) * columns * 2 >= enough)
    tile *= 2;
  slots.tile = int(tile);
  return {.x = up(slots.map.tokens, tile), .y = columns, .z = 2, .threads = kThreads};
}

template <class T, class C>
Side<T, C> side_of(const kvops_tensor& src, const kvops_tensor& dst, const kvops_tensor& scale) {
  auto stride = dst.stride;
  return {static_cast<const T*>(src.data),
          src.stride[0],
          src.stride[1],
          static_cast<C*>(dst.data),
          stride[0],
          stride[1],
          stride[2],
          static_cast<const float*>(scale.data),
          scale.rank && scale.shape[0] > 1};
}

Slots slots_of(const kvops_reshape_and_cache_flash_args& a) {
  return {slot_map(a.slot_mapping, a.key_cache.shape[0], a.key_cache.shape[1], a.faults), 0, 0};
}

template <class T, class C>
kvops_status plain(const kvops_reshape_and_cache_flash_args& a) {
  constexpr int N = kGroup<T>;
  int64_t heads = a.key.shape[1], size = a.key.shape[2];
  Sides<T, C> sides = {{side_of<T, C>(a.key, a.key_cache, a.k_scale),
                        side_of<T, C>(a.value, a.value_cache, a.v_scale)}};
  auto slots = slots_of(a);
  bool aligned = size % N == 0 && rows_aligned(a.key, sizeof(T), 16) &&
                 rows_aligned(a.value, sizeof(T), 16) &&
                 rows_aligned(a.key_cache, sizeof(C), N * sizeof(C)) &&
                 rows_aligned(a.value_cache, sizeof(C), N * sizeof(C));
  auto grid = tile_tokens(slots, heads * size / (aligned ? N : 1), a.key_cache);
  if (aligned)
    return launch(kOp, plain_kernel<T, C, N>, grid, a.key_cache, sides, slots, heads, size);
  return launch(kOp, plain_kernel<T, C, 1>, grid, a.key_cache, sides, slots, heads, size);
}

template <class T>
kvops_status nvfp4(const kvops_reshape_and_cache_flash_args& a) {
  Sides<T, uint8_t> sides = {{side_of<T, uint8_t>(a.key, a.key_cache, a.k_scale),
                              side_of<T, uint8_t>(a.value, a.value_cache, a.v_scale)}};
  auto slots = slots_of(a);
  bool transposed = a.v_scale_layout == KVOPS_V_SCALE_TRANSPOSED;  // scales of V only
  Pages pages = {{nvfp4_page(a.key_cache, false), nvfp4_page(a.value_cache, transposed)}};
  bool aligned = rows_aligned(a.key, sizeof(T), 16) && rows_aligned(a.value, sizeof(T), 16);
  for (auto* cache : {&a.key_cache, &a.value_cache})
    aligned = aligned && is_multiple(cache->data, 8) && cache->stride[0] % 8 == 0;
  auto grid = tile_tokens(slots, pages.of[0].heads * pages.of[0].groups, a.key_cache);
  auto start = [&]<bool kFourOverSix>() {
    auto kernel =
        aligned ? nvfp4_kernel<T, true, kFourOverSix> : nvfp4_kernel<T, false, kFourOverSix>;
    return launch(kOp, kernel, grid, a.key_cache, sides, slots, pages);
  };
  return a.format == KVOPS_FORMAT_NVFP4_4OVER6 ? start.template operator()<true>()
                                               : start.template operator()<false>();
}

// A copy looks at the size of elements only.
struct Bits16 {
  uint16_t bits;
};

}  // namespace

kvops_status reshape_and_cache_flash(const kvops_reshape_and_cache_flash_args& a) {
  if (a.format != KVOPS_FORMAT_PLAIN)
    return dispatch(kOp, "key", a.key.dtype, Halves{}, [&]<class T>() { return nvfp4<T>(a); });
  if (a.key.dtype == a.key_cache.dtype)
    return a.key.dtype == KVOPS_F32 ? plain<float, float>(a) : plain<Bits16, Bits16>(a);
  return dispatch(kOp, "key_cache", a.key_cache.dtype, Fp8s{}, [&]<class C>() {
    return dispatch(kOp, "key", a.key.dtype, Floats{}, [&]<class T>() { return plain<T, C>(a); });
  });
}

}  // namespace kvops::KVOPS_GPU
