// Vectors of floats in memory of any storage type: load, load_n, store, store_n for float, f16,
// bf16 and the four fp8 types, with the numerics of cpu/convert.h. D is a tag of float lanes.
//
// load_n and store_n take 0 <= n <= Lanes(d), touch n elements and no other byte; load_n gives
// zeros past n. No alignment beyond the element's is needed.
//
// Highway 1.0.3: DemoteTo(bf16) truncates, DemoteTo(f16) is right on AVX2 and AVX3 only (F16C), and
// Ne(v, v) does not find NaN on AVX2 and AVX3 (IsNaN does): do not use them elsewhere.
#include <bit>
#include <concepts>
#include <cstring>

#include "core/dtype.h"
#include "cpu/convert.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

#if defined(KVOPS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_SIMD_INL_H_
#undef KVOPS_CPU_SIMD_INL_H_
#else
#define KVOPS_CPU_SIMD_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
using Bits32 = hn::RebindToUnsigned<D>;
// The unsigned lanes that storage type T occupies next to the float lanes of D.
template <class T, class D>
using Storage =
    hn::Rebind<std::conditional_t<sizeof(T) == 4, uint32_t,
                                  std::conditional_t<sizeof(T) == 2, uint16_t, uint8_t>>,
               D>;

// ---- raw lanes ---------------------------------------------------------------------------------

template <class DU, class T>
HWY_INLINE hn::Vec<DU> load_raw(DU du, const T* p) {
  return hn::LoadU(du, reinterpret_cast<const hn::TFromD<DU>*>(p));
}
template <class DU, class T>
HWY_INLINE void store_raw(DU du, hn::Vec<DU> v, T* p) {
  hn::StoreU(v, du, reinterpret_cast<hn::TFromD<DU>*>(p));
}

// Masked memory operations that touch nothing outside the mask: AVX3 has all, AVX2 32-bit ones.
template <class T>
inline constexpr bool kMaskable = HWY_TARGET <= HWY_AVX3 ||
                                  (HWY_TARGET <= HWY_AVX2 && sizeof(T) == 4);

template <class DU, class T>
HWY_INLINE hn::Vec<DU> load_raw_n(DU du, const T* p, size_t n) {
  using U = hn::TFromD<DU>;
  if constexpr (kMaskable<U>) {
    return hn::MaskedLoad(hn::FirstN(du, n), du, reinterpret_cast<const U*>(p));
  } else {
    HWY_ALIGN U lanes[hn::MaxLanes(DU())] = {};
    for (size_t i = 0; i < n; ++i)
      hwy::CopyBytes<sizeof(U)>(reinterpret_cast<const U*>(p) + i, lanes + i);
    return hn::Load(du, lanes);
  }
}
template <class DU, class T>
HWY_INLINE void store_raw_n(DU du, hn::Vec<DU> v, T* p, size_t n) {
  using U = hn::TFromD<DU>;
  if constexpr (kMaskable<U>) {
    hn::BlendedStore(v, hn::FirstN(du, n), du, reinterpret_cast<U*>(p));
  } else {
    HWY_ALIGN U lanes[hn::MaxLanes(DU())];
    hn::Store(v, du, lanes);
    for (size_t i = 0; i < n; ++i)
      hwy::CopyBytes<sizeof(U)>(lanes + i, reinterpret_cast<U*>(p) + i);
  }
}

// ---- stored lanes <-> float lanes --------------------------------------------------------------

template <class D>
HWY_INLINE hn::Vec<D> widen(D d, hn::Vec<Bits32<D>> u, float) {
  return hn::BitCast(d, u);
}

template <class D, class V>
HWY_INLINE hn::Vec<D> widen(D d, V raw, bf16) {
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(Bits32<D>(), raw)));
}

