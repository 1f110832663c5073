// concat_and_cache_mla_rope_fused: q_pe and k_pe turned in place by the angle of a row's position,
// then [kv_c | k_pe] as one entry of an MLA cache, in one launch.
//
//   (x, y) = (RN(RN(x c) - RN(y s)), RN(RN(y c) + RN(x s))), c and s rounded to T before
//
// A block turns query heads, as rotary_embedding does; or rows of k_pe, which it stores in the
// cache as well; or stores latents: so many blocks of each, in this order. A thread has a group of
// 16 bytes, or of pairs. How entries are written (copied, fp8, FP8_DS_MLA) is decided at run time,
// where their addresses are looked at, too. NaN is the quiet one: the same bits everywhere.
#include "gpu/mla_entry.cuh"
#include "gpu/rotary.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_concat_and_cache_mla_rope_fused_args;

constexpr const char* kOp = "concat_and_cache_mla_rope_fused";
// Groups of a latent, heads: of a thread, at most.
constexpr int kThreads = 256, kGroups = 4;
template <bool kNeox, int N>
constexpr int kHeads = N == 1  ? 1
                       : kNeox ? 2
                               : 4;  // four accesses of 16 bytes

enum class Store { copy, e4m3, e5m2, e4m3fnuz, e5m2fnuz, ds, ds_fnuz };

// Strides of the cache and of the table in bytes, others in elements.
template <class T>
struct Fused {
  int64_t rows;
  T *query, *key;
  const T* latent;
  int64_t query_row, query_head, heads, key_row, latent_row;
  const char* table;
  int64_t table_row, max_pos, half;
  bool wide_table, wide_positions, neox;
  const void* positions;
  SlotMap slots;
  char* cache;
  int64_t block_bytes, entry_bytes;
  int64_t rope_at;            // byte of an entry
  int cache_size, rope_size;  // of an element
  const float* scale;
  Store store;
  bool pow2;
  // Groups of half a row of rope; threads along heads, along a latent.
  Splitter groups, spread, latents;
  int64_t latent_groups;
  int64_t query_blocks, key_blocks;
  bool latent_counts;  // bad indices; else who has the first group of k_pe
};

template <class T>
__device__ int64_t read_position(const Fused<T>& how, int64_t row) {
  return how.wide_positions ? static_cast<const int64_t*>(how.positions)[row]
                            : static_cast<const int32_t*>(how.positions)[row];
}
// The position of a row; -1 for one that is left alone.
template <class T>
__device__ int64_t checked(const Fused<T>& how, int64_t position, bool counts) {
  if (position < how.max_pos) return position;
  if (counts) add_fault(how.slots.faults);
  return -1;
}
template <class T>
__device__ int64_t position_of(const Fused<T>& how, int64_t row, bool counts) {
  return checked(how, read_position(how, row), counts);
}

// Where the entry of a row begins; nullptr: nowhere.
template <class T>
__device__ char* entry_of(const Fused<T>& how, int64_t row, bool counts) {
  if (row >= how.slots.tokens) return nullptr;
  Place place = how.slots.place(row, counts);
  if (place.block < 0) return nullptr;
  return how.cache + place.block * how.block_bytes + place.at * how.entry_bytes;
}

// N: elements of an access; 1: of any address, where the order of pairs is looked up.
template <class T, bool kNeox, int N>
struct Shapes {
  using Pairs = Turn<T, kNeox, N>;
  static constexpr int kP = Pairs::kElements;
  using Angles = Rounded<T, kP>;

  // From the first element of a head to the first ones of a group; between those of a pair.
  static __device__ int64_t at(const Fused<T>& how, int64_t group) {
    return group * kP * ((N > 1 ? kNeox : how.neox) ? 1 : 2);
  }
  static __device__ int64_t second(const Fused<T>& how) {
    return (N > 1 ? kNeox : how.neox) ? how.half : 1;
  }
  static __device__ Angles angles(const Fused<T>& how, int64_t position, int64_t group) {
    return {how.table + position * how.table_row, how.wide_table, group * kP, how.half};
  }
  static __device__ void turn(Pairs& pairs, Angles& angles) {
    angles.nan = false;
    pairs.turn(angles);
    if (angles.nan) pairs.quieten();
  }
};

