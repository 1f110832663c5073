// Row-wise top-k: which items of a set belong to the k largest. Each part is done by a whole block.
//
//   key     integers in the order of the values: +0 above -0, NaN of either sign equal, on top
//   span    an interval of keys in which the least key of the top k is; counting the items of a
//           span in 4096 bins gives a narrower one
//   bound   that key, and of the items equal to it the last one that is taken
//
// Counters are integers, so that the order of atomics leaves no trace: the same bits every time.
// A set of items has each(f), which gives f the key and the position of each item of a thread.
#pragma once
#include "gpu/scan.cuh"
#include "gpu/vec.cuh"

namespace kvops::gpu {

inline constexpr int kDigit = 12, kBins = 1 << kDigit;
inline constexpr int kFew = 256;  // items of a span that are compared with each other

__device__ inline uint32_t key_of(float x) {
  const uint32_t bits = float_bits(x);
  if (is_nan(x)) return 0xFFFFFFFFu;
  return bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}
// Of a key that no number has: NaN.
__device__ inline float value_of(uint32_t key) {
  return bits_float(key >> 31 ? key ^ 0x80000000u : ~key);
}

// Which of two equal items is taken first: the one with the larger number.
__device__ inline uint32_t tie_of(int position, bool later) {
  return later ? uint32_t(position) : ~uint32_t(position);
}
struct Bound {
  uint32_t key, tie;

  __device__ bool takes(uint32_t k, int position, bool later) const {
    return k > key || (k == key && tie_of(position, later) >= tie);
  }
};

// `need` of the `count` items with keys from low to high belong to the top.
struct Span {
  uint32_t low, high;
  int need, count;

  __device__ bool has(uint32_t key) const { return key - low <= high - low; }
};

struct Found {
  int bin, above, count;  // above: of all higher bins
};
using Item = unsigned long long;  // key, tie
struct TopKScratch {
  WarpScratch warps[2];
  Found found;
  Bound bound;
  Item few[kFew];
  int few_count, candidates, peers[8];
};
__device__ inline Item item_of(uint32_t key, int position, bool later) {
  return Item(key) << 32 | tie_of(position, later);
}

__device__ inline void clear_bins(uint32_t* bins) {
  for (int i = int(threadIdx.x); i < kBins / 4; i += int(blockDim.x))
    store<true>(bins + 4 * i, Group<uint32_t, 4>{});
}

// The bin in which the need-th item from the top is; there are as many. All bins are 0 afterwards,
// and no few are listed.
template <int kThreads>
__device__ Found find(uint32_t* bins, int need, TopKScratch& s) {
  constexpr int kOwn = kBins / kThreads;
  const int first = kBins - kOwn * (int(threadIdx.x) + 1);
  int sum = 0;
  uint32_t count[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; i += 4) {
    const auto v = load<4, true>(bins + first + i);
    store<true>(bins + first + i, Group<uint32_t, 4>{});
#pragma unroll
    for (int j = 0; j < 4; ++j) count[i + j] = v.word[j], sum += int(v.word[j]);
  }
  const int all = warp_sum(sum), higher = sum_below(all, s.warps[0]);
  if (higher < need && need <= higher + all) {
    int above = higher + warp_scan(sum) - sum;
    if (above < need && need <= above + sum) {
      s.few_count = 0;
#pragma unroll
      for (int i = kOwn - 1; i >= 0; --i) {
        if (above < need && need <= above + int(count[i]))
          s.found = {first + i, above, int(count[i])};
        above += int(count[i]);
      }
    }
  }
  __syncthreads();
  return s.found;
}

// The bin of the span that has the least key of the top.
template <int kThreads, class Items>
__device__ Span narrow(const Items& items, const Span& a, uint32_t* bins, TopKScratch& s) {
  const uint32_t width = a.high - a.low;
  const int bits = 32 - __clz(int(width)), shift = bits > kDigit ? bits - kDigit : 0;
  items.each([&](uint32_t key, int) {
    if (a.has(key)) atomicAdd(bins + ((key - a.low) >> shift), 1u);
  });
  __syncthreads();
  const Found f = find<kThreads>(bins, a.need, s);
  const uint32_t below = uint32_t(f.bin) << shift, last = below + ((1u << shift) - 1);
  return {a.low + below, last < width ? a.low + last : a.high, a.need - f.above, f.count};
}

// How many of the few listed items are above one of them; `same`: how many have its key.
struct Rank {
  int above, same;
};
__device__ inline Rank rank_of(Item own, int count, const TopKScratch& s) {
  Rank r = {0, 0};
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    r.above += s.few[i] > own;
    r.same += uint32_t(s.few[i] >> 32) == uint32_t(own >> 32);
  }
  return r;
}
// The bound of a span of few items, which are listed; tie 0 if no other item has its key.
__device__ inline Bound bound_of_listed(const Span& a, TopKScratch& s) {
  const int t = int(threadIdx.x);
  __syncthreads();
  if (t < a.count) {
    const Item own = s.few[t];
    const Rank r = rank_of(own, a.count, s);
    if (r.above == a.need - 1) s.bound = {uint32_t(own >> 32), r.same > 1 ? uint32_t(own) : 0};
  }
  __syncthreads();
  return s.bound;
}