template <class D, class V>
HWY_INLINE hn::Vec<D> widen(D d, V raw, f16) {
#if HWY_TARGET <= HWY_AVX2
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), raw));
#else
  const Bits32<D> du;
  const hn::RebindToSigned<D> di;
  const auto h = hn::PromoteTo(du, raw);
  const auto sign = hn::ShiftLeft<16>(hn::And(h, hn::Set(du, 0x8000)));
  const auto u = hn::ShiftLeft<13>(hn::And(h, hn::Set(du, 0x7FFF)));
  const auto least = hn::Set(du, 113u << 23);
  const auto small =
      hn::BitCast(du, hn::Sub(hn::BitCast(d, hn::Add(u, least)), hn::BitCast(d, least)));
  const auto special = hn::Gt(hn::BitCast(di, u), hn::Set(di, (0x7C00 << 13) - 1));
  const auto nan = hn::Gt(hn::BitCast(di, u), hn::Set(di, 0x7C00 << 13));
  const auto subnormal = hn::Lt(hn::BitCast(di, u), hn::Set(di, 0x0400 << 13));
  auto r = hn::Add(u, hn::IfThenElse(hn::RebindMask(du, special), hn::Set(du, 224u << 23),
                                     hn::Set(du, 112u << 23)));
  r = hn::Or(r, hn::IfThenElseZero(hn::RebindMask(du, nan), hn::Set(du, 0x00400000)));
  r = hn::IfThenElse(hn::RebindMask(du, subnormal), small, r);
  return hn::BitCast(d, hn::Or(r, sign));
#endif
}

template <class D, class V, IsFp8 T>
HWY_INLINE hn::Vec<D> widen(D d, V raw, T) {
  using F = Fp8Traits<T>;
  const Bits32<D> du;
  const hn::RebindToSigned<D> di;
  const auto c = hn::PromoteTo(du, raw);
  const auto code = hn::And(c, hn::Set(du, 0x7F));
  const auto sign = hn::ShiftLeft<24>(hn::And(c, hn::Set(du, 0x80)));
  const auto u = hn::ShiftLeft<F::kShift>(code);
  const auto least = hn::Set(du, F::kMinNormalBits);
  const auto small =
      hn::BitCast(du, hn::Sub(hn::BitCast(d, hn::Add(u, least)), hn::BitCast(d, least)));
  const auto subnormal = hn::Lt(hn::BitCast(di, code), hn::Set(di, 1 << F::kMantissa));
  auto r = hn::IfThenElse(hn::RebindMask(du, subnormal), small,
                          hn::Add(u, hn::Set(du, (F::kRebase << F::kShift))));
  r = hn::Or(r, sign);
  const auto nan_bits = hn::Set(du, kQuietNan);
  if constexpr (F::kFnuz) {
    r = hn::IfThenElse(hn::Eq(c, hn::Set(du, uint32_t{F::kNan})), nan_bits, r);
  } else {
    if constexpr (F::kMantissa == 2)
      r = hn::IfThenElse(hn::Eq(code, hn::Set(du, 0x7C)), hn::Or(sign, hn::Set(du, kInfinity)), r);
    constexpr int32_t last_number = F::kMantissa == 2 ? 0x7C : 0x7E;
    const auto nan = hn::Gt(hn::BitCast(di, code), hn::Set(di, last_number));
    r = hn::IfThenElse(hn::RebindMask(du, nan), nan_bits, r);
  }
  return hn::BitCast(d, r);
}

template <std::same_as<float> T, class D>
HWY_INLINE hn::Vec<Bits32<D>> narrow(D, hn::Vec<D> v) {
  return hn::BitCast(Bits32<D>(), v);
}

// Lanes below 2^16 (or 2^8) -> 16 (8) bits each.
template <class T, class D>
HWY_INLINE hn::Vec<Storage<T, D>> narrow_code(D, hn::Vec<Bits32<D>> code) {
  return hn::DemoteTo(Storage<T, D>(), hn::BitCast(hn::RebindToSigned<D>(), code));
}

// The NaN that a result may be: any, or what arithmetic makes of widened 16-bit numbers alone. The
// lower half of such a one is 0, so that rounding it to bf16 like a number leaves it as it is.
enum class Nan { any, of_halves };
template <class T>
inline constexpr Nan kNanOf = sizeof(T) == 2 ? Nan::of_halves : Nan::any;

// A parameter that may be NaN, fit for arithmetic with widened 16-bit numbers.
inline float quiet(float x) { return x == x ? x : std::bit_cast<float>(kQuietNan); }

