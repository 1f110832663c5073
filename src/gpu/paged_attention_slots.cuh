// Parts of units in the workspace, which say themselves whether they are there.
//
// A column has four sums of a head, what they are relative to and, in every word that is written at
// once, half of the stamp of the call. So it is known to be there when it is read, whatever the
// workspace held: that a word of it holds half a stamp by chance (2^-31) deceives only who reads
// between the two stores of a thread. Who adds columns up clears them, to what is no stamp: a graph
// that is replayed has the same one again.
#pragma once
#include "gpu/paged_attention.cuh"

namespace kvops::gpu {

#if defined(__HIP__)
inline constexpr int kColumnFloats = 12;  // words of 8 bytes: a number, half a stamp
#else
inline constexpr int kColumnFloats = 8;  // words of 16 bytes: three numbers, half a stamp
#endif

__device__ inline float* column_of(const Attention& a, int64_t slot, int h, int64_t d) {
  return a.slots + slot * a.slot_floats + (h * a.size + d) / 4 * kColumnFloats;
}

#if defined(__HIP__)
__device__ inline void put_column(const Attention& a, int64_t slot, int h, int64_t d,
                                  const Partial& p) {
  auto* to = reinterpret_cast<uint64_t*>(column_of(a, slot, h, d));
  const float numbers[6] = {p.x[0], p.x[1], p.x[2], p.x[3], p.top, p.sum};
  for (int i = 0; i < 6; ++i)
    __hip_atomic_store(to + i, a.stamp >> i % 2 * 32 << 32 | float_bits(numbers[i]),
                       __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
struct RawColumn {
  uint64_t word[6];
};
__device__ inline RawColumn load_column(const Attention& a, int64_t slot, int h, int64_t d,
                                        bool there) {
  auto* from = reinterpret_cast<uint64_t*>(column_of(a, slot, h, d));
  RawColumn raw = {};
  for (int i = 0; i < 6 && there; ++i)
    raw.word[i] = __hip_atomic_load(from + i, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  return raw;
}
__device__ inline bool read_column(const Attention& a, const RawColumn& raw, Partial& p) {
  float number[6];
  bool all = true;
  for (int i = 0; i < 6; ++i) {
    number[i] = bits_float(uint32_t(raw.word[i]));
    all = all && raw.word[i] >> 32 == uint32_t(a.stamp >> i % 2 * 32);
  }
  p = {number[4], number[5], {number[0], number[1], number[2], number[3]}};
  return all;
}
__device__ inline void clear_column(const Attention& a, int64_t slot, int h, int64_t d) {
  auto* to = reinterpret_cast<uint64_t*>(column_of(a, slot, h, d));
  for (int i = 0; i < 6; ++i)
    __hip_atomic_store(to + i, uint64_t(0), __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
#else
struct SlotWord {
  uint64_t low, high;
};
__device__ inline void store_word(float* to, const SlotWord& w) {
  asm volatile(
      "{.reg .b128 w; mov.b128 w, {%1, %2}; st.relaxed.gpu.global.b128 [%0], w;}" ::"l"(to),
      "l"(w.low), "l"(w.high)
      : "memory");
}
__device__ inline SlotWord load_word(const float* from, bool there) {  // no branch between loads
  SlotWord w;
  asm volatile(
      "{.reg .pred p; .reg .b128 w; setp.ne.u32 p, %3, 0; mov.b128 w, {%4, %4};"
      "@p ld.relaxed.gpu.global.b128 w, [%2]; mov.b128 {%0, %1}, w;}"
      : "=l"(w.low), "=l"(w.high)
      : "l"(from), "r"(uint32_t(there)), "l"(uint64_t(0))
      : "memory");
  return w;
}
__device__ inline uint64_t pair_of(float low, uint32_t high) {
  return uint64_t(high) << 32 | float_bits(low);
}
__device__ inline void put_column(const Attention& a, int64_t slot, int h, int64_t d,
                                  const Partial& p) {
  float* to = column_of(a, slot, h, d);
  const auto half = [](uint64_t x) { return uint32_t(x); };
  store_word(to, {pair_of(p.x[0], float_bits(p.x[1])), pair_of(p.top, half(a.stamp))});
  store_word(to + 4, {pair_of(p.x[2], float_bits(p.x[3])), pair_of(p.sum, half(a.stamp >> 32))});
}
struct RawColumn {
  SlotWord first, second;
};
__device__ inline RawColumn load_column(const Attention& a, int64_t slot, int h, int64_t d,
                                        bool there) {
  const float* from = column_of(a, slot, h, d);
  return {load_word(from, there), load_word(from + 4, there)};
}
__device__ inline bool read_column(const Attention& a, const RawColumn& raw, Partial& p) {
  const SlotWord &first = raw.first, &second = raw.second;
  const auto low = [](uint64_t x) { return bits_float(uint32_t(x)); };
  p = {low(first.high),
       low(second.high),
       {low(first.low), low(first.low >> 32), low(second.low), low(second.low >> 32)}};
  return first.high >> 32 == uint32_t(a.stamp) && second.high >> 32 == a.stamp >> 32;
}
__device__ inline void clear_column(const Attention& a, int64_t slot, int h, int64_t d) {
  float* to = column_of(a, slot, h, d);
  store_word(to, {0, 0}), store_word(to + 4, {0, 0});
}
#endif

}  // namespace kvops::gpu
