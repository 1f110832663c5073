// rotary_embedding: (x, y) = (x c - y s, y c + x s) for rot/2 pairs of every head, in place.
// Pairs are (j, rot/2 + j) or, GPT-J style, (2j, 2j + 1). A thread has one group of pairs, one or
// two accesses of 16 bytes, of up to kUnroll heads of a token, query's and then key's, and reads
// cosines and sines once for all of them. Threads are numbered by token, heads and group, the
// latter fastest. f32 inside, each output rounded once; one product of each sum is not rounded.
#include "core/dispatch.h"
#include "gpu/rotary.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr const char* kOp = "rotary_embedding";
constexpr int kThreads = 128;

// query or key, from the first rotated element on. Strides of batch, token and head.
template <class T>
struct Heads {
  T* data;
  int64_t batch, token, head;
};
template <class T, class C>
struct Rotation {
  Heads<T> query, key;
  int64_t heads, all_heads;
  const C* cache;
  int64_t cache_stride, max_pos, half;
  const void* positions;
  int64_t position_batch, position_token;
  bool wide_positions;
  int64_t* faults;
  Splitter groups, slots, tokens;  // of a head; threads along the heads of a token; of a batch
  int64_t threads;
  uint32_t sign;  // of the sines: turned around when inverse
};

// One product of each sum is not rounded.
template <class C, int N>
struct Contracted {
  Group<C, N> cosines, sines;
  uint32_t sign;

  __device__ float cosine(int i) const { return cosines.number(i); }
  __device__ float sine(int i) const { return bits_float(float_bits(sines.number(i)) ^ sign); }
  __device__ Two turned(float x, float y, float c, float s) const {
    return {fmaf(x, c, -mul_rn(y, s)), fmaf(y, c, mul_rn(x, s))};
  }
};

template <class T, class C>
__device__ T* head_of(const Rotation<T, C>& how, int64_t batch, int64_t token, int64_t h) {
  bool is_key = h >= how.heads;
  const auto& side = is_key ? how.key : how.query;
  return side.data + batch * side.batch + token * side.token +
         (h - (is_key ? how.heads : 0)) * side.head;
}

// N: elements of an access.
template <class T, class C, bool kNeox, int N, int kUnroll>
__global__ void __launch_bounds__(kThreads) rotary_kernel(KVOPS_IN_PLACE Rotation<T, C> how) {
  using Pairs = Turn<T, kNeox, N>;
  constexpr int kP = Pairs::kElements;
  int64_t thread = int64_t(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
  if (thread >= how.threads) return;
  auto [rest, group] = how.groups(thread);
  auto [row, slot] = how.slots(rest);
  auto [batch, token] = how.tokens(row);
  int64_t at = batch * how.position_batch + token * how.position_token;
  int64_t p = how.wide_positions ? static_cast<const int64_t*>(how.positions)[at]
                                 : static_cast<const int32_t*>(how.positions)[at];

  Pairs pairs[kUnroll];
  T* head[kUnroll];
  int64_t j = group * kP, second = kNeox ? how.half : 1;
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {  // on their way before the position is known
    int64_t h = slot + i * how.slots.d;
    head[i] = nullptr;
    if (h >= how.all_heads) continue;
    head[i] = head_of(how, batch, token, h) + (kNeox ? j : 2 * j);
    pairs[i].read(head[i], second);
  }
  if (p < 0 || p >= how.max_pos) {
    if (p >= 0 && !(slot | group)) add_fault(how.faults);
    return;
  }
  const C* line = how.cache + p * how.cache_stride + j;
  Contracted<C, kP> with = {load<kP, Pairs::kAligned>(line),
                            load<kP, Pairs::kAligned>(line + how.half), how.sign};
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (!head[i]) continue;
    pairs[i].turn(with);
    pairs[i].write(head[i], second);
  }
}

