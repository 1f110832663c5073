// Groups of 16 elements as e2m1 codes: the vector form of core/nvfp4.h, equal to it bit for bit.
//
// Scales and reciprocals of up to kNvfp4Groups groups are computed side by side, lane = group; the
// elements of one group lie across lanes, at most 16 at a time.
#include "core/nvfp4.h"
#include "cpu/fp8-inl.h"

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

using GroupLanes = hn::CappedTag<float, 16>;

// |y| up to 6, the largest code; any NaN becomes 6, with a positive sign in `sign`.
template <class D>
HWY_INLINE hn::Vec<D> e2m1_magnitude(D d, hn::Vec<D> y, hn::Vec<Bits32<D>>* sign) {
  const Bits32<D> du;
  const auto m = hn::Abs(y);
  const auto number = hn::RebindMask(du, hn::Eq(y, y));
  *sign = hn::IfThenElseZero(number, hn::AndNot(hn::BitCast(du, m), hn::BitCast(du, y)));
  const auto most = hn::Set(d, 6.0f);
  return hn::IfThenElse(hn::Lt(m, most), m, most);
}

// Below 1, where the steps are 1/2: the sum with 2^22 has its last place there.
inline constexpr float kHalves = 4194304.0f;

// From 1 on: the bits of m, rounded to one bit of mantissa.
template <class D>
HWY_INLINE hn::Vec<Bits32<D>> e2m1_round(D, hn::Vec<D> m) {
  const Bits32<D> du;
  const auto bits = hn::BitCast(du, m);
  const auto odd = hn::And(hn::ShiftRight<22>(bits), hn::Set(du, 1));
  return hn::Add(bits, hn::Add(odd, hn::Set(du, 0x001FFFFF)));
}

// 16 codes of one group, x * w, to 8 bytes.
template <class S>
HWY_INLINE void store_codes(const S* x, float w, uint8_t* to) {
  const GroupLanes d;
  const Bits32<GroupLanes> du;
  const hn::Rebind<uint8_t, GroupLanes> d8;
  const hn::Repartition<uint16_t, decltype(d8)> d16;
  const hn::Rebind<uint8_t, decltype(d16)> half;
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < 16; i += lanes) {
    hn::Vec<Bits32<GroupLanes>> sign;
    const auto m = e2m1_magnitude(d, hn::Mul(load(d, x + i), hn::Set(d, w)), &sign);
    const auto large = hn::Sub(hn::ShiftRight<22>(e2m1_round(d, m)), hn::Set(du, 252));
    const auto halves = hn::Set(d, kHalves);
    const auto small = hn::Sub(hn::BitCast(du, hn::Add(m, halves)), hn::BitCast(du, halves));
    const auto below_1 = hn::RebindMask(du, hn::Lt(m, hn::Set(d, 1.0f)));
    const auto code = hn::Or(hn::IfThenElse(below_1, small, large), hn::ShiftRight<28>(sign));
    const auto bytes = hn::BitCast(d16, narrow_code<uint8_t>(d, code));
    const auto pairs = hn::And(hn::Or(bytes, hn::ShiftRight<4>(bytes)), hn::Set(d16, 0xFF));
    hn::StoreU(hn::DemoteTo(half, hn::BitCast(hn::RebindToSigned<decltype(d16)>(), pairs)), half,
               to + i / 2);
  }
}

// The largest magnitude of 16 elements; NaN does not count.
template <class S>
HWY_INLINE float group_amax(const S* x, float when_all_nan) {
  const GroupLanes d;
  const size_t lanes = hn::Lanes(d);
  auto m = hn::Set(d, -1.0f);
  for (size_t i = 0; i < 16; i += lanes) {
    const auto y = hn::Abs(load(d, x + i));
    m = hn::IfThenElse(hn::Gt(y, m), y, m);
  }
  const float amax = hn::GetLane(hn::MaxOfLanes(d, m));
  return amax < 0 ? when_all_nan : amax;
}