template <class T, bool kNeox, int N>
__device__ void turn_queries(const Fused<T>& how, int64_t thread) {
  using S = Shapes<T, kNeox, N>;
  constexpr int kUnroll = kHeads<kNeox, N>;
  auto [rest, group] = how.groups(thread);
  auto [row, first] = how.spread(rest);
  if (row >= how.rows) return;
  int64_t position = read_position(how, row);  // then angles, beside pairs that are on their way
  typename S::Pairs pairs[kUnroll];
  T* head[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t h = first + i * how.spread.d;
    head[i] = nullptr;
    if (h >= how.heads) continue;
    head[i] = how.query + row * how.query_row + h * how.query_head + S::at(how, group);
    pairs[i].read(head[i], S::second(how));
  }
  position = checked(how, position, false);
  if (position < 0) return;
  auto angles = S::angles(how, position, group);
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (!head[i]) continue;
    S::turn(pairs[i], angles);
    pairs[i].write(head[i], S::second(how));
  }
}

// The scale of fp8 caches, read before it is needed.
template <class T>
__device__ float scale_of(const Fused<T>& how) {
  return how.store == Store::copy || how.store >= Store::ds ? 1.0f : *how.scale;
}

// Records are bytes: halves in them may begin anywhere.
template <class T, int N>
__device__ inline void put_halves(char* to, const Group<T, N>& x) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(T) == 0)
    return put<false>(reinterpret_cast<T*>(to), x);
  Group<Byte, N* int(sizeof(T))> bytes;
  for (int i = 0; i < int(sizeof bytes.word / 4); ++i) bytes.word[i] = x.word[i];
  put_bytes<false>(reinterpret_cast<uint8_t*>(to), bytes);
}
template <class C, class T, int N>
__device__ inline void put_as(char* to, const Group<T, N>& x, const Divider<T>& divide) {
  if constexpr (__is_same(T, C))
    put_halves(to, x);
  else
    put<false>(reinterpret_cast<C*>(to), codes_of<C>(x, divide));
}
// f<C>() with what elements of type T are stored as: code for all groups of a thread in one piece.
template <class T, class F>
__device__ inline void with_stored(Store store, F&& f) {
  switch (store) {
    case Store::e4m3:
      return f.template operator()<f8_e4m3>();
    case Store::e5m2:
      return f.template operator()<f8_e5m2>();
    case Store::e4m3fnuz:
      return f.template operator()<f8_e4m3fnuz>();
    case Store::e5m2fnuz:
      return f.template operator()<f8_e5m2fnuz>();
    default:
      return f.template operator()<T>();
  }
}

// One group of a row of k_pe.
template <class T, bool kNeox, int N>
__device__ void turn_keys(const Fused<T>& how, int64_t thread) {
  using S = Shapes<T, kNeox, N>;
  auto [row, group] = how.groups(thread);
  if (row >= how.rows) return;
  T* key = how.key + row * how.key_row + S::at(how, group);
  typename S::Pairs pairs;
  pairs.read(key, S::second(how));
  bool counts = !group && !how.latent_counts;
  char* to = entry_of(how, row, counts);
  int64_t position = position_of(how, row, counts);
  float scale = scale_of(how);
  if (position < 0) return;
  auto angles = S::angles(how, position, group);
  S::turn(pairs, angles);
  pairs.write(key, S::second(how));
  if (!to) return;
  Divider<T> divide(scale);
  to += how.rope_at + S::at(how, group) * how.rope_size;
  with_stored<T>(how.store, [&]<class C>() {
    if constexpr (S::Pairs::kApart) {
      put_as<C>(to, pairs.x, divide);
      put_as<C>(to + S::second(how) * how.rope_size, pairs.y, divide);
    } else {
      put_as<C>(to, pairs.v, divide);
    }
  });
}

