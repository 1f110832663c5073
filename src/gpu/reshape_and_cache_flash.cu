// key_cache[b, o, h, :] = conv(key[t, h, :]), and so for value, for the slot b * block + o of token
// t. A block has a tile of tokens of one side (K or V: blockIdx.z), a thread one group of the rows
// of up to four tokens, 64 bytes in all. The block looks the slots up once, into shared memory.
// conv: a copy, or one division and one rounding to fp8; NVFP4 with the bytes of core/nvfp4.h.
#include "core/dispatch.h"
#include "core/integers.h"
#include "gpu/codes.cuh"
#include "gpu/nvfp4.cuh"
#include "gpu/slots.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "reshape_and_cache_flash";
constexpr int kThreads = 256;
constexpr int64_t kPasses = 2;  // of NVFP4 over tokens, H200: what is done once is worth a row
constexpr int64_t kEnough = 2;  // H200: fewer leave SMs idle, more look slots up too often

struct Slots {
  SlotMap map;
  Splitter groups;  // of a head
  int64_t items;    // groups of a token
  int tile, shift;  // tokens of a block; log2 of the threads that share a token
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

// Where the tokens of a tile go: offsets in the cache, kNowhere: not to be written. Of NVFP4 these
// are those of pages; then offsets of codes in them, and places.
constexpr int64_t kNowhere = INT64_MIN;
struct Places {
  int64_t offset[kThreads], inside[kThreads], at[kThreads];
};

// Tokens of a thread, at most: four, up to 64 bytes. n: elements of a group.
template <class T>
constexpr int tokens_of_thread(int n) {
  int bytes = n * int(sizeof(T));
  return bytes <= 16 ? 4 : 64 / bytes;
}

// Rows of one side on their way: a group of those of tokens sub, sub + subs, ... of the tile. N:
// elements of a group, a divisor of size.
template <class T, class C, int N, bool kAligned>
struct Rows {
  static constexpr int kUnroll = tokens_of_thread<T>(N);
  const Side<T, C>& side;
  const Slots& slots;
  int sub, subs, count;  // tokens of the tile
  int first = 0;         // of those that are on their way
  int64_t item, step;
  int64_t slot = -1;  // of token threadIdx.x of the tile: who waits for it waits longest
  int64_t h, j;       // head, first element
  Group<T, N> x[kUnroll];

  __device__ Rows(const Side<T, C>& s, const Slots& all) : side(s), slots(all) {
    int lanes = 1 << slots.shift;
    sub = int(threadIdx.x) >> slots.shift, subs = kThreads >> slots.shift;
    int64_t rest = slots.map.tokens - int64_t(blockIdx.x) * slots.tile;
    count = rest < slots.tile ? int(rest) : slots.tile;
    item = (int64_t(blockIdx.y) << slots.shift) + (int(threadIdx.x) & (lanes - 1));
    step = int64_t(gridDim.y) << slots.shift;
    int i = int(threadIdx.x);
    if (i < count) slot = slots.map.slot[int64_t(blockIdx.x) * slots.tile + i];
  }
  __device__ bool live() const { return item < slots.items; }
  // The next columns.
  __device__ void find_columns() {
    auto [head, group] = slots.groups(item);
    h = head, j = group * N;
  }
  __device__ void load_rows() {
    const T* src = side.src + (int64_t(blockIdx.x) * slots.tile + first + sub) * side.token +
                   h * side.head + j;
    int64_t far = subs * side.token;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u, src += far)
      if (first + sub + u * subs < count) x[u] = load<N, kAligned>(src);
  }
  // The next tokens of the same columns: are there any?
  __device__ bool load_more() {
    first += kUnroll * subs;
    bool more = first < count;
    if (more)
      load_rows();
    else
      first = 0;
    return more;
  }
  // put(i, place) for all tokens of the tile.
  template <class F>
  __device__ void find_places(F&& put) const {
    int i = int(threadIdx.x);
    if (i < slots.tile) put(i, slots.map.place_of(slot, !(blockIdx.y | blockIdx.z)));
    __syncthreads();
  }
  // f(x, offset, i) for the tokens that are to be written.
  template <class F>
  __device__ void each(const Places& places, F&& f) const {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      int i = first + sub + u * subs;
      if (i >= count) continue;
      int64_t offset = places.offset[i];
      if (offset != kNowhere) f(x[u], offset, i);
    }
  }
};

