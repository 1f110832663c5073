// Keys of logits, and the k largest of a buffer of them.
//
// key(x) is a signed integer in the order of the values: -inf is the least, +0 is one above -0, all
// NaN are one key above +inf. Integers, because comparisons of floats tie the zeros and may flush
// subnormals. The cut at k is found by counting: three pivots cut the range of keys that may hold
// the k-th largest in four, until one has exactly k keys from it on, or the range is one key.
#include <algorithm>
#include <climits>

#include "cpu/simd-inl.h"
#include "cpu/top_k_per_row.h"

#if defined(KVOPS_CPU_TOP_K_PER_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_TOP_K_PER_ROW_INL_H_
#undef KVOPS_CPU_TOP_K_PER_ROW_INL_H_
#else
#define KVOPS_CPU_TOP_K_PER_ROW_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

using KeyTag = hn::ScalableTag<int32_t>;
using Keys = hn::Vec<KeyTag>;

// The order of the magnitude turns round below zero; then -inf moves to the least integer, which
// takes NaN with a sign past those without.
HWY_INLINE Keys keys_of(KeyTag d, Keys bits) {
  const auto turned = hn::Xor(bits, hn::And(hn::ShiftRight<31>(bits), hn::Set(d, 0x7FFFFFFF)));
  return hn::Min(hn::Sub(turned, hn::Set(d, 0x007FFFFF)), hn::Set(d, 0x7F000002));
}

// Which keys are among the k largest: those above `bound`, and of those equal to it the ones
// number [first, first + ties) in the order of positions.
struct Cut {
  int32_t bound;
  int64_t first, ties;
  // The least key that may still get in, after k that are there. latest: later ones win ties.
  int32_t floor(bool latest) const { return ties && latest ? bound : bound + 1; }
};

// How many of n keys, padded to whole vectors with INT32_MIN, are at least pivot[i], which is more.
HWY_INLINE void count_from(const int32_t* keys, int64_t n, const int32_t (&pivot)[3],
                           int64_t (&count)[3]) {
  const KeyTag d;
  const auto p0 = hn::Set(d, pivot[0] - 1), p1 = hn::Set(d, pivot[1] - 1),
             p2 = hn::Set(d, pivot[2] - 1);
  auto c0 = hn::Zero(d), c1 = hn::Zero(d), c2 = hn::Zero(d);
  for (int64_t i = 0; i < n; i += int64_t(hn::Lanes(d))) {
    const auto x = hn::LoadU(d, keys + i);
    c0 = hn::Sub(c0, hn::VecFromMask(d, hn::Gt(x, p0)));
    c1 = hn::Sub(c1, hn::VecFromMask(d, hn::Gt(x, p1)));
    c2 = hn::Sub(c2, hn::VecFromMask(d, hn::Gt(x, p2)));
  }
  count[0] = hn::GetLane(hn::SumOfLanes(d, c0));
  count[1] = hn::GetLane(hn::SumOfLanes(d, c1));
  count[2] = hn::GetLane(hn::SumOfLanes(d, c2));
}

HWY_INLINE void range_of(const int32_t* keys, int64_t n, int32_t& least, int32_t& most) {
  const KeyTag d;
  const auto lanes = int64_t(hn::Lanes(d));
  least = most = keys[0];
  auto low = hn::Set(d, least), high = low;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto x = hn::LoadU(d, keys + i);
    low = hn::Min(low, x), high = hn::Max(high, x);
  }
  least = hn::GetLane(hn::MinOfLanes(d, low)), most = hn::GetLane(hn::MaxOfLanes(d, high));
  for (; i < n; ++i) least = std::min(least, keys[i]), most = std::max(most, keys[i]);
}