// The result of rounding to bf16 is in the upper halves, the lower ones hold anything.
template <Nan kind = Nan::any, class D>
HWY_INLINE hn::Vec<Bits32<D>> rounded_bf16(D, hn::Vec<D> v) {
  const Bits32<D> du;
  const auto u = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1));
  const auto sum = hn::Add(hn::Add(u, hn::Set(du, 0x7FFF)), odd);
  if constexpr (kind == Nan::of_halves) return sum;
  const auto nan = hn::RebindMask(du, hn::IsNaN(v));
  return hn::IfThenElse(nan, hn::Or(u, hn::Set(du, 0x00400000)), sum);
}
template <std::same_as<bf16> T, class D>
HWY_INLINE hn::Vec<Storage<T, D>> narrow(D d, hn::Vec<D> v) {
  return narrow_code<T>(d, hn::ShiftRight<16>(rounded_bf16(D(), v)));
}

template <std::same_as<f16> T, class D>
HWY_INLINE hn::Vec<Storage<T, D>> narrow(D d, hn::Vec<D> v) {
#if HWY_TARGET <= HWY_AVX2
  return hn::BitCast(Storage<T, D>(), hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), v));
#else
  const Bits32<D> du;
  const hn::RebindToSigned<D> di;
  const auto u = hn::BitCast(du, v);
  const auto sign = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 0x8000));
  const auto m = hn::AndNot(hn::Set(du, kSign), u);
  const auto mi = hn::BitCast(di, m);
  const auto odd = hn::And(hn::ShiftRight<13>(m), hn::Set(du, 1));
  const auto normal = hn::ShiftRight<13>(
      hn::Add(hn::Sub(m, hn::Set(du, 112u << 23)), hn::Add(odd, hn::Set(du, 0xFFF))));
  const auto small = hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, m), hn::Set(d, 0.5f))),
                             hn::Set(du, 126u << 23));
  const auto nan_code =
      hn::Or(hn::Set(du, 0x7E00), hn::And(hn::ShiftRight<13>(m), hn::Set(du, 0x1FF)));
  const auto is_small = hn::Lt(mi, hn::Set(di, 113 << 23));
  const auto is_large = hn::Gt(mi, hn::Set(di, 0x477FEFFF));
  const auto is_nan = hn::Gt(mi, hn::Set(di, int32_t(kInfinity)));
  auto code = hn::IfThenElse(hn::RebindMask(du, is_small), small, normal);
  code = hn::IfThenElse(hn::RebindMask(du, is_large), hn::Set(du, 0x7C00), code);
  code = hn::IfThenElse(hn::RebindMask(du, is_nan), nan_code, code);
  return narrow_code<T>(d, hn::Or(code, sign));
#endif
}

template <IsFp8 T, class D>
HWY_INLINE hn::Vec<Storage<T, D>> narrow(D d, hn::Vec<D> v) {
  using F = Fp8Traits<T>;
  const Bits32<D> du;
  const hn::RebindToSigned<D> di;
  const auto u = hn::BitCast(du, v);
  const auto sign = hn::And(hn::ShiftRight<24>(u), hn::Set(du, 0x80));
  const auto all = hn::BitCast(di, hn::AndNot(hn::Set(du, kSign), u));
  const auto mi = hn::Min(all, hn::Set(di, int32_t(F::kMaxBits)));
  const auto m = hn::BitCast(du, mi);
  const auto odd = hn::And(hn::ShiftRight<F::kShift>(m), hn::Set(du, 1));
  const auto half = hn::Set(du, (1u << (F::kShift - 1)) - 1 - (F::kRebase << F::kShift));
  const auto normal = hn::ShiftRight<F::kShift>(hn::Add(m, hn::Add(odd, half)));
  const auto magic = hn::Set(du, F::kMagicBits);
  const auto small =
      hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, m), hn::BitCast(d, magic))), magic);
  const auto is_small = hn::Lt(mi, hn::Set(di, int32_t(F::kMinNormalBits)));
  auto code = hn::IfThenElse(hn::RebindMask(du, is_small), small, normal);
  if constexpr (F::kFnuz) {
    const auto zero = hn::Eq(code, hn::Zero(du));
    code = hn::IfThenZeroElse(zero, hn::Or(code, sign));
  } else {
    code = hn::Or(code, sign);
  }
  constexpr auto last_number = int32_t(kInfinity) - (F::kFnuz ? 1 : 0);  // fnuz: Inf gives NaN
  const auto nan = hn::Gt(all, hn::Set(di, last_number));
  code = hn::IfThenElse(hn::RebindMask(du, nan), hn::Set(du, uint32_t{F::kNan}), code);
  return narrow_code<T>(d, code);
}

