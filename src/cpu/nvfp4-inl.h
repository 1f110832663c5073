// Groups of 16 elements as e2m1 codes: the vector form of core/nvfp4.h, equal to it bit for bit.
//
// Scales and reciprocals of up to kNvfp4Groups groups are computed side by side, lane = group; the
// codes of one group lie across lanes, at most 8 at a time: 8 codes are one 32-bit word.
#include "core/nvfp4.h"
#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_NVFP4_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_NVFP4_INL_H_
#undef KVOPS_CPU_NVFP4_INL_H_
#else
#define KVOPS_CPU_NVFP4_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kNvfp4Groups = 16;

using Eighth = hn::CappedTag<float, 8>;

// Codes 0 to 15 as u32 lanes: half to even, saturating, any NaN 7.
HWY_INLINE hn::Vec<Bits32<Eighth>> e2m1_codes(hn::Vec<Eighth> y) {
  const Eighth d;
  const Bits32<Eighth> du;
  const auto m = hn::Abs(y);
  auto minus = hn::BitCast(du, hn::VecFromMask(d, hn::Gt(m, hn::Set(d, 0.25f))));
  const auto count = [&](hn::Mask<Eighth> mask) HWY_ATTR {
    minus = hn::Add(minus, hn::BitCast(du, hn::VecFromMask(d, mask)));
  };
  count(hn::Ge(m, hn::Set(d, 0.75f)));
  count(hn::Gt(m, hn::Set(d, 1.25f)));
  count(hn::Ge(m, hn::Set(d, 1.75f)));
  count(hn::Gt(m, hn::Set(d, 2.5f)));
  count(hn::Ge(m, hn::Set(d, 3.5f)));
  count(hn::Gt(m, hn::Set(d, 5.0f)));
  const auto sign = hn::And(hn::ShiftRight<28>(hn::BitCast(du, y)), hn::Set(du, 8));
  const auto code = hn::Or(hn::Sub(hn::Zero(du), minus), sign);
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(y)), hn::Set(du, 7), code);
}

// 16 codes of one group to 8 bytes; lane i of a word is shifted to nibble i.
template <class S>
HWY_INLINE void store_codes(const S* x, float w, uint8_t* to) {
  const Eighth d;
  const Bits32<Eighth> du;
  const size_t lanes = hn::Lanes(d);
  const auto nibble = hn::ShiftLeft<2>(hn::Iota(du, 0));
  for (size_t word = 0; word < 2; ++word) {
    uint32_t bits = 0;
    for (size_t i = 0; i < 8; i += lanes) {
      const auto codes = e2m1_codes(hn::Mul(load(d, x + 8 * word + i), hn::Set(d, w)));
      bits |= hn::GetLane(hn::SumOfLanes(du, hn::Shl(codes, nibble))) << 4 * i;
    }
    hwy::CopyBytes<4>(&bits, to + 4 * word);
  }
}

// The largest magnitude of 16 elements. ignore_nan: 0 when there are only NaN; else NaN then.
template <class S>
HWY_INLINE float group_amax(const S* x, float when_all_nan) {
  const Eighth d;
  const size_t lanes = hn::Lanes(d);
  auto m = hn::Set(d, -1.0f);
  for (size_t i = 0; i < 16; i += lanes) {
    const auto y = hn::Abs(load(d, x + i));
    m = hn::IfThenElse(hn::Gt(y, m), y, m);
  }
  const float amax = hn::GetLane(hn::MaxOfLanes(d, m));
  return amax < 0 ? when_all_nan : amax;
}

// The sum of squared errors of codes q = e2m1(x * w), summed as core/nvfp4.h sums.
template <class S>
HWY_INLINE float group_error(const S* x, float w) {
  float wide[16];
  const Eighth d;
  for (size_t i = 0; i < 16; i += hn::Lanes(d)) hn::StoreU(load(d, x + i), d, wide + i);
  return nvfp4_error(wide, w);
}

// Quantises n <= kNvfp4Groups groups; inverse = RN(1 / k_scale).
template <class S>
HWY_INLINE void nvfp4_groups(const S* x, int64_t n, float inverse, bool four_over_six,
                             uint8_t* codes, uint8_t* scales) {
  const hn::ScalableTag<float> d;
  const auto lanes = int64_t(hn::Lanes(d));
  HWY_ALIGN float amax[kNvfp4Groups] = {}, w[2][kNvfp4Groups];
  f8_e4m3 scale[2][kNvfp4Groups];
  for (int64_t g = 0; g < n; ++g) amax[g] = group_amax(x + 16 * g, bits_float(0x7FC00000u));
  const auto inverse_v = hn::Set(d, inverse), back = hn::Set(d, 1.0f / inverse);
  for (int rule = 0; rule <= int(four_over_six); ++rule) {
    const auto part = hn::Set(d, rule ? 0.25f : bits_float(kSixthBits));
    for (int64_t g = 0; g < n; g += lanes) {
      store(d, hn::Mul(inverse_v, hn::Mul(hn::Load(d, amax + g), part)), scale[rule] + g);
      const auto s = load(d, scale[rule] + g);
      const auto r = hn::Div(hn::Set(d, 1.0f), hn::Mul(s, back));
      hn::Store(hn::IfThenZeroElse(hn::Eq(s, hn::Zero(d)), r), d, w[rule] + g);
    }
  }
  for (int64_t g = 0; g < n; ++g) {
    const S* group = x + 16 * g;
    const bool four = four_over_six && group_error(group, w[1][g]) < group_error(group, w[0][g]);
    scales[g] = scale[four][g].bits;
    store_codes(group, w[four][g], codes + 8 * g);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
