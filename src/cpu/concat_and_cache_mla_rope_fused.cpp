// concat_and_cache_mla_rope_fused: q_pe and k_pe turned in place by the angle of a row's position,
// then [kv_c | k_pe] stored as one entry of an MLA cache.
//
//   (x, y) = (RN(RN(x c) - RN(y s)), RN(RN(y c) + RN(x s))), c and s rounded to T before
//
// A thread takes some rows. Lanes are pairs, as in rotary_embedding; a few heads share a vector of
// cosines and sines. Nothing is contracted that rounds, and NaN is the quiet one: the same bits
// everywhere. With FMA the rounded product of two usual bf16 is two instructions; see Turn.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/concat_and_cache_mla_rope_fused.cpp"
#include <hwy/foreach_target.h>

#include "cpu/mla_entry-inl.h"

// Everything that is compiled once only.
#include <algorithm>
#include <atomic>

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/indices.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Args = kvops_concat_and_cache_mla_rope_fused_args;
using Lanes = hn::ScalableTag<float>;

// Heads whose pairs are turned by the same registers: 16 of 64 elements stay in L1.
constexpr int64_t kHeads = 16;

// The result of rounding to bf16 is in the upper halves, the lower ones hold anything.
HWY_INLINE hn::Vec<Bits32<Lanes>> rounded_number(hn::Vec<Lanes> v) {
  const Bits32<Lanes> du;
  const auto u = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1));
  return hn::Add(hn::Add(u, hn::Set(du, 0x7FFF)), odd);
}

// v rounded to T, as floats, where a NaN comes from elements of T or is the quiet one: the lower
// half of such a one is 0, and rounding it to bf16 like a number leaves it as it is.
template <class T>
HWY_INLINE hn::Vec<Lanes> rounded(hn::Vec<Lanes> v) {
  const Lanes d;
  if constexpr (!std::is_same_v<T, bf16>) return round_to<T>(d, v);
  return hn::BitCast(d, hn::And(rounded_number(v), hn::Set(Bits32<Lanes>(), 0xFFFF0000)));
}

template <class T>
HWY_INLINE hn::Vec<Lanes> sum_of(hn::Vec<Lanes> p, hn::Vec<Lanes> q) {
  const Lanes d;
  const auto sum = hn::Add(rounded<T>(p), rounded<T>(q));
  const auto quiet = hn::BitCast(d, hn::Set(Bits32<Lanes>(), kQuietNan));
  return rounded<T>(hn::IfThenElse(hn::IsNaN(sum), quiet, sum));
}

// Full vectors that are rounded already; of bf16 the lower halves may hold anything.
template <bool neox, class T>
HWY_INLINE void store_rotated(hn::Vec<Lanes> a, hn::Vec<Lanes> b, T* v, int64_t half, int64_t j) {
  const Lanes d;
  const Bits32<Lanes> du;
  if constexpr (std::is_same_v<T, bf16>) {
    const auto x = hn::ShiftRight<16>(hn::BitCast(du, a)), y = hn::BitCast(du, b);
    if constexpr (!neox)
      return store_raw(du, hn::Or(x, hn::And(y, hn::Set(du, 0xFFFF0000))), v + 2 * j);
    store_raw(Storage<T, Lanes>(), narrow_code<T>(d, x), v + j);
    store_raw(Storage<T, Lanes>(), narrow_code<T>(d, hn::ShiftRight<16>(y)), v + half + j);
  } else if constexpr (neox) {
    store(d, a, v + j);
    store(d, b, v + half + j);
  } else {
    store_pairs(d, a, b, v + 2 * j);
  }
}

// Pairs j to j + m of one head.
template <bool neox, class T>
HWY_INLINE void rotate_head(T* v, hn::Vec<Lanes> c, hn::Vec<Lanes> s, int64_t half, int64_t j,
                            size_t m) {
  const Lanes d;
  const bool full = m == hn::Lanes(d);
  auto x = hn::Zero(d), y = hn::Zero(d);
  if constexpr (neox) {
    x = full ? load(d, v + j) : load_n(d, v + j, m);
    y = full ? load(d, v + half + j) : load_n(d, v + half + j, m);
  } else {
    full ? load_pairs(d, v + 2 * j, x, y) : load_pairs_n(d, v + 2 * j, m, x, y);
  }
  const auto a = sum_of<T>(hn::Mul(x, c), hn::Neg(hn::Mul(y, s)));
  const auto b = sum_of<T>(hn::Mul(y, c), hn::Mul(x, s));
  if (full) {
    store_rotated<neox>(a, b, v, half, j);
  } else if constexpr (neox) {
    store_n(d, a, v + j, m);
    store_n(d, b, v + half + j, m);
  } else {
    store_pairs_n(d, a, b, v + 2 * j, m);
  }
}