// nvfp4_error() of core/nvfp4.h.
template <class S>
HWY_INLINE float group_error(const S* x, float w) {
  const GroupLanes d;
  const Bits32<GroupLanes> du;
  const size_t lanes = hn::Lanes(d);
  const auto back = hn::Set(d, w == 0 ? 0.0f : 1.0f / w), halves = hn::Set(d, kHalves);
  HWY_ALIGN float sums[16];  // of 4 elements, in every fourth place
  for (size_t i = 0; i < 16; i += lanes) {
    hn::Vec<Bits32<GroupLanes>> sign;
    const auto v = load(d, x + i);
    const auto m = e2m1_magnitude(d, hn::Mul(v, hn::Set(d, w)), &sign);
    const auto large = hn::And(e2m1_round(d, m), hn::Set(du, 0xFFC00000));
    const auto small = hn::Sub(hn::Add(m, halves), halves);
    auto q = hn::IfThenElse(hn::Lt(m, hn::Set(d, 1.0f)), small, hn::BitCast(d, large));
    q = hn::BitCast(d, hn::Or(hn::BitCast(du, q), sign));
    const auto e = hn::Sub(hn::Mul(q, back), v);
    auto sum = hn::Mul(e, e);
    sum = hn::Add(sum, hn::Shuffle2301(sum));
    sum = hn::Add(sum, hn::Shuffle1032(sum));
    hn::Store(sum, d, sums + i);
  }
  return (sums[0] + sums[4]) + (sums[8] + sums[12]);
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

#if HWY_TARGET > HWY_AVX2
// 16 codes from 8 bytes, times a scale. Both bytes of the bf16 that a code is come from tables.
template <bool stream, class T>
HWY_INLINE void load_group(const uint8_t* codes, float scale, T* to) {
  const hn::FixedTag<uint8_t, 16> d8;
  const hn::Half<decltype(d8)> half;
  const hn::Repartition<uint16_t, decltype(d8)> d16;
  HWY_ALIGN static constexpr uint8_t kHigh[16] = {0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40,
                                                  0x80, 0xBF, 0xBF, 0xBF, 0xC0, 0xC0, 0xC0, 0xC0};
  HWY_ALIGN static constexpr uint8_t kLow[16] = {0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0,
                                                 0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0};
  const auto pairs = hn::ZeroExtendVector(d8, hn::LoadU(half, codes));
  const auto nibbles = hn::InterleaveLower(
      d8, hn::And(pairs, hn::Set(d8, 15)),
      hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, pairs))), hn::Set(d8, 15)));
  HWY_ALIGN bf16 values[16];
  const auto high = hn::TableLookupBytes(hn::Load(d8, kHigh), nibbles);
  const auto low = hn::TableLookupBytes(hn::Load(d8, kLow), nibbles);
  hn::Store(hn::InterleaveLower(d8, low, high), d8, reinterpret_cast<uint8_t*>(values));
  hn::Store(hn::InterleaveUpper(d8, low, high), d8, reinterpret_cast<uint8_t*>(values) + 16);
  const GroupLanes d;
  const auto factor = hn::Set(d, scale);
  for (size_t i = 0; i < 16; i += hn::Lanes(d))
    store<stream>(d, hn::Mul(load(d, values + i), factor), to + i);
}
#else
// As many codes as there are lanes, from words that are repeated for 8 lanes each, times a factor.
template <class D>
HWY_INLINE hn::Vec<D> values_of_codes(D d, hn::Vec<Bits32<D>> words, hn::Vec<D> factor) {
  const Bits32<D> du;
  HWY_ALIGN static constexpr uint32_t kShifts[16] = {0, 4, 8, 12, 16, 20, 24, 28,
                                                     0, 4, 8, 12, 16, 20, 24, 28};
  HWY_ALIGN static constexpr float kValues[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,
                                                  4.0f,  6.0f,  -0.0f, -0.5f, -1.0f, -1.5f,
                                                  -2.0f, -3.0f, -4.0f, -6.0f};
  const auto codes = hn::Shr(words, hn::Load(du, kShifts));
  const auto low = hn::And(codes, hn::Set(du, uint32_t(hn::Lanes(d) - 1)));
  auto values = hn::TableLookupLanes(hn::Load(d, kValues), hn::IndicesFromVec(d, low));
  if constexpr (hn::MaxLanes(D()) == 8) {
    const auto sign = hn::And(hn::ShiftLeft<28>(codes), hn::Set(du, kSign));
    values = hn::Xor(values, hn::BitCast(d, sign));
  }
  return hn::Mul(values, factor);
}
#endif

// 32 codes from 16 bytes, 16 times each of two scales.
template <bool stream, class T>
HWY_INLINE void load_codes(const uint8_t* codes, float scale0, float scale1, T* to) {
#if HWY_TARGET <= HWY_AVX2
  const hn::ScalableTag<float> d;
  const Bits32<decltype(d)> du;
  const auto lanes = int64_t(hn::Lanes(d));
  uint32_t words[4];
  hwy::CopyBytes<16>(codes, words);
  const auto values = [&](int64_t i) HWY_ATTR {  // elements i, i + 1, ...
    const auto factor = hn::Set(d, i < 16 ? scale0 : scale1);
    if constexpr (hn::MaxLanes(decltype(d)()) == 8) {
      return values_of_codes(d, hn::Set(du, words[i / 8]), factor);
    } else {
      const hn::Half<Bits32<decltype(d)>> half;
      const auto low = hn::Set(half, words[i / 8]), high = hn::Set(half, words[i / 8 + 1]);
      return values_of_codes(d, hn::Combine(du, high, low), factor);
    }
  };
  for (int64_t i = 0; i < 32; i += 2 * lanes)
    store_both<stream>(d, values(i), values(i + lanes), to + i);
#else
  load_group<stream>(codes, scale0, to);
  load_group<stream>(codes + 8, scale1, to + 16);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