// Up to kGroups groups of one row.
template <class T, int N>
__device__ void store_latents(const Fused<T>& how, int64_t thread) {
  auto at = how.latents(thread);
  const int64_t row = at.quotient, first = at.remainder;
  if (row >= how.rows) return;
  Group<T, N> x[kGroups];
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    int64_t group = first + i * how.latents.d;
    if (group < how.latent_groups)
      x[i] = load<N, (N > 1)>(how.latent + row * how.latent_row + group * N);
  }
  float scale = scale_of(how);
  int64_t position = position_of(how, row, !first);
  char* to = entry_of(how, row, !first);
  if (position < 0 || !to) return;
  Divider<T> divide(scale);
  with_stored<T>(how.store, [&]<class C>() {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      int64_t group = first + i * how.latents.d;
      if (group < how.latent_groups) put_as<C>(to + group * N * how.cache_size, x[i], divide);
    }
  });
}

template <class F8, class T, bool kAligned>
__device__ void store_ds_latents(const Fused<T>& how, int64_t thread) {
  auto [row, lane] = how.latents(thread);
  Group<T, 16> x = {};
  char* to = nullptr;
  if (row < how.rows) {
    x = load<16, kAligned>(how.latent + row * how.latent_row + lane * 16);
    to = entry_of(how, row, !lane);
    if (position_of(how, row, !lane) < 0) to = nullptr;
  }
  Fp8DsPart<F8, T> part(x, how.pow2);
  if (!to) return;
  auto* entry = reinterpret_cast<uint8_t*>(to);
  if (reinterpret_cast<uintptr_t>(entry) % 8)
    part.template put<false>(entry, int(lane));
  else
    part.template put<true>(entry, int(lane));
}

template <class T, bool kNeox, int N>
__global__ void __launch_bounds__(kThreads, 4) fused_kernel(KVOPS_IN_PLACE Fused<T> how) {
  int64_t block = blockIdx.x;
  auto thread = [&] { return block * int(blockDim.x) + int(threadIdx.x); };
  if (block < how.query_blocks) return turn_queries<T, kNeox, N>(how, thread());
  block -= how.query_blocks;
  if (block < how.key_blocks) return turn_keys<T, kNeox, N>(how, thread());
  block -= how.key_blocks;
  if (how.store < Store::ds) return store_latents<T, N>(how, thread());
  if constexpr (sizeof(T) == 2) {
    if (how.store == Store::ds)
      store_ds_latents<f8_e4m3, T, (N > 1)>(how, thread());
    else
      store_ds_latents<f8_e4m3fnuz, T, (N > 1)>(how, thread());
  }
}

Store store_of(const Args& a) {
  if (a.format == KVOPS_FORMAT_FP8_DS_MLA)
    return a.fp8_encoding == KVOPS_FP8_FNUZ ? Store::ds_fnuz : Store::ds;
  switch (a.kv_cache.dtype) {
    case KVOPS_F8_E4M3:
      return Store::e4m3;
    case KVOPS_F8_E5M2:
      return Store::e5m2;
    case KVOPS_F8_E4M3FNUZ:
      return Store::e4m3fnuz;
    case KVOPS_F8_E5M2FNUZ:
      return Store::e5m2fnuz;
    default:
      return Store::copy;
  }
}

