// Matrix product, Highway: kernels for every dtype on every target, the rounding of results, and
// packing. A kernel holds up to 14 (AVX3) or 6 rows of two vectors of sums in registers; every sum
// is one chain over k, in order, so that its bits do not depend on how rows or k are blocked.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemm_simd.cpp"
#include "hwy/foreach_target.h"
// after foreach_target.h
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "cpu/gemm_kernels.h"
#include "cpu/isa.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

constexpr hn::ScalableTag<float> kFloat;
constexpr hn::ScalableTag<int32_t> kInt;
using Float = hn::Vec<decltype(kFloat)>;
using Int = hn::Vec<decltype(kInt)>;

// A panel's block, 24 KiB, and the rows' fit the first cache.
constexpr int64_t kSteps = 192;

// Two vectors of sums for each of R rows. A list of members, because GCC keeps members in registers
// and may spill arrays.
template <class V, int R>
struct Sums {
  V a, b;
  Sums<V, R - 1> rest;
};
template <class V>
struct Sums<V, 0> {};

template <class D, class V, int R>
HWY_INLINE void load_sums(D d, Sums<V, R>& sums, const hn::TFromD<D>* p, int64_t pitch) {
  if constexpr (R > 0) {
    sums.a = hn::LoadU(d, p), sums.b = hn::LoadU(d, p + hn::Lanes(d));
    load_sums(d, sums.rest, p + pitch, pitch);
  }
}
template <class D, class V, int R>
HWY_INLINE void store_sums(D d, const Sums<V, R>& sums, hn::TFromD<D>* p) {
  if constexpr (R > 0) {
    hn::StoreU(sums.a, d, p), hn::StoreU(sums.b, d, p + hn::Lanes(d));
    store_sums(d, sums.rest, p + kGemmPanel);
  }
}

HWY_INLINE Float multiply_add(float x, Float b, Float sum) {
  return hn::MulAdd(hn::Set(kFloat, x), b, sum);
}
HWY_INLINE Int multiply_add(int32_t x, Int b, Int sum) {  // of two pairs of 16 bits
  const hn::Repartition<int16_t, decltype(kInt)> d16;
  Int odd = hn::Zero(kInt);  // where products are not added in pairs
  const auto even = hn::ReorderWidenMulAccumulate(kInt, hn::BitCast(d16, hn::Set(kInt, x)),
                                                  hn::BitCast(d16, b), sum, odd);
  return HWY_TARGET == HWY_EMU128 ? hn::Add(even, odd) : even;
}
template <int64_t pitch, class V, int R, class W>
HWY_INLINE void add_rows(Sums<V, R>& sums, const W* x, V a, V b) {
  if constexpr (R > 0) {
    sums.a = multiply_add(*x, a, sums.a), sums.b = multiply_add(*x, b, sums.b);
    add_rows<pitch>(sums.rest, x + pitch, a, b);
  }
}

// Into the second cache.
HWY_INLINE void fetch_second(const char* p) { __builtin_prefetch(p, 0, 2); }

// ---- dtypes: what a step is --------------------------------------------------------------------

// bits 0..15 and 16..31 of words as floats; bytes 0, 2 and 1, 3 as 16-bit integers
HWY_INLINE Float even_floats(Int w) { return hn::BitCast(kFloat, hn::ShiftLeft<16>(w)); }
HWY_INLINE Float odd_floats(Int w) {
  return hn::BitCast(kFloat, hn::And(w, hn::Set(kInt, int32_t(0xFFFF0000))));
}
HWY_INLINE Int even_bytes(Int w) {
  const hn::Repartition<int16_t, decltype(kInt)> d16;
  return hn::BitCast(kInt, hn::ShiftRight<8>(hn::ShiftLeft<8>(hn::BitCast(d16, w))));
}
HWY_INLINE Int odd_bytes(Int w) {
  const hn::Repartition<int16_t, decltype(kInt)> d16;
  return hn::BitCast(kInt, hn::ShiftRight<8>(hn::BitCast(d16, w)));
}

template <class T>
struct Wide {  // f32, f16: a step is one k
  using Word = float;
  using V = Float;
  static constexpr int kPlanes = 1;
  static constexpr kvops_dtype kDtype = dtype_of<T>;
  static HWY_INLINE auto d() { return kFloat; }
  static constexpr int64_t kPitch = gemm_pitch(kSteps * kPlanes) / int64_t(sizeof(Word));

