// Packing of weights for matrix products: columns of any strides -> panels (cpu/gemm_kernels.h). A
// panel is made whole by one thread. Columns of adjacent k, as linear layers have them, are
// transposed in registers, rows of adjacent columns interleaved.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemm_pack.cpp"
#include "hwy/foreach_target.h"
// after foreach_target.h
#include <array>
#include <type_traits>

#include "cpu/gemm_kernels.h"
#include "cpu/isa.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

// Columns of adjacent k -> rows of adjacent columns, 16 bytes by 16 bytes, in elements of 16 or
// words of 32 bits.
template <class U>
constexpr hn::Simd<U, 16 / sizeof(U), 0> kBlock;

HWY_INLINE void transpose(const uint32_t* from, int64_t stride, uint32_t* to) {
  constexpr auto d = kBlock<uint32_t>;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  const auto r0 = hn::LoadU(d, from), r1 = hn::LoadU(d, from + stride);
  const auto r2 = hn::LoadU(d, from + 2 * stride), r3 = hn::LoadU(d, from + 3 * stride);
  const auto a = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
  const auto b = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto e = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto f = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, a, b)), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, a, b)), d, to + kGemmPanel);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, e, f)), d, to + 2 * kGemmPanel);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, e, f)), d, to + 3 * kGemmPanel);
}

// 8 columns of 8 elements: pairs of columns are words, of which 4 x 8 are transposed as above.
HWY_INLINE void transpose(const uint16_t* from, int64_t stride, uint16_t* to) {
  constexpr auto d = kBlock<uint16_t>;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  HWY_ALIGN uint32_t words[8][4], rows[8][kGemmPanel];
  for (int64_t c = 0; c < 4; ++c) {
    const auto a = hn::LoadU(d, from + 2 * c * stride),
               b = hn::LoadU(d, from + (2 * c + 1) * stride);
    hn::Store(hn::BitCast(d32, hn::InterleaveLower(d, a, b)), d32, words[c]);
    hn::Store(hn::BitCast(d32, hn::InterleaveUpper(d, a, b)), d32, words[4 + c]);
  }
  transpose(words[0], 4, rows[0]), transpose(words[4], 4, rows[4]);
  for (int64_t i = 0; i < 8; ++i)
    hn::StoreU(hn::BitCast(d, hn::Load(d32, rows[i])), d, to + i * kGemmPanel);
}

// Columns of adjacent k. A line of a column is used up before the next column's, since columns that
// are a power of two apart push each other out of the first cache. Returns how many units of U of
// each column are packed.
template <class U>
int64_t pack_columns(const U* from, int64_t stride, int64_t units, U* to) {
  constexpr int64_t kBlockUnits = 16 / sizeof(U), kLine = 64 / sizeof(U);
  int64_t done = 0;
  for (; done + kLine <= units; done += kLine)
    for (int64_t c = 0; c < kGemmPanel; c += kBlockUnits) {
      const U* line = from + c * stride + done;
      for (int64_t i = 0; i < kBlockUnits; ++i) prefetch(line + i * stride, 256);
      for (int64_t i = 0; i < kLine; i += kBlockUnits)
        transpose(line + i, stride, to + (done + i) * kGemmPanel + c);
    }
  return done;
}

// Rows of adjacent columns: words of `per` elements of one column, one of each of as many rows.
// Returns how many steps are packed. The rows of a panel lie in pages of their own, which nothing
// but we asks for in time.
template <int per, class E>
int64_t pack_rows(const E* from, int64_t stride, int64_t steps, E* to) {
  using Word = hwy::UnsignedFromSize<per * sizeof(E)>;
  constexpr int64_t kAhead = 16;  // rows; of 4 to 64, the least time on a Zen 5
  const hn::CappedTag<Word, kGemmPanel> d;
  const hn::Rebind<E, decltype(d)> of_row;
  const auto lanes = int64_t(hn::Lanes(d));
  const auto load_words = [&](const E* p) HWY_ATTR {
    if constexpr (per == 1)
      return hn::LoadU(d, p);
    else
      return hn::PromoteTo(d, hn::LoadU(of_row, p));
  };
  for (int64_t s = 0; s < steps; ++s, from += per * stride, to += per * kGemmPanel) {
    for (int64_t line = 0; line < kGemmPanel * int64_t(sizeof(E)); line += 64)
      for (int64_t e = 0; e < per; ++e)
        prefetch(from, (kAhead + e) * stride * int64_t(sizeof(E)) + line);
    for (int64_t c = 0; c < kGemmPanel; c += lanes) {
      auto words = load_words(from + c);
      if constexpr (per >= 2)
        words = hn::Or(words, hn::ShiftLeft<8 * sizeof(E)>(load_words(from + stride + c)));
      if constexpr (per == 4) {
        words = hn::Or(words, hn::ShiftLeft<16>(load_words(from + 2 * stride + c)));
        words = hn::Or(words, hn::ShiftLeft<24>(load_words(from + 3 * stride + c)));
      }
      hn::StoreU(words, d, reinterpret_cast<Word*>(to + per * c));
    }
  }
  return steps;
}