#if HWY_TARGET <= HWY_AVX2
// bf16 pairs by FMA. For c of 8 bits, 65537 c is a float, and one place of RN(65537 c x) is one of
// a bf16 next to c x: what is left without 65536 c x is c x rounded to bf16. All of this holds
// while nothing overflows or underflows: for magnitudes in [2^-62, 2^55), which zero has not.
struct Turn {
  hn::Vec<Lanes> c, s, c_more, s_more;
  bool usual;

  HWY_INLINE Turn(hn::Vec<Lanes> cosine, hn::Vec<Lanes> sine) {
    const Lanes d;
    const auto most = hn::Set(d, 65536.0f), more = hn::Set(d, 65537.0f);
    c = hn::Mul(cosine, most), s = hn::Mul(sine, most);
    c_more = hn::Mul(cosine, more), s_more = hn::Mul(sine, more);
    const hn::Repartition<uint16_t, Lanes> d16;
    const auto tops = hn::BitCast(d16, hn::ShiftRight<16>(hn::BitCast(Bits32<Lanes>(), sine)));
    usual = all_usual(d16, hn::Or(hn::BitCast(d16, cosine), tops));
  }
  template <class D16>
  static HWY_INLINE bool all_usual(D16 d16, hn::Vec<D16> raw) {
    constexpr auto kLeast = uint16_t((127 - 62) << 7), kPast = uint16_t((127 + 55) << 7);
    const auto m = hn::And(raw, hn::Set(d16, uint16_t{0x7FFF}));
    const auto above = hn::Sub(m, hn::Set(d16, kLeast));
    return hn::AllTrue(d16, hn::Lt(above, hn::Set(d16, uint16_t(kPast - kLeast))));
  }
  static HWY_INLINE hn::Vec<Lanes> product(hn::Vec<Lanes> x, hn::Vec<Lanes> w,
                                           hn::Vec<Lanes> w_more) {
    return hn::NegMulAdd(x, w, hn::Mul(x, w_more));
  }

  // False, and nothing is done, where an element is not usual.
  template <bool neox>
  HWY_INLINE bool operator()(bf16* v, int64_t half, int64_t j) const {
    const Lanes d;
    const Bits32<Lanes> du;
    const Storage<bf16, Lanes> narrow16;
    const hn::Repartition<uint16_t, Lanes> d16;
    auto x = hn::Zero(d), y = hn::Zero(d);
    if constexpr (neox) {
      const auto low = load_raw(narrow16, v + j), high = load_raw(narrow16, v + half + j);
      if (!all_usual(d16, hn::Combine(d16, high, low))) return false;
      x = widen(d, low, bf16()), y = widen(d, high, bf16());
    } else {
      const auto pairs = load_raw(du, v + 2 * j);
      if (!all_usual(d16, hn::BitCast(d16, pairs))) return false;
      split_pairs(d, pairs, bf16(), x, y);
    }
    const auto a = hn::Sub(product(x, c, c_more), product(y, s, s_more));
    const auto b = hn::Add(product(y, c, c_more), product(x, s, s_more));
    const auto first = hn::BitCast(d, rounded_number(a)),
               second = hn::BitCast(d, rounded_number(b));
    store_rotated<neox>(first, second, v, half, j);
    return true;
  }
};
#endif

// Pairs j to j + m of `heads` heads from v on. row: cosines, then sines.
template <bool neox, class T, class C>
HWY_INLINE void rotate_lanes(T* v, int64_t heads, int64_t stride, const C* row, int64_t half,
                             int64_t j, size_t m) {
  const Lanes d;
  const bool full = m == hn::Lanes(d);
  const auto c = round_to<T>(d, full ? load(d, row + j) : load_n(d, row + j, m));
  const auto s = round_to<T>(d, full ? load(d, row + half + j) : load_n(d, row + half + j, m));
#if HWY_TARGET <= HWY_AVX2
  if constexpr (std::is_same_v<T, bf16>) {
    const Turn turn(c, s);
    if (full && turn.usual) {
      for (int64_t h = 0; h < heads; ++h, v += stride)
        if (!turn.template operator()<neox>(v, half, j)) rotate_head<neox>(v, c, s, half, j, m);
      return;
    }
  }
#endif
  for (int64_t h = 0; h < heads; ++h, v += stride) rotate_head<neox>(v, c, s, half, j, m);
}