  template <int R>
  static HWY_INLINE void step(Sums<V, R>& sums, const Word* x, const void* panel, size_t at) {
    const T* p = static_cast<const T*>(panel) + at;
    add_rows<kPitch>(sums, x, load(kFloat, p), load(kFloat, p + hn::Lanes(kFloat)));
  }
  static void convert(const void* row, int64_t k, void* to) {
    const auto* x = static_cast<const T*>(row);
    auto* y = static_cast<float*>(to);
    const auto lanes = int64_t(hn::Lanes(kFloat));
    int64_t i = 0;
    for (; i + lanes <= k; i += lanes) hn::StoreU(load(kFloat, x + i), kFloat, y + i);
    if (i < k) store_n(kFloat, load_n(kFloat, x + i, size_t(k - i)), y + i, size_t(k - i));
  }
};

// bf16 and i8: a step is a word of 2 or 4 of k, which is split into two planes.
template <class T>
struct Packed {
  static constexpr bool kBf16 = std::is_same_v<T, bf16>;
  using Word = std::conditional_t<kBf16, float, int32_t>;
  using V = std::conditional_t<kBf16, Float, Int>;
  static constexpr int kPlanes = 2;
  static constexpr int64_t kPitch = gemm_pitch(kSteps * kPlanes) / int64_t(sizeof(Word));
  static HWY_INLINE auto d() {
    if constexpr (kBf16)
      return kFloat;
    else
      return kInt;
  }
  static HWY_INLINE V even(Int w) {
    if constexpr (kBf16)
      return even_floats(w);
    else
      return even_bytes(w);
  }
  static HWY_INLINE V odd(Int w) {
    if constexpr (kBf16)
      return odd_floats(w);
    else
      return odd_bytes(w);
  }

  template <int R>
  static HWY_INLINE void step(Sums<V, R>& sums, const Word* x, const void* panel, size_t at) {
    const int32_t* p = static_cast<const int32_t*>(panel) + at;
    const auto a = hn::LoadU(kInt, p), b = hn::LoadU(kInt, p + hn::Lanes(kInt));
    add_rows<kPitch>(sums, x, even(a), even(b));
    add_rows<kPitch>(sums, x + kSteps, odd(a), odd(b));
  }
  static void convert(const void* row, int64_t k, void* to) {
    constexpr int64_t kPer = 4 / int64_t(sizeof(T));
    auto* y = static_cast<Word*>(to);
    const auto lanes = int64_t(hn::Lanes(kInt));
    const auto* x = static_cast<const uint8_t*>(row);
    const int64_t steps =
        (k + kPer * kGemmTileSteps - 1) / (kPer * kGemmTileSteps) * kGemmTileSteps;
    for (int64_t i = 0; i < steps; i += lanes) {
      const int64_t bytes = std::clamp<int64_t>(k * int64_t(sizeof(T)) - 4 * i, 0, 4 * lanes);
      HWY_ALIGN int32_t words[hn::MaxLanes(kInt)] = {};
      std::memcpy(words, x + 4 * i, size_t(bytes));
      const auto w = hn::Load(kInt, words);
      hn::StoreU(even(w), d(), y + i), hn::StoreU(odd(w), d(), y + i + kSteps);
    }
  }
};

// The next line but one of every row and plane.
template <class P, int R>
HWY_INLINE void fetch_rows(const char* x) {
  if constexpr (R > 0) {
    for (int i = 0; i < P::kPlanes; ++i) prefetch(x, kSteps * 4 * i + 128);
    fetch_rows<P, R - 1>(x + gemm_pitch(kSteps * P::kPlanes));
  }
}

template <class P, int R>
HWY_INLINE void begin_sums(Sums<typename P::V, R>& sums, const void* start,
                           const typename P::Word* tile, size_t col) {
  if (start)
    load_sums(P::d(), sums, static_cast<const typename P::Word*>(start) + col, 0);
  else
    load_sums(P::d(), sums, tile + col, kGemmPanel);
}

template <class P, int R>
void kernel(const GemmBlock& block) {
  using Word = typename P::Word;
  auto* tile = reinterpret_cast<Word*>(block.tile);
  for (size_t col = 0; col < size_t(kGemmPanel); col += 2 * hn::Lanes(P::d())) {
    const auto* x = reinterpret_cast<const Word*>(block.rows);
    const char* next = block.next;
    size_t at = col;
    Sums<typename P::V, R> sums;
    begin_sums<P>(sums, block.start, tile, col);
    for (int64_t left = block.steps; left > 0; left -= kGemmTileSteps) {
      for (int64_t l = 0; col == 0 && l < block.lines; ++l, next += 64) fetch_second(next);
      fetch_rows<P, R>(reinterpret_cast<const char*>(x));
      for (int64_t s = std::min(left, kGemmTileSteps); s > 0; --s, ++x, at += size_t(kGemmPanel))
        P::step(sums, x, block.panel, at);
    }
    store_sums(P::d(), sums, tile + col);
  }
}