// ---- memory ------------------------------------------------------------------------------------

template <class D, class T>
HWY_INLINE hn::Vec<D> load(D d, const T* p) {
  return widen(d, load_raw(Storage<T, D>(), p), T{});
}
template <class D, class T>
HWY_INLINE hn::Vec<D> load_n(D d, const T* p, size_t n) {
  return widen(d, load_raw_n(Storage<T, D>(), p, n), T{});
}
// stream: past the caches; p is aligned to the vector, and finish_streams() must follow before
// another thread may read. Vectors of less than 16 bytes go through the caches.
template <bool stream, class DU, class T>
HWY_INLINE void put_raw(DU du, hn::Vec<DU> v, T* p) {
  using U = hn::TFromD<DU>;
  if constexpr (stream && sizeof(U) * hn::MaxLanes(DU()) >= 16)
    hn::Stream(v, du, reinterpret_cast<U*>(p));
  else
    store_raw(du, v, p);
}
// Asks for the line `bytes` past p. Memory is never touched, whatever the address.
template <class T>
HWY_INLINE void prefetch(const T* p, int64_t bytes) {
  hwy::Prefetch(reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(p) + uintptr_t(bytes)));
}
HWY_INLINE void finish_streams() { hwy::FlushStream(); }

template <bool stream = false, class D, class T>
HWY_INLINE void store(D d, hn::Vec<D> v, T* p) {
  put_raw<stream>(Storage<T, D>(), narrow<T>(d, v), p);
}
template <class D, class T>
HWY_INLINE void store_n(D d, hn::Vec<D> v, T* p, size_t n) {
  store_raw_n(Storage<T, D>(), narrow<T>(d, v), p, n);
}

// v rounded to T, as floats.
template <class T, Nan kind = Nan::any, class D>
HWY_INLINE hn::Vec<D> round_to(D d, hn::Vec<D> v) {
  if constexpr (std::is_same_v<T, float>)
    return v;
  else if constexpr (std::is_same_v<T, bf16>)
    return hn::BitCast(d, hn::And(rounded_bf16<kind>(d, v), hn::Set(Bits32<D>(), 0xFFFF0000)));
  else
    return widen(d, narrow<T>(d, v), T{});
}

// ---- neighbours --------------------------------------------------------------------------------

