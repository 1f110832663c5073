// Entries of an MLA cache from [latent | rope] of a token: the kernels of every operator that
// writes such. A struct Tokens tells where they come from and go to:
//
//   int64_t tokens                       in all
//   Source<T> source(i)                  both rows of token i
//   C* entry(i, counts)                  nullptr: none; `counts`: this thread counts a bad slot
//   const float* scale(i)                of plain fp8
//   bool kKnown                          does the host know where entries begin? If not, each
//                                        thread looks at its address before a wide store
//
//   plain         [latent | rope], copied or quantised: a thread has groups of 16 bytes of a token
//   FP8_DS_MLA    512 e4m3 | 4 f32 scales, one per 128 elements | 64 16-bit rope elements: 64
//                 threads a token, 16 of which share a scale
//   NVFP4_DS_MLA  512 e2m1 | 64 e4m3 rope elements | 32 e4m3 scales: a thread has 16 elements
//
// Scales by core/numeric.h: the same bytes on every back end.
#pragma once
#include "core/dispatch.h"
#include "gpu/slots.cuh"
#include "gpu/vec.cuh"
#include "kvcache_ops/cache_format.h"

namespace kvops::gpu {

inline constexpr int kEntryThreads = 256, kLatent = 512, kRope = 64;

template <class T>
struct Source {
  const T *latent, *rope;
};

struct Byte {
  uint8_t bits;
};

// kKnown: `to` is a multiple of the group's size.
template <bool kKnown, class C, int N>
__device__ inline void put(C* to, const Group<C, N>& x) {
  if (kKnown || reinterpret_cast<uintptr_t>(to) % (N * sizeof(C)) == 0)
    store<true>(to, x);
  else
    store<false>(to, x);
}
template <bool kKnown, int N, class C, class T>
__device__ inline void put_group(C* to, const Group<T, N>& x, const Divider<T>& divide) {
  if constexpr (__is_same(T, C))
    put<kKnown>(to, x);
  else
    put<kKnown>(to, convert<C>(x, divide));
}

// Threads of an entry; of how many groups, latent ones first; threads in all.
struct PlainShape {
  Splitter threads;
  int64_t groups, latent_groups, all;
};

// A thread has up to kUnroll groups of one token.
template <class Tokens, class T, class C, int N, int kUnroll>
__global__ void __launch_bounds__(kEntryThreads)
    plain_entry_kernel(KVOPS_IN_PLACE Tokens tokens, KVOPS_IN_PLACE PlainShape shape) {
  int64_t thread = int64_t(blockIdx.x) * int(blockDim.x) + int(threadIdx.x);
  if (thread >= shape.all) return;
  auto [t, first] = shape.threads(thread);
  Source<T> from = tokens.source(t);
  Group<T, N> x[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t group = first + i * shape.threads.d;
    if (group >= shape.groups) continue;
    bool latent = group < shape.latent_groups;
    const T* row = latent ? from.latent : from.rope;
    x[i] = load<N, true>(row + (latent ? group : group - shape.latent_groups) * N);
  }
  float scale = __is_same(T, C) ? 1.0f : *tokens.scale(t);
  C* to = tokens.entry(t, !first);
  if (!to) return;
  Divider<T> divide(scale);
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t group = first + i * shape.threads.d;
    if (group < shape.groups) put_group<Tokens::kKnown>(to + group * N, x[i], divide);
  }
}

// Bytes at any address, or at multiples of their number.
template <bool kAligned, int N>
__device__ inline void put_bytes(uint8_t* to, const Group<Byte, N>& bytes) {
  if constexpr (kAligned && N == 2)
    *reinterpret_cast<uint16_t*>(to) = uint16_t(bytes.word[0]);
  else
    store<kAligned>(reinterpret_cast<Byte*>(to), bytes);
}