// Turns `heads` heads from v on; angles: the row of a position.
using Rotate = void (*)(void* v, int64_t heads, int64_t stride, const void* angles, int64_t half);

template <bool neox, class T, class C>
void rotate_heads(void* data, int64_t heads, int64_t stride, const void* angles, int64_t half) {
  const auto lanes = int64_t(hn::Lanes(Lanes()));
  for (int64_t h = 0; h < heads; h += kHeads) {
    T* v = static_cast<T*>(data) + h * stride;
    const int64_t n = std::min(kHeads, heads - h);
    for (int64_t j = 0; j < half; j += lanes)
      rotate_lanes<neox>(v, n, stride, static_cast<const C*>(angles), half, j,
                         size_t(std::min(lanes, half - j)));
  }
}

template <class T>
Rotate rotation(const Args& a) {
  if (a.cos_sin_cache.dtype == KVOPS_F32)
    return a.is_neox ? rotate_heads<true, T, float> : rotate_heads<false, T, float>;
  return a.is_neox ? rotate_heads<true, T, T> : rotate_heads<false, T, T>;
}

// The rows of the cosines and sines of a position.
struct Angles {
  const char* data;
  int64_t positions, row_bytes;
  explicit Angles(const kvops_tensor& t)
      : data(static_cast<const char*>(t.data)),
        positions(t.shape[0]),
        row_bytes(is_empty(t) ? 0 : t.stride[0] * dtype(t.dtype).size) {}
};

// W: how entries are written; elements that are only moved may be mere bits.
template <class W>
kvops_status run(const Args& a, const W& write, Rotate rotate) {
  using S = typename W::Source;
  const auto query = view<S, 3>(a.q_pe);
  const auto key = view<S, 2>(a.k_pe), latent = view<S, 2>(a.kv_c);
  const auto cache = view<typename W::Element, 3>(a.kv_cache);
  const Angles angles(a.cos_sin_cache);
  const int64_t heads = query.shape[1], half = key.shape[1] / 2, tokens = a.slot_mapping.shape[0];
  const int64_t block = cache.shape[1], capacity = cache.shape[0] * block;
  const auto* slots = static_cast<const int64_t*>(a.slot_mapping.data);
  const float scale = a.format == KVOPS_FORMAT_PLAIN ? scale_of(a.kv_scale)(0) : 1.0f;
  const int64_t bytes = ((4 * heads + 6) * half + latent.shape[1]) * int64_t(sizeof(S)) +
                        cache.shape[2] * int64_t(sizeof(*cache.data));
  std::atomic<int64_t> bad = 0;
  parallel_for(key.shape[0], rows_per_piece(bytes), [&](int64_t begin, int64_t end) {
    int64_t faults = 0;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t p = index_at(a.positions, t), slot = t < tokens ? slots[t] : -1;
      const bool stored = valid(slot, capacity, faults);
      if (!valid(p, angles.positions, faults)) continue;
      const char* row = angles.data + p * angles.row_bytes;
      if (half) {
        rotate(query.at(t), heads, query.stride[1], row, half);
        rotate(key.at(t), 1, 0, row, half);
      }
      if (stored)
        write.template write<false>(latent.at(t), key.at(t), cache.at(slot / block, slot % block),
                                    scale);
    }
    if (faults) bad.fetch_add(faults, std::memory_order_relaxed);
  });
  if (bad && present(a.faults)) *static_cast<int64_t*>(a.faults.data) += bad;
  return KVOPS_OK;
}

}  // namespace

kvops_status concat_and_cache_mla_rope_fused(const Args& a) {
  const Rotate rotate = a.q_pe.dtype == KVOPS_F32   ? rotation<float>(a)
                        : a.q_pe.dtype == KVOPS_F16 ? rotation<f16>(a)
                                                    : rotation<bf16>(a);
  return dispatch_entry("concat_and_cache_mla_rope_fused", a, a.kv_cache.dtype,
                        [&]<class W>(const W& write) { return run(a, write, rotate); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(concat_and_cache_mla_rope_fused)
}  // namespace kvops::cpu
#endif