template <class T>
Fused<T> fused_of(const Args& a, int64_t pairs, int64_t elements) {
  auto query = view<T, 3>(a.q_pe);
  auto key = view<T, 2>(a.k_pe);
  auto latent = view<const T, 2>(a.kv_c);
  auto cache = view<char, 3>(a.kv_cache);
  auto at_least_1 = [](int64_t n) { return Splitter(n > 1 ? n : 1); };
  int64_t half = key.shape[1] / 2, size = dtype(a.kv_cache.dtype).size;
  bool ds = a.format == KVOPS_FORMAT_FP8_DS_MLA;
  return {.rows = key.shape[0],
          .query = query.data,
          .key = key.data,
          .latent = latent.data,
          .query_row = query.stride[0],
          .query_head = query.stride[1],
          .heads = query.shape[1],
          .key_row = key.stride[0],
          .latent_row = latent.stride[0],
          .table = static_cast<const char*>(a.cos_sin_cache.data),
          .table_row = a.cos_sin_cache.stride[0] * dtype(a.cos_sin_cache.dtype).size,
          .max_pos = a.cos_sin_cache.shape[0],
          .half = half,
          .wide_table = a.cos_sin_cache.dtype == KVOPS_F32,
          .wide_positions = a.positions.dtype == KVOPS_I64,
          .neox = a.is_neox != 0,
          .positions = a.positions.data,
          .slots = slot_map(a.slot_mapping, cache.shape[0], cache.shape[1], a.faults),
          .cache = cache.data,
          .block_bytes = cache.stride[0] * size,
          .entry_bytes = cache.stride[1] * size,
          .rope_at = ds ? kFp8DsRope : latent.shape[1] * size,
          .cache_size = int(size),
          .rope_size = ds ? int(sizeof(T)) : int(size),
          .scale = static_cast<const float*>(a.kv_scale.data),
          .store = store_of(a),
          .pow2 = a.scale_rule == KVOPS_SCALE_POW2,
          .groups = at_least_1(half / pairs),
          .spread = Splitter(1),
          .latents = Splitter(1),
          .latent_groups = ds ? kFp8DsLanes : latent.shape[1] / elements,
          .query_blocks = 0,
          .key_blocks = 0,
          .latent_counts = latent.shape[1] > 0};
}

template <class T, bool kNeox, int N>
kvops_status run(const Args& a) {
  int64_t pairs = kNeox || N == 1 ? N : N / 2;
  Fused<T> how = fused_of<T>(a, pairs, N);
  int64_t key = how.half ? how.rows * how.groups.d : 0, query = key * how.heads;
  // H200: several heads, several groups of a thread as long as there are enough threads.
  auto share = [&](int64_t items, int64_t most) {
    while (most > 1 && items < most * 256 * compute_units(a.kv_c)) most /= 2;
    return most;
  };
  int64_t unroll = share(query, kHeads<kNeox, N>);
  how.spread = Splitter(how.heads > 0 ? (how.heads + unroll - 1) / unroll : 1);
  query = how.heads ? key * how.spread.d : 0;
  int64_t latent = how.rows * how.latent_groups, each = share(latent, kGroups);
  if (how.store >= Store::ds) each = 1;
  int64_t along = (how.latent_groups + each - 1) / each;
  how.latents = Splitter(along > 0 ? along : 1);
  latent = how.rows * along;
  int threads = query + latent < 512 * compute_units(a.kv_c) ? 128 : kThreads;
  auto blocks = [&](int64_t items) { return (items + threads - 1) / threads; };
  how.query_blocks = blocks(query), how.key_blocks = blocks(key);
  Grid grid = {.x = how.query_blocks + how.key_blocks + blocks(latent), .threads = threads};
  return launch(kOp, fused_kernel<T, kNeox, N>, grid, a.kv_c, how);
}

// Do all rows that are read begin at 16 bytes, and do they hold whole groups?
template <class T>
bool aligned(const Args& a) {
  constexpr int64_t N = kGroup<T>;
  int64_t half = a.k_pe.shape[1] / 2, pairs = a.is_neox ? N : N / 2;
  int64_t size = dtype(a.cos_sin_cache.dtype).size, table = pairs * size < 16 ? pairs * size : 16;
  auto rows = [](const kvops_tensor& t, int64_t element, int64_t bytes) {
    return is_empty(t) || rows_aligned(t, element, bytes);
  };
  return half % pairs == 0 && a.kv_c.shape[1] % N == 0 && rows(a.q_pe, sizeof(T), 16) &&
         rows(a.k_pe, sizeof(T), 16) && rows(a.kv_c, sizeof(T), 16) &&
         rows(a.cos_sin_cache, size, table);
}

}  // namespace

kvops_status concat_and_cache_mla_rope_fused(const Args& a) {
  return dispatch(kOp, "q_pe", a.q_pe.dtype, Floats{}, [&]<class T>() {
    if (!aligned<T>(a)) return run<T, true, 1>(a);
    return a.is_neox ? run<T, true, kGroup<T>>(a) : run<T, false, kGroup<T>>(a);
  });
}

}  // namespace kvops::KVOPS_GPU