// The largest magnitude, NaN left out.
template <class T, int N>
__device__ inline float magnitude_of(const Group<T, N>& x) {
  float most = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) most = fmaxf(most, magnitude(x.number(i)));
  return most;
}
// Over `lanes` neighbours, a power of two up to 32.
__device__ inline float most_of(float x, int lanes) {
  for (int mask = lanes / 2; mask; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
  return x;
}

// Eight elements of the latent part of an FP8_DS_MLA entry, by lane 0 to 63 of a token: the 16 that
// share a scale call this together, with or without an entry.
template <class F8, class T>
struct Fp8DsPart {
  Group<F8, 8> codes;
  float scale;

  __device__ Fp8DsPart(const Group<T, 8>& x, bool pow2)
      : scale(ds_mla_scale(most_of(magnitude_of(x), 16), Fp8Traits<F8>::kFnuz, pow2)) {
    codes = convert<F8>(x, Divider<T>(scale));
  }
  template <bool kAligned>
  __device__ void put(uint8_t* to, int lane) const {
    put_bytes<kAligned>(to + lane * 8, Group<Byte, 8>{{codes.word[0], codes.word[1]}});
    if (lane % 16 == 0)
      put_bytes<kAligned>(to + kLatent + lane / 4, Group<Byte, 4>{{float_bits(scale)}});
  }
};
inline constexpr int kFp8DsRope = 528;  // where the rope part begins

template <class F8, class T, bool kAligned, int kUnroll, class Tokens>
__global__ void __launch_bounds__(kEntryThreads)
    fp8_ds_entry_kernel(KVOPS_IN_PLACE Tokens tokens, bool pow2) {
  constexpr int kLanes = kLatent / 8, kPerBlock = kEntryThreads / kLanes;
  int lane = int(threadIdx.x) % kLanes;
  int64_t first = int64_t(blockIdx.x) * (kPerBlock * kUnroll) + int(threadIdx.x) / kLanes;
  Group<T, 8> x[kUnroll];
  T rope[kUnroll];
  uint8_t* to[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t t = first + i * kPerBlock;
    to[i] = nullptr;
    x[i] = {};
    if (t >= tokens.tokens) continue;
    Source<T> from = tokens.source(t);
    x[i] = load<8, kAligned>(from.latent + lane * 8);
    rope[i] = from.rope[lane];
    to[i] = tokens.entry(t, !lane);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    Fp8DsPart<F8, T> part(x[i], pow2);
    if (!to[i]) continue;
    auto put = [&]<bool kWide>() {
      part.template put<kWide>(to[i], lane);
      put_bytes<kWide>(to[i] + kFp8DsRope + 2 * lane, Group<Byte, 2>{{rope[i].bits}});
    };
    if (Tokens::kKnown || reinterpret_cast<uintptr_t>(to[i]) % 8 == 0)
      put.template operator()<kAligned>();
    else
      put.template operator()<false>();
  }
}

template <bool kAligned, class Tokens>
__global__ void __launch_bounds__(kEntryThreads)
    nvfp4_ds_entry_kernel(KVOPS_IN_PLACE Tokens tokens) {
  constexpr int kLanes = kLatent / 16, kPerBlock = kEntryThreads / kLanes;
  int g = int(threadIdx.x) % kLanes;
  int64_t t = int64_t(blockIdx.x) * kPerBlock + int(threadIdx.x) / kLanes;
  if (t >= tokens.tokens) return;
  Source<bf16> from = tokens.source(t);
  auto x = load<16, kAligned>(from.latent + g * 16);
  auto rope = load<2, kAligned>(from.rope + g * 2);
  uint8_t* to = tokens.entry(t, !g);
  if (!to) return;
  f8_e4m3 scale = nvfp4_ds_mla_scale(magnitude_of(x));
  float factor = div_rn(1, decode(scale));
  Group<Byte, 8> codes = {{0, 0}};
#pragma unroll
  for (int i = 0; i < 16; ++i)
    codes.word[i / 8] |= uint32_t{encode_e2m1(mul_rn(x.number(i), factor))} << i % 8 * 4;
  put_bytes<kAligned>(to + g * 8, codes);
  to[320 + 8 * (g % 4) + g / 4] = scale.bits;
  Group<Byte, 2> pair = {{encode_pair<f8_e4m3>(rope.number(0), rope.number(1))}};
  put_bytes<kAligned>(to + 256 + 2 * g, pair);
}

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

// How the sources and the cache of a call lie: do rows of sources begin at multiples of 16 bytes,
// entries at multiples of so many?
struct EntryLayout {
  int64_t latent, rope;  // elements
  bool sources;
  int64_t entries;  // bytes: the largest power of two up to 16 that divides every address
};

inline constexpr int kEntryGroups = 4;  // of a thread, at most

template <class T, class C, class Tokens>
kvops_status write_plain(const char* op, const Tokens& tokens, const EntryLayout& layout,
                         const kvops_tensor& on) {
  constexpr int kWide = gpu::kGroup<T>;
  auto start = [&]<int N>() {
    int64_t groups = (layout.latent + layout.rope) / N, each = kEntryGroups;
    // Fewer groups of a thread as long as there are few threads (H200).
    while (each > 1 && tokens.tokens * groups < each * 512 * compute_units(on)) each /= 2;
    int64_t threads = (groups + each - 1) / each, all = tokens.tokens * threads;
    gpu::PlainShape shape = {gpu::Splitter(threads), groups, layout.latent / N, all};
    int block = each > 1 ? gpu::kEntryThreads : gpu::kEntryThreads / 2;
    return launch(op, gpu::plain_entry_kernel<Tokens, T, C, N, kEntryGroups>,
                  {.x = (all + block - 1) / block, .threads = block}, on, tokens, shape);
  };
  bool wide = layout.sources && layout.latent % kWide == 0 && layout.rope % kWide == 0 &&
              layout.entries >= kWide * int64_t(sizeof(C));
  return wide ? start.template operator()<kWide>() : start.template operator()<1>();
}

template <class F8, class T, class Tokens>
kvops_status write_fp8_ds(const char* op, const Tokens& tokens, const EntryLayout& layout,
                          bool pow2, const kvops_tensor& on) {
  constexpr int64_t kPerBlock = 4;
  auto start = [&]<bool kAligned, int kUnroll>() {
    Grid grid = {.x = (tokens.tokens + kPerBlock * kUnroll - 1) / (kPerBlock * kUnroll)};
    return launch(op, gpu::fp8_ds_entry_kernel<F8, T, kAligned, kUnroll, Tokens>, grid, on, tokens,
                  pow2);
  };
  if (!layout.sources || layout.entries < 8) return start.template operator()<false, 1>();
  return tokens.tokens < 8 * kPerBlock * compute_units(on) ? start.template operator()<true, 1>()
                                                           : start.template operator()<true, 2>();
}

template <class Tokens>
kvops_status write_nvfp4_ds(const char* op, const Tokens& tokens, const EntryLayout& layout,
                            const kvops_tensor& on) {
  Grid grid = {.x = (tokens.tokens + 7) / 8};
  if (!layout.sources || layout.entries < 8)
    return launch(op, gpu::nvfp4_ds_entry_kernel<false, Tokens>, grid, on, tokens);
  return launch(op, gpu::nvfp4_ds_entry_kernel<true, Tokens>, grid, on, tokens);
}

// A copy looks at the size of elements only.
struct Bits16 {
  uint16_t bits;
};

// f<T, C>() for a plain entry of these dtypes.
template <class F>
kvops_status dispatch_plain(const char* op, kvops_dtype source, kvops_dtype cache, F&& f) {
  if (source == cache)
    return source == KVOPS_F32 ? f.template operator()<float, float>()
                               : f.template operator()<Bits16, Bits16>();
  return dispatch(op, "kv_cache", cache, Fp8s{}, [&]<class C>() {
    return dispatch(op, "kv_c", source, Floats{},
                    [&]<class T>() { return f.template operator()<T, C>(); });
  });
}

// f<T, F8>() for FP8_DS_MLA.
template <class F>
kvops_status dispatch_fp8_ds(const char* op, kvops_dtype source, int64_t encoding, F&& f) {
  return dispatch(op, "kv_c", source, Halves{}, [&]<class T>() {
    return encoding == KVOPS_FP8_FNUZ ? f.template operator()<T, f8_e4m3fnuz>()
                                      : f.template operator()<T, f8_e4m3>();
  });
}

}  // namespace kvops::KVOPS_GPU