template <class T>
Heads<T> heads_of(const kvops_tensor& t, const kvops_rotary_embedding_args& a, int64_t& count) {
  int dims = a.positions.rank;
  if (!present(t) || is_empty(t)) return {};
  bool is_split = t.rank == dims + 2;
  count = is_split ? t.shape[dims] : t.shape[dims] / a.head_size;
  return {static_cast<T*>(t.data) + a.rope_dim_offset, dims == 2 ? t.stride[0] : 0,
          t.stride[dims - 1], is_split ? t.stride[dims] : a.head_size};
}

// Do heads begin at multiples of `bytes`?
template <class T>
bool heads_aligned(const Heads<T>& h, int64_t bytes) {
  constexpr int64_t kBytes = sizeof(T);
  return is_multiple(h.data, bytes) && h.batch * kBytes % bytes == 0 &&
         h.token * kBytes % bytes == 0 && h.head * kBytes % bytes == 0;
}

template <class T, class C>
kvops_status run(const kvops_rotary_embedding_args& a) {
  constexpr int N = kGroup<T>;
  int dims = a.positions.rank;
  int64_t tokens = a.positions.shape[dims - 1], batch = dims == 2 ? a.positions.shape[0] : 1;
  int64_t heads = 0, kv_heads = 0, half = a.cos_sin_cache.shape[1] / 2;
  auto query = heads_of<T>(a.query, a, heads), key = heads_of<T>(a.key, a, kv_heads);
  if (heads + kv_heads == 0) return KVOPS_OK;
  int64_t pairs = a.is_neox ? N : N / 2, cache_bytes = pairs * int64_t(sizeof(C));
  if (cache_bytes > 16) cache_bytes = 16;
  bool aligned = half % pairs == 0 && heads_aligned(query, 16) && heads_aligned(key, 16) &&
                 rows_aligned(a.cos_sin_cache, sizeof(C), cache_bytes);
  int64_t groups = half / (aligned ? pairs : 1), all_heads = heads + kv_heads;
  // H200: two heads of a thread as soon as that leaves every SM 32 blocks.
  int64_t items = batch * tokens * all_heads * groups;
  int unroll = aligned && items >= 32 * 2 * kThreads * compute_units(a.query) ? 2 : 1;
  int64_t slots = (all_heads + unroll - 1) / unroll;
  Rotation<T, C> how = {query,
                        key,
                        heads,
                        all_heads,
                        static_cast<const C*>(a.cos_sin_cache.data),
                        a.cos_sin_cache.stride[0],
                        a.cos_sin_cache.shape[0],
                        half,
                        a.positions.data,
                        a.positions.stride[0],
                        a.positions.stride[dims - 1],
                        a.positions.dtype == KVOPS_I64,
                        static_cast<int64_t*>(a.faults.data),
                        Splitter(groups),
                        Splitter(slots),
                        Splitter(tokens),
                        batch * tokens * slots * groups,
                        a.inverse ? 0x80000000u : 0};
  Grid grid = {.x = (how.threads + kThreads - 1) / kThreads, .threads = kThreads};
  auto start = [&]<int kN, int kUnroll>() {
    return a.is_neox ? launch(kOp, rotary_kernel<T, C, true, kN, kUnroll>, grid, a.query, how)
                     : launch(kOp, rotary_kernel<T, C, false, kN, kUnroll>, grid, a.query, how);
  };
  if (!aligned) return start.template operator()<1, 1>();
  return unroll == 1 ? start.template operator()<N, 1>() : start.template operator()<N, 2>();
}

}  // namespace

kvops_status rotary_embedding(const kvops_rotary_embedding_args& a) {
  return dispatch(kOp, "query", a.query.dtype, Floats{}, [&]<class T>() {
    return dispatch(kOp, "cos_sin_cache", a.cos_sin_cache.dtype, Floats{},
                    [&]<class C>() { return run<T, C>(a); });
  });
}

}  // namespace kvops::KVOPS_GPU