// a takes elements 0, 2, 4, ..., b takes 1, 3, 5, ... of 2 * Lanes(d), or of 2 * n.
template <class D, class T>
HWY_INLINE void split_pairs(D d, hn::Vec<Bits32<D>> pairs, T, hn::Vec<D>& a, hn::Vec<D>& b) {
  const Bits32<D> du;
  const auto low = hn::And(pairs, hn::Set(du, 0xFFFF)), high = hn::ShiftRight<16>(pairs);
  a = widen(d, narrow_code<T>(d, low), T{});
  b = widen(d, narrow_code<T>(d, high), T{});
}
template <class D>
HWY_INLINE void split_pairs(D d, hn::Vec<Bits32<D>> pairs, bf16, hn::Vec<D>& a, hn::Vec<D>& b) {
  a = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
  b = hn::BitCast(d, hn::And(pairs, hn::Set(Bits32<D>(), 0xFFFF0000)));
}
template <class D, class T>
HWY_INLINE void load_pairs(D d, const T* p, hn::Vec<D>& a, hn::Vec<D>& b) {
  if constexpr (sizeof(T) == 4)
    hn::LoadInterleaved2(d, p, a, b);
  else
    split_pairs(d, load_raw(Bits32<D>(), p), T{}, a, b);
}
template <class D, class T>
HWY_INLINE void load_pairs_n(D d, const T* p, size_t n, hn::Vec<D>& a, hn::Vec<D>& b) {
  if constexpr (sizeof(T) == 4) {
    HWY_ALIGN float lanes[2 * hn::MaxLanes(D())] = {};
    std::memcpy(lanes, p, 2 * n * sizeof(float));
    hn::LoadInterleaved2(d, lanes, a, b);
  } else {
    split_pairs(d, load_raw_n(Bits32<D>(), p, n), T{}, a, b);
  }
}
template <class T, Nan kind = Nan::any, class D>
HWY_INLINE hn::Vec<Bits32<D>> join_pairs(D d, hn::Vec<D> a, hn::Vec<D> b) {
  const Bits32<D> du;
  if constexpr (std::is_same_v<T, bf16>)
    return hn::Or(hn::ShiftRight<16>(rounded_bf16<kind>(d, a)),
                  hn::And(rounded_bf16<kind>(d, b), hn::Set(du, 0xFFFF0000)));
  else
    return hn::Or(hn::PromoteTo(du, narrow<T>(d, a)),
                  hn::ShiftLeft<16>(hn::PromoteTo(du, narrow<T>(d, b))));
}
template <class D, class T>
HWY_INLINE void store_pairs(D d, hn::Vec<D> a, hn::Vec<D> b, T* p) {
  if constexpr (sizeof(T) == 4)
    hn::StoreInterleaved2(a, b, d, p);
  else
    store_raw(Bits32<D>(), join_pairs<T>(d, a, b), p);
}
template <class D, class T>
HWY_INLINE void store_pairs_n(D d, hn::Vec<D> a, hn::Vec<D> b, T* p, size_t n) {
  if constexpr (sizeof(T) == 4) {
    HWY_ALIGN float lanes[2 * hn::MaxLanes(D())];
    hn::StoreInterleaved2(a, b, d, lanes);
    std::memcpy(p, lanes, 2 * n * sizeof(float));
  } else {
    store_raw_n(Bits32<D>(), join_pairs<T>(d, a, b), p, n);
  }
}

// ---- two vectors at once -----------------------------------------------------------------------

// 2 * Lanes(d) elements in the order that is cheapest for a type: bf16 as pairs, others as halves.
template <class D>
struct Two {
  hn::Vec<D> a, b;
};
// Elements of type T in the order that they would have as Order.
template <class Order, class D, class T>
HWY_INLINE Two<D> load2_as(D d, const T* p) {
  if constexpr (std::is_same_v<Order, bf16>) {
    auto a = hn::Undefined(d), b = hn::Undefined(d);
    load_pairs(d, p, a, b);
    return {a, b};
  } else {
    return {load(d, p), load(d, p + hn::Lanes(d))};
  }
}
template <class D, class T>
HWY_INLINE Two<D> load2(D d, const T* p) {
  return load2_as<T>(d, p);
}
// a, then b.
template <bool stream = false, Nan kind = Nan::any, class D, class T>
HWY_INLINE void store_halves(D d, hn::Vec<D> a, hn::Vec<D> b, T* p) {
  if constexpr (std::is_same_v<T, bf16>) {
    const hn::Repartition<uint16_t, D> d16;
    const auto low = hn::BitCast(d16, rounded_bf16<kind>(d, a));
    const auto high = hn::BitCast(d16, rounded_bf16<kind>(d, b));
    return put_raw<stream>(d16, hn::ConcatOdd(d16, high, low), p);
  }
  put_raw<stream>(Storage<T, D>(), narrow<T>(d, a), p);
  put_raw<stream>(Storage<T, D>(), narrow<T>(d, b), p + hn::Lanes(d));
}

template <bool stream = false, Nan kind = Nan::any, class D, class T>
HWY_INLINE void store2(D d, Two<D> v, T* p) {
  if constexpr (std::is_same_v<T, bf16>) {
    put_raw<stream>(Bits32<D>(), join_pairs<T, kind>(d, v.a, v.b), p);
  } else {
    store_halves<stream>(d, v.a, v.b, p);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
