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
//   FP8_DS_MLA    512 e4m3 | 4 f32 scales, one per 128 elements | 64 16-bit rope elements: 32
//                 threads a token, eight of which share a scale
//   NVFP4_DS_MLA  512 e2m1 | 64 e4m3 rope elements | 32 e4m3 scales: a thread has 16 elements
//
// Scales by core/numeric.h: the same bytes on every back end.
#pragma once
#include "core/dispatch.h"
#include "gpu/codes.cuh"
#include "gpu/nvfp4.cuh"
#include "gpu/slots.cuh"
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
    put<kKnown>(to, codes_of<C>(x, divide));
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

// Over `lanes` neighbours, a power of two up to 32.
__device__ inline float most_of(float x, int lanes) {
  for (int mask = lanes / 2; mask; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
  return x;
}

// 16 elements of the latent part of an FP8_DS_MLA entry, by lane 0 to 31 of a token: the eight that
// share a scale call this together, with or without an entry.
inline constexpr int kFp8DsLanes = kLatent / 16, kFp8DsRope = 528;  // where the rope part begins

template <class F8, class T>
struct Fp8DsPart {
  Group<F8, 16> codes;
  float scale;

  __device__ Fp8DsPart(const Group<T, 16>& x, bool pow2)
      : scale(ds_mla_scale(most_of(magnitude_of(x), 8), Fp8Traits<F8>::kFnuz, pow2)) {
    codes = codes_of<F8>(x, Divider<T>(scale));
  }
  template <bool kAligned>
  __device__ void put(uint8_t* entry, int lane) const {
    uint8_t* to = entry + lane * 16;
    auto& word = codes.word;
    if (kAligned && reinterpret_cast<uintptr_t>(entry) % 16 == 0) {
      store<true>(reinterpret_cast<Byte*>(to),
                  Group<Byte, 16>{{word[0], word[1], word[2], word[3]}});
    } else {
      put_bytes<kAligned>(to, Group<Byte, 8>{{word[0], word[1]}});
      put_bytes<kAligned>(to + 8, Group<Byte, 8>{{word[2], word[3]}});
    }
    if (lane % 8 == 0)
      put_bytes<kAligned>(entry + kLatent + lane / 2, Group<Byte, 4>{{float_bits(scale)}});
  }
};

template <class F8, class T, bool kAligned, class Tokens>
__global__ void __launch_bounds__(kEntryThreads, 8)
    fp8_ds_entry_kernel(KVOPS_IN_PLACE Tokens tokens, bool pow2) {
  int lane = int(threadIdx.x) % kFp8DsLanes;
  int64_t t = int64_t(blockIdx.x) * (kEntryThreads / kFp8DsLanes) + int(threadIdx.x) / kFp8DsLanes;
  Group<T, 16> x = {};
  Group<T, 2> rope = {};
  uint8_t* to = nullptr;
  if (t < tokens.tokens) {
    Source<T> from = tokens.source(t);
    x = load<16, kAligned>(from.latent + lane * 16);
    rope = load<2, kAligned>(from.rope + lane * 2);
    to = tokens.entry(t, !lane);
  }
  Fp8DsPart<F8, T> part(x, pow2);
  if (!to) return;
  auto put = [&]<bool kWide>() {
    part.template put<kWide>(to, lane);
    put_bytes<kWide>(to + kFp8DsRope + 4 * lane, Group<Byte, 4>{{rope.word[0]}});
  };
  if (Tokens::kKnown || reinterpret_cast<uintptr_t>(to) % 8 == 0)
    put.template operator()<kAligned>();
  else
    put.template operator()<false>();
}

// 16 elements of the latent part of an NVFP4_DS_MLA entry.
static __device__ __noinline__ Nvfp4Group nvfp4_ds_unusual(Group<bf16, 16> x) {
  Nvfp4Group group = {{0, 0}, nvfp4_ds_mla_scale(magnitude_of(x))};
  float w = div_rn(1, decode(group.scale));
#pragma unroll
  for (int i = 0; i < 16; ++i)
    group.codes[i / 8] |= uint32_t{encode_e2m1(mul_rn(x.number(i), w))} << i % 8 * 4;
  return group;
}
__device__ inline Nvfp4Group nvfp4_ds_group(const Group<bf16, 16>& x) {
  uint32_t most = largest_bits(x);
  if (__builtin_expect(most >= kInfinite<bf16>, 0)) return nvfp4_ds_unusual(x);
  float amax = to_float(bf16{uint16_t(most)}), sixth = bits_float(kSixthBits);
  float rough = mul_rn(amax, sixth);  // corrected once, it is the quotient: tests/ops/division.cpp
  float least = fmaxf(fmaf(fmaf(-rough, 6.0f, amax), sixth, rough), 0x1p-9f);
  uint32_t code = encode_pair<f8_e4m3>(least, 0.0f);
  if (decode_pair<f8_e4m3>(code).a < least && code < 0x7E) ++code;  // as nvfp4_ds_mla_scale()
  Nvfp4Group group;
  group.scale = f8_e4m3{uint8_t(code)};
  e2m1_codes(x, reciprocal(decode_pair<f8_e4m3>(code).a), group.codes);
  return group;
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
  Nvfp4Group group = nvfp4_ds_group(x);
  put_bytes<kAligned>(to + g * 8, Group<Byte, 8>{{group.codes[0], group.codes[1]}});
  to[320 + 8 * (g % 4) + g / 4] = group.scale.bits;
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

template <class T, class C, class Tokens>
kvops_status write_plain(const char* op, const Tokens& tokens, const EntryLayout& layout,
                         const kvops_tensor& on) {
  auto fits = [&](int64_t n) {
    return layout.sources && layout.latent % n == 0 && layout.rope % n == 0 &&
           layout.entries >= n * int64_t(sizeof(C));
  };
  auto start = [&]<int N>() {
    constexpr int kEach = 64 / (N * int(sizeof(T))) < 4 ? 64 / (N * int(sizeof(T))) : 4;
    int64_t groups = (layout.latent + layout.rope) / N, each = kEach;
    // Fewer groups of a thread as long as there are few threads (H200).
    while (each > 1 && tokens.tokens * groups < each * 512 * compute_units(on)) each /= 2;
    int64_t threads = (groups + each - 1) / each, all = tokens.tokens * threads;
    gpu::PlainShape shape = {gpu::Splitter(threads), groups, layout.latent / N, all};
    int block = each > 1 ? gpu::kEntryThreads : gpu::kEntryThreads / 2;
    return launch(op, gpu::plain_entry_kernel<Tokens, T, C, N, kEach>,
                  {.x = (all + block - 1) / block, .threads = block}, on, tokens, shape);
  };
  if (fits(gpu::kGroup<C>)) return start.template operator()<gpu::kGroup<C>>();
  if (fits(gpu::kGroup<T>)) return start.template operator()<gpu::kGroup<T>>();
  return start.template operator()<1>();
}

template <class F8, class T, class Tokens>
kvops_status write_fp8_ds(const char* op, const Tokens& tokens, const EntryLayout& layout,
                          bool pow2, const kvops_tensor& on) {
  constexpr int64_t kPerBlock = gpu::kEntryThreads / gpu::kFp8DsLanes;
  Grid grid = {.x = (tokens.tokens + kPerBlock - 1) / kPerBlock};
  bool aligned = layout.sources && layout.entries >= 8;
  return aligned
             ? launch(op, gpu::fp8_ds_entry_kernel<F8, T, true, Tokens>, grid, on, tokens, pow2)
             : launch(op, gpu::fp8_ds_entry_kernel<F8, T, false, Tokens>, grid, on, tokens, pow2);
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