// The cut below the k largest of n > k >= 1 keys. There is room for a vector past the last one.
inline Cut cut_at(int32_t* keys, int64_t n, int64_t k, bool latest) {
  int32_t low, high;
  range_of(keys, n, low, high);
  hn::StoreU(hn::Set(KeyTag(), INT32_MIN), KeyTag(), keys + n);
  int64_t from_low = n, above = 0;  // keys >= low, at least k; keys > high, less than k
  while (low < high) {
    const uint32_t w = uint32_t(high) - uint32_t(low);
    const uint32_t step[3] = {w / 4 + (w % 4 + 3) / 4, w / 2 + w % 2, w - w / 4};
    int32_t pivot[3];
    int64_t count[3];
    for (int i = 0; i < 3; ++i) pivot[i] = int32_t(uint32_t(low) + step[i]);
    count_from(keys, n, pivot, count);
    int32_t next_high = high;
    for (int i = 2; i >= 0; --i) {
      if (count[i] == k) return {pivot[i] - 1, 0, 0};
      if (count[i] > k) {
        low = pivot[i], from_low = count[i];
        break;
      }
      next_high = pivot[i] - 1, above = count[i];
    }
    high = next_high;
  }
  const int64_t ties = k - above;
  return {low, latest ? from_low - above - ties : 0, ties};
}

// The taken lanes in front. Highway's own has a table on the stack below AVX3.
template <class M>
HWY_INLINE Keys compact(Keys v, M taken) {
#if HWY_TARGET <= HWY_AVX3
  return hn::Compress(v, taken);
#else
  const KeyTag d;
  const hn::Rebind<uint8_t, KeyTag> bytes;
  uint8_t bits[8] = {};
  hn::StoreMaskBits(d, taken, bits);
  const auto lane = hn::PromoteTo(d, hn::LoadU(bytes, kSetBitsFirst.lane[bits[0]]));
  return hn::TableLookupLanes(v, hn::IndicesFromVec(d, lane));
#endif
}

// Keys and positions in one order, which is that of the positions.
struct Candidates {
  int32_t *keys, *positions;
  int64_t count = 0;

  template <class M>
  HWY_INLINE void append(Keys key, Keys position, M taken) {
    const KeyTag d;
    hn::StoreU(compact(key, taken), d, keys + count);
    hn::StoreU(compact(position, taken), d, positions + count);
    count += int64_t(hn::CountTrue(d, taken));
  }

  // Drops all that are not among the k largest; returns the least key that may join them.
  int32_t keep(int64_t k, bool latest) {
    if (count <= k) return INT32_MIN;
    const KeyTag d;
    const auto lanes = int64_t(hn::Lanes(d));
    const Cut cut = cut_at(keys, count, k, latest);
    const auto bound = hn::Set(d, cut.bound);
    const int64_t n = count, last = cut.first + cut.ties;
    int64_t seen = 0;  // ties
    count = 0;
    for (int64_t i = 0; i < n; i += lanes) {
      const auto key = hn::LoadU(d, keys + i), position = hn::LoadU(d, positions + i);
      const auto inside = hn::FirstN(d, size_t(n - i));
      auto taken = hn::And(hn::Gt(key, bound), inside);
      const auto tied = hn::And(hn::Eq(key, bound), inside);
      if (cut.ties && !hn::AllFalse(d, tied)) {
        const auto some = int64_t(hn::CountTrue(d, tied));
        if (seen >= cut.first && seen + some <= last)
          taken = hn::Or(taken, tied);
        else if (seen < last && seen + some > cut.first)
          taken = hn::Or(taken, numbered(tied, cut.first - seen, last - seen));
        seen += some;
      }
      append(key, position, taken);
    }
    return cut.floor(latest);
  }

 private:
  // The lanes of the mask that are number [first, last) of its lanes.
  template <class M>
  static M numbered(M mask, int64_t first, int64_t last) {
    const KeyTag d;
    HWY_ALIGN int32_t lane[hn::MaxLanes(KeyTag())];
    hn::Store(hn::VecFromMask(d, mask), d, lane);
    int64_t number = 0;
    for (size_t i = 0; i < hn::Lanes(d); ++i) {
      if (!lane[i]) continue;
      if (number < first || number >= last) lane[i] = 0;
      ++number;
    }
    return hn::MaskFromVec(hn::Load(d, lane));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif  // KVOPS_CPU_TOP_K_PER_ROW_INL_H_