// The items of a key, with their ties as keys.
template <class Items>
struct Tied {
  const Items& items;
  uint32_t key;
  bool later;

  template <class F>
  __device__ void each(F&& f) const {
    items.each([&](uint32_t k, int position) {
      if (k == key) f(tie_of(position, later), position);
    });
  }
};

template <int kThreads, class Items>
__device__ Bound bound_of(const Items& items, Span a, bool later, uint32_t* bins, TopKScratch& s) {
  while (a.count > kFew && a.count > a.need && a.low < a.high)
    a = narrow<kThreads>(items, a, bins, s);
  if (a.count == a.need) return {a.low, 0};
  if (a.count <= kFew) {
    if (!threadIdx.x) s.few_count = 0;
    __syncthreads();
    items.each([&](uint32_t key, int position) {
      if (a.has(key)) s.few[atomicAdd(&s.few_count, 1)] = item_of(key, position, later);
    });
    return bound_of_listed(a, s);
  }
  Span ties = {0, 0xFFFFFFFFu, a.need, a.count};
  while (ties.count > ties.need)
    ties = narrow<kThreads>(Tied<Items>{items, a.low, later}, ties, bins, s);
  return {a.low, ties.low};
}

// ---- a first count, by the 12 highest bits of a half that is rounded towards zero --------------

// Of two floats: the halves' bits in the order of the values, 16 bits each, a lower.
__device__ inline uint32_t ordered_halves(float a, float b) {
#if defined(__HIP__)
  if (is_nan(a)) a = bits_float(0x7FC00000u);
  if (is_nan(b)) b = bits_float(0x7FC00000u);
  const auto h = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_pkrtz(a, b));
  const uint32_t negative = (h >> 15 & 0x00010001u) * 0xFFFFu;
#else
  uint32_t h, negative;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(b), "f"(a));
#else
  h = __half_as_ushort(__float2half_rz(a)) | uint32_t(__half_as_ushort(__float2half_rz(b))) << 16;
#endif
  asm("prmt.b32 %0, %1, %1, 0xBB99;" : "=r"(negative) : "r"(h));  // the signs, 16 times each
#endif
  return h ^ (negative | 0x80008000u);
}
template <int N>
__device__ inline void count_values(const float (&x)[N], uint32_t* bins) {
#pragma unroll
  for (int e = 0; e < N; e += 2) {
    const uint32_t h = ordered_halves(x[e], x[e + 1]);
    atomicAdd(bins + (h >> 4 & (kBins - 1)), 1u);
    atomicAdd(bins + (h >> 20), 1u);
  }
}

// Bins with one value: NaN and the infinities. The two at zero have 2^-20 of either sign.
inline constexpr int kLeastBin = 0x3F, kZeroBin = 0x800, kInfinityBin = 0xFC0;

// The keys of a bin.
__device__ inline Span value_span(const Found& f, int need) {
  auto bits = [](int half) { return float_bits(to_float(f16{uint16_t(half)})); };
  uint32_t low, high;
  if (f.bin >= kInfinityBin) {
    low = high = f.bin == kInfinityBin ? 0xFF800000u : 0xFFFFFFFFu;
  } else if (f.bin >= kZeroBin) {
    const int half = (f.bin - kZeroBin) << 4;
    low = bits(half) | 0x80000000u, high = (bits(half + 16) | 0x80000000u) - 1;
  } else if (f.bin > kLeastBin) {
    const int half = (kZeroBin - 1 - f.bin) << 4;  // of the least magnitude
    low = ~((bits(half + 16) - 1) | 0x80000000u), high = ~(bits(half) | 0x80000000u);
  } else {
    low = high = 0x007FFFFFu;
  }
  return {low, high, need - f.above, f.count};
}

}  // namespace kvops::gpu