template <class P, int R>
void pair(const GemmBlock& block) {
  using Word = typename P::Word;
  auto* tile = reinterpret_cast<Word*>(block.tile);
  const auto* start = static_cast<const Word*>(block.start);
  for (size_t col = 0; col < size_t(kGemmPanel); col += 2 * hn::Lanes(P::d())) {
    const auto* x = reinterpret_cast<const Word*>(block.rows);
    size_t at = col;
    Sums<typename P::V, R> a, b;
    begin_sums<P>(a, start, tile, col);
    begin_sums<P>(b, start ? start + kGemmPanel : start, tile + R * kGemmPanel, col);
    for (int64_t s = 0; s < block.steps; ++s, ++x, at += size_t(kGemmPanel)) {
      P::step(a, x, block.panel, at);
      P::step(b, x, block.panel + block.pair, at);
    }
    store_sums(P::d(), a, tile + col), store_sums(P::d(), b, tile + R * kGemmPanel + col);
  }
}

// Registers: 2 sums per row, the panel's two or four vectors, a row's element.
template <class P>
constexpr int kRows = HWY_TARGET <= HWY_AVX3 ? (P::kPlanes == 1 ? 14 : 12)
                                             : (P::kPlanes == 1 ? 6 : 4);
constexpr int kPairRows = HWY_TARGET <= HWY_AVX3 ? 4 : 2, kFewRows = 4;

template <class P, int... R>
constexpr auto table(std::integer_sequence<int, R...>) {
  return std::array<GemmKernel, sizeof...(R)>{&kernel<P, R + 1>...};
}
template <class P, int... R>
constexpr auto pair_table(std::integer_sequence<int, R...>) {
  return std::array<GemmKernel, sizeof...(R)>{&pair<P, R + 1>...};
}

template <class P>
const GemmKernels* kernels() {
  static constexpr auto kTable = table<P>(std::make_integer_sequence<int, kRows<P>>());
  static constexpr auto kPairs = pair_table<P>(std::make_integer_sequence<int, kPairRows>());
  static constexpr GemmKernels k = {.most_rows = kRows<P>,
                                    .whole_tiles = false,
                                    .offset = false,
                                    .steps = kSteps,
                                    .pitch = gemm_pitch(kSteps * P::kPlanes),
                                    .convert = &P::convert,
                                    .kernels = kTable.data(),
                                    .few_rows = kFewRows,
                                    .pair_rows = kPairRows,
                                    .pairs = kPairs.data(),
                                    .begin = nullptr,
                                    .end = nullptr};
  return &k;
}

// ---- results -----------------------------------------------------------------------------------

template <class T>
void finish_row(const float* sums, const T* bias, size_t cols, T* out) {
  const auto n = hn::Lanes(kFloat);
  for (size_t c = 0; c < cols; c += n) {
    const size_t some = std::min(n, cols - c);
    auto v = hn::LoadU(kFloat, sums + c);
    if (bias) v = hn::Add(v, some == n ? load(kFloat, bias + c) : load_n(kFloat, bias + c, some));
    if (some == n)
      store(kFloat, v, out + c);
    else
      store_n(kFloat, v, out + c, some);
  }
}

template <class T>
void finish(const GemmResult& r) {
  for (int64_t i = 0; i < r.rows; ++i) {
    const auto* sums = reinterpret_cast<const float*>(r.tile) + i * kGemmPanel;
    finish_row(sums, reinterpret_cast<const T*>(r.bias), size_t(r.cols),
               reinterpret_cast<T*>(r.out + i * r.stride));
  }
}

}  // namespace

const GemmKernels* gemm_simd_kernels(kvops_dtype dtype) {
  switch (dtype) {
    case KVOPS_F32:
      return kernels<Wide<float>>();
    case KVOPS_F16:
      return kernels<Wide<f16>>();
    case KVOPS_BF16:
      return kernels<Packed<bf16>>();
    default:
      return kernels<Packed<int8_t>>();
  }
}

void gemm_finish(kvops_dtype dtype, const GemmResult& r) {
  if (dtype == KVOPS_F32) return finish<float>(r);
  if (dtype == KVOPS_F16) return finish<f16>(r);
  if (dtype == KVOPS_BF16) return finish<bf16>(r);
  for (int64_t i = 0; i < r.rows; ++i) {
    const char* sums = r.tile + i * kGemmPanel * 4;
    if (r.cols == kGemmPanel)  // a size that the compiler knows
      std::memcpy(r.out + i * r.stride, sums, kGemmPanel * 4);
    else
      std::memcpy(r.out + i * r.stride, sums, size_t(r.cols) * 4);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {

const GemmKernels* gemm_simd_kernels(kvops_dtype dtype) {
  return KVOPS_CPU_CHOSEN(gemm_simd_kernels)(dtype);
}
void gemm_finish(kvops_dtype dtype, const GemmResult& r) {
  KVOPS_CPU_CHOSEN(gemm_finish)(dtype, r);
}
}  // namespace kvops::cpu
#endif