// The rows are on their way while the slots are looked up, and so is the scale: those of skipped
// tokens are read, too.
template <class T, class C, int N>
__global__ void __launch_bounds__(kThreads, 4)
    plain_kernel(KVOPS_IN_PLACE Sides<T, C> sides, KVOPS_IN_PLACE Slots slots) {
  __shared__ Places places;
  const auto& side = sides.side[blockIdx.z];
  Rows<T, C, N, true> rows(side, slots);
  float scale = 1;
  auto load = [&] {
    rows.find_columns(), rows.load_rows();
    if constexpr (!__is_same(T, C)) scale = side.scale[rows.h * side.scale_step];
  };
  if (rows.live()) load();
  rows.find_places([&](int i, Place place) {
    places.offset[i] =
        place.block < 0 ? kNowhere : place.block * side.dst_block + place.at * side.dst_token;
  });
  while (rows.live()) {
    C* dst = side.dst + rows.h * side.dst_head + rows.j;
    Divider<T> divide(scale);
    rows.each(places, [&](const Group<T, N>& x, int64_t offset, int) {
      if constexpr (__is_same(T, C))
        store<true>(dst + offset, x);
      else
        store<true>(dst + offset, codes_of<C>(x, divide));
    });
    rows.item += rows.step;
    if (rows.live()) load();
  }
}

struct Byte {
  uint8_t bits;
};
struct Pages {
  Nvfp4Page of[2];
  int64_t scales[2];  // where they begin
};

// A thread has 16 elements of a row. Scales that are not transposed lie as codes do, an eighth as
// far from each other. kAligned: rows are multiples of 16 bytes and pages of 8.
template <class T, bool kAligned, bool kFourOverSix>
__global__ void __launch_bounds__(kThreads, kFourOverSix ? 2 : 4)
    nvfp4_kernel(KVOPS_IN_PLACE Sides<T, uint8_t> sides, KVOPS_IN_PLACE Slots slots,
                 KVOPS_IN_PLACE Pages pages) {
  __shared__ Places places;
  const auto& side = sides.side[blockIdx.z];
  const Nvfp4Page& page = pages.of[blockIdx.z];
  Rows<T, uint8_t, 16, kAligned> rows(side, slots);
  float k_scale = *side.scale;
  if (rows.live()) rows.find_columns(), rows.load_rows();
  rows.find_places([&](int i, Place place) {
    places.offset[i] = place.block < 0 ? kNowhere : place.block * side.dst_block;
    places.inside[i] = place.at * side.dst_token, places.at[i] = place.at;
  });
  Nvfp4Scale scale(k_scale);
  const bool transposed = page.transposed;
  while (rows.live()) {
    const int64_t column = rows.h * side.dst_head + rows.j / 2;  // of codes in a page
    uint8_t* scales = side.dst + pages.scales[blockIdx.z];
    do {
      rows.each(places, [&](const Group<T, 16>& x, int64_t offset, int i) {
        Nvfp4Group out;
        if constexpr (kFourOverSix) {
          float numbers[16];
#pragma unroll
          for (int k = 0; k < 16; ++k) numbers[k] = x.number(k);
          out = nvfp4_quantise(numbers, scale.inverse, true);
        } else {
          out = nvfp4_group(x, scale);
        }
        Group<Byte, 8> codes = {{out.codes[0], out.codes[1]}};
        int64_t inside = places.inside[i] + column;
        store<kAligned>(reinterpret_cast<Byte*>(side.dst + offset + inside), codes);
        if (transposed)
          side.dst[offset + page.scale(places.at[i], rows.h, rows.j / 16)] = out.scale.bits;
        else
          scales[offset + (inside >> 3)] = out.scale.bits;
      });
    } while (rows.load_more());
    rows.item += rows.step;
    if (rows.live()) rows.find_columns(), rows.load_rows();
  }
}

