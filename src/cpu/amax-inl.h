// The largest magnitude of a row or a group of elements, from which a scale follows.
#include <limits>

#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_AMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_AMAX_INL_H_
#undef KVOPS_CPU_AMAX_INL_H_
#else
#define KVOPS_CPU_AMAX_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

#if HWY_TARGET <= HWY_AVX3
// The largest magnitude of n 16-bit elements, a multiple of 32, as integers.
HWY_INLINE uint16_t most_of(const uint16_t* x, int64_t n) {
  const hn::FixedTag<uint16_t, 32> d;
  const auto magnitude = hn::Set(d, uint16_t{0x7FFF});
  auto most = hn::And(hn::LoadU(d, x), magnitude), most2 = most;
  int64_t i = 32;
  for (; i + 64 <= n; i += 64) {
    most = hn::Max(most, hn::And(hn::LoadU(d, x + i), magnitude));
    most2 = hn::Max(most2, hn::And(hn::LoadU(d, x + i + 32), magnitude));
  }
  if (i < n) most = hn::Max(most, hn::And(hn::LoadU(d, x + i), magnitude));
  most = hn::Max(most, most2);
  const auto ymm =
      _mm256_max_epu16(_mm512_castsi512_si256(most.raw), _mm512_extracti64x4_epi64(most.raw, 1));
  const auto xmm = _mm_max_epu16(_mm256_castsi256_si128(ymm), _mm256_extracti128_si256(ymm, 1));
  const auto least = _mm_minpos_epu16(_mm_xor_si128(xmm, _mm_set1_epi16(-1)));
  return uint16_t(~_mm_cvtsi128_si32(least));
}
#endif

// The largest magnitude of n elements; NaN does not count. 16-bit ones are compared as integers.
template <class S>
HWY_INLINE float row_amax(const S* x, int64_t n) {
  using Bits = std::conditional_t<sizeof(S) == 2, int16_t, int32_t>;
  constexpr Bits kInf = Bits(sizeof(S) == 4            ? 0x7F800000
                             : std::is_same_v<S, bf16> ? 0x7F80
                                                       : 0x7C00);
#if HWY_TARGET <= HWY_AVX3
  if constexpr (sizeof(S) == 2)
    if (n > 0 && n % 32 == 0) {
      const uint16_t most = most_of(reinterpret_cast<const uint16_t*>(x), n);
      if (most <= kInf) return to_float(S{most});
    }
#endif
  const hn::ScalableTag<Bits> d;
  const hn::ScalableTag<int32_t> d32;
  const auto lanes = int64_t(hn::Lanes(d));
  auto most = hn::Zero(d);
  for (int64_t i = 0; i < n; i += lanes) {
    const auto raw = i + lanes <= n ? load_raw(d, x + i) : load_raw_n(d, x + i, size_t(n - i));
    const auto m = hn::And(raw, hn::Set(d, std::numeric_limits<Bits>::max()));
    most = hn::Max(most, hn::IfThenZeroElse(hn::Gt(m, hn::Set(d, kInf)), m));
  }
  auto all = hn::BitCast(d32, most);
  if constexpr (sizeof(S) == 2)
    all = hn::Max(hn::And(all, hn::Set(d32, 0xFFFF)), hn::ShiftRight<16>(all));
  const auto bits = uint32_t(hn::GetLane(hn::MaxOfLanes(d32, all)));
  if constexpr (sizeof(S) == 2)
    return to_float(S{uint16_t(bits)});
  else
    return bits_float(bits);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