template <class E>
void pack_panel(int64_t per, int64_t steps, const GemmWeight& w, E* panel) {
  const auto* weight = static_cast<const E*>(w.weight);
  int64_t s = 0;
  if (w.k_stride == 1 && w.cols == kGemmPanel && w.n_stride % per == 0) {
    using U = std::conditional_t<sizeof(E) == 1, uint32_t, E>;
    if (per > 1 || sizeof(E) == 4)
      s = pack_columns(reinterpret_cast<const uint32_t*>(weight), w.n_stride / per, w.k / per,
                       reinterpret_cast<uint32_t*>(panel));
    else
      s = pack_columns(reinterpret_cast<const U*>(weight), w.n_stride, w.k,
                       reinterpret_cast<U*>(panel));
  }
  if (w.n_stride == 1 && w.cols == kGemmPanel) {
    if (per == 1) s = pack_rows<1>(weight, w.k_stride, w.k, panel);
    if constexpr (sizeof(E) == 2)
      if (per == 2) s = pack_rows<2>(weight, w.k_stride, w.k / 2, panel);
    if constexpr (sizeof(E) == 1)
      if (per == 4) s = pack_rows<4>(weight, w.k_stride, w.k / 4, panel);
  }
  for (; s < steps; ++s)
    for (int64_t c = 0; c < kGemmPanel; ++c)
      for (int64_t e = 0; e < per; ++e) {
        const int64_t i = s * per + e;
        const bool real = i < w.k && c < w.cols;
        panel[(s * kGemmPanel + c) * per + e] =
            real ? weight[i * w.k_stride + c * w.n_stride] : E{};
      }
}

constexpr hn::ScalableTag<int32_t> kWords;

// -128 times the sums of a panel's columns, modulo 2^32.
void sum_columns(const int32_t* panel, int64_t steps, int32_t* to) {
  for (size_t c = 0; c < size_t(kGemmPanel); c += hn::Lanes(kWords)) {
    auto sum = hn::Zero(kWords);
    for (int64_t s = 0; s < steps; ++s) {
      const auto w = hn::LoadU(kWords, panel + s * kGemmPanel + c);
      for (int byte = 0; byte < 4; ++byte)
        sum = hn::Add(sum, hn::ShiftRight<24>(hn::ShiftLeftSame(w, 24 - 8 * byte)));
    }
    hn::StoreU(hn::Neg(hn::ShiftLeft<7>(sum)), kWords, to + c);
  }
}

}  // namespace

void gemm_pack_panel(kvops_dtype dtype, const GemmWeight& w, void* panel, int32_t* start) {
  const int64_t per = gemm_per_step(dtype), steps = gemm_steps(dtype, w.k);
  if (dtype == KVOPS_F32)
    pack_panel(per, steps, w, static_cast<uint32_t*>(panel));
  else if (dtype == KVOPS_I8)
    pack_panel(per, steps, w, static_cast<uint8_t*>(panel));
  else
    pack_panel(per, steps, w, static_cast<uint16_t*>(panel));
  if (start) sum_columns(static_cast<const int32_t*>(panel), steps, start);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {

void gemm_pack_panel(kvops_dtype dtype, const GemmWeight& w, void* panel, int32_t* start) {
  KVOPS_CPU_CHOSEN(gemm_pack_panel)(dtype, w, panel, start);
}

}  // namespace kvops::cpu
#endif