// As many tokens in a block as leave `kEnough` blocks for every SM.
Grid tile_tokens(Slots& slots, int64_t unroll, const kvops_tensor& on) {
  while (1 << slots.shift < slots.items && 1 << slots.shift < kThreads) ++slots.shift;
  int64_t subs = kThreads >> slots.shift, columns = ceil_div(slots.items, 1 << slots.shift);
  if (columns > 65535) columns = 65535;
  int64_t tile = subs, enough = kEnough * compute_units(on);
  while (tile < subs * unroll && tile < kThreads &&
         ceil_div(slots.map.tokens, tile * 2) * columns * 2 >= enough)
    tile *= 2;
  slots.tile = int(tile);
  return {.x = ceil_div(slots.map.tokens, tile), .y = columns, .z = 2, .threads = kThreads};
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

Slots slots_of(const kvops_reshape_and_cache_flash_args& a, int64_t heads, int64_t groups) {
  return {slot_map(a.slot_mapping, a.key_cache.shape[0], a.key_cache.shape[1], a.faults),
          Splitter(groups), heads * groups, 0, 0};
}

template <class T, class C>
kvops_status plain(const kvops_reshape_and_cache_flash_args& a) {
  constexpr int kWide = kGroup<C>;  // H200: 16 bytes of fp8 are faster than 16 of what becomes it
  int64_t heads = a.key.shape[1], size = a.key.shape[2];
  Sides<T, C> sides = {{side_of<T, C>(a.key, a.key_cache, a.k_scale),
                        side_of<T, C>(a.value, a.value_cache, a.v_scale)}};
  bool rows = rows_aligned(a.key, sizeof(T), 16) && rows_aligned(a.value, sizeof(T), 16);
  auto fits = [&](int64_t n) {
    return rows && size % n == 0 && rows_aligned(a.key_cache, sizeof(C), n * int64_t(sizeof(C))) &&
           rows_aligned(a.value_cache, sizeof(C), n * int64_t(sizeof(C)));
  };
  auto start = [&]<int N>() {
    auto slots = slots_of(a, heads, size / N);
    auto grid = tile_tokens(slots, tokens_of_thread<T>(N), a.key_cache);
    return launch(kOp, plain_kernel<T, C, N>, grid, a.key_cache, sides, slots);
  };
  if (fits(kWide)) return start.template operator()<kWide>();
  if (fits(kGroup<T>)) return start.template operator()<kGroup<T>>();
  return start.template operator()<1>();
}

template <class T>
kvops_status nvfp4(const kvops_reshape_and_cache_flash_args& a) {
  Sides<T, uint8_t> sides = {{side_of<T, uint8_t>(a.key, a.key_cache, a.k_scale),
                              side_of<T, uint8_t>(a.value, a.value_cache, a.v_scale)}};
  bool transposed = a.v_scale_layout == KVOPS_V_SCALE_TRANSPOSED;  // scales of V only
  Pages pages = {{nvfp4_page(a.key_cache, false), nvfp4_page(a.value_cache, transposed)}, {}};
  bool aligned = rows_aligned(a.key, sizeof(T), 16) && rows_aligned(a.value, sizeof(T), 16);
  for (auto* cache : {&a.key_cache, &a.value_cache})
    aligned = aligned && is_multiple(cache->data, 8) && cache->stride[0] % 8 == 0;
  for (int i = 0; i < 2; ++i) {
    auto& page = pages.of[i];
    auto& side = sides.side[i];
    side.dst_token = page.codes(1, 0, 0), side.dst_head = page.codes(0, 1, 0);
    pages.scales[i] = page.scale(0, 0, 0);
  }
  auto slots = slots_of(a, pages.of[0].heads, pages.of[0].groups);
  auto grid = tile_tokens(slots, kPasses * tokens_of_thread<T>(16), a.key_cache);
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
