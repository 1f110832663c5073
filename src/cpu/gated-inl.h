// The frame of the gated activations: rows of 2d elements become rows of d.
//
// An activation is a struct with
//   template <class T, class D, size_t N>
//   Batch<D, N> operator()(D d, Batch<D, N> g, Batch<D, N> u, T) const
// which gives the result before the last rounding, from the first and the second half of a row
// (split) or from its even and odd elements (interleaved). Rows are cut into pieces of columns, so
// that one long row also keeps all threads busy. Elements are independent of each other: results do
// not depend on how the work is cut.
#include "cpu/math-inl.h"
#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_GATED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_GATED_INL_H_
#undef KVOPS_CPU_GATED_INL_H_
#else
#define KVOPS_CPU_GATED_INL_H_
#endif

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// Vectors that are worked on step by step together. With 32 registers four are a quarter faster
// than two; f32's longer formulas need them for themselves.
template <class T>
inline constexpr size_t kTogether = HWY_TARGET <= HWY_AVX3 && sizeof(T) == 2 ? 4 : 2;

// 1 + exp(-x): of f32's accuracy, or of what a result of 16 bits shows.
template <class T, class D, size_t N>
HWY_INLINE Batch<D, N> one_plus_exp_neg(D d, const Batch<D, N>& x) {
  using V = hn::Vec<D>;
  if constexpr (sizeof(T) == 2) {
    const auto scaled = [&](V v) HWY_ATTR { return hn::Mul(v, hn::Set(d, -1.44269504f)); };
    const auto sum = [&](V v, V e) HWY_ATTR {
      e = hn::Add(hn::Set(d, 1.0f), e);
      if constexpr (!std::is_same_v<T, f16>) return e;
      // Near 0 every other subnormal x is halfway between two results: the tie must be seen.
      const auto near = hn::Lt(hn::Abs(v), hn::Set(d, 0x1p-12f));
      return hn::IfThenElse(near, hn::Sub(hn::Set(d, 2.0f), v), e);
    };
    return each(sum, x, exp2_short(d, each(scaled, x)));
  }
  return each([&](V v) HWY_ATTR { return hn::Add(hn::Set(d, 1.0f), exp(d, hn::Neg(v))); }, x);
}
template <class D, size_t N>
HWY_INLINE Batch<D, N> product(const Batch<D, N>& x, const Batch<D, N>& y) {
  return each([](hn::Vec<D> a, hn::Vec<D> b) HWY_ATTR { return hn::Mul(a, b); }, x, y);
}
template <class D, size_t N>
HWY_INLINE Batch<D, N> quotient(const Batch<D, N>& x, const Batch<D, N>& y) {
  return each([](hn::Vec<D> a, hn::Vec<D> b) HWY_ATTR { return hn::Div(a, b); }, x, y);
}
template <class T, class D, size_t N>
HWY_INLINE Batch<D, N> rounded(D d, const Batch<D, N>& x) {
  return each([&](hn::Vec<D> v) HWY_ATTR { return round_to<T, kNanOf<T>>(d, v); }, x);
}
// x / (1 + exp(-x)), rounded to T.
template <class T, class D, size_t N>
HWY_INLINE Batch<D, N> silu(D d, const Batch<D, N>& x) {
  return rounded<T>(d, quotient(x, one_plus_exp_neg<T>(d, x)));
}

constexpr int64_t kAhead = 2048;  // bytes

template <bool stream, class T, class Act>
void gated_split(const T* g, const T* u, T* out, int64_t n, const Act& act) {
  const hn::ScalableTag<float> d;
  using D = hn::ScalableTag<float>;
  constexpr size_t kN = kTogether<T>;
  const auto lanes = int64_t(hn::Lanes(d)), step = int64_t(kN) * lanes;
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    Batch<D, kN> x, y;
    for (size_t k = 0; k < kN; k += 2) {
      const int64_t at = i + int64_t(k) * lanes;
      prefetch(g + at, kAhead);
      prefetch(u + at, kAhead);
      const auto a = load2(d, g + at), b = load2(d, u + at);
      x.v[k] = a.a, x.v[k + 1] = a.b, y.v[k] = b.a, y.v[k + 1] = b.b;
    }
    const auto z = act(d, x, y, T{});
    for (size_t k = 0; k < kN; k += 2)
      store2<stream, kNanOf<T>>(d, Two<D>{z.v[k], z.v[k + 1]}, out + i + int64_t(k) * lanes);
  }
  for (; i < n; i += lanes) {
    const auto m = size_t(HWY_MIN(lanes, n - i));
    const Batch<D, 1> x = {{load_n(d, g + i, m)}}, y = {{load_n(d, u + i, m)}};
    store_n(d, act(d, x, y, T{}).v[0], out + i, m);
  }
}

template <bool stream, class T, class Act>
void gated_pairs(const T* in, T* out, int64_t n, const Act& act) {
  const hn::ScalableTag<float> d;
  using D = hn::ScalableTag<float>;
  constexpr size_t kN = kTogether<T>;
  const auto lanes = int64_t(hn::Lanes(d)), step = int64_t(kN) * lanes;
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    Batch<D, kN> x, y;
    for (size_t k = 0; k < kN; ++k) {
      const T* from = in + 2 * (i + int64_t(k) * lanes);
      prefetch(from, kAhead);
      load_pairs(d, from, x.v[k], y.v[k]);
    }
    const auto z = act(d, x, y, T{});
    for (size_t k = 0; k < kN; k += 2)
      store_halves<stream, kNanOf<T>>(d, z.v[k], z.v[k + 1], out + i + int64_t(k) * lanes);
  }
  for (; i < n; i += lanes) {
    const auto m = size_t(HWY_MIN(lanes, n - i));
    Batch<D, 1> x, y;
    load_pairs_n(d, in + 2 * i, m, x.v[0], y.v[0]);
    store_n(d, act(d, x, y, T{}).v[0], out + i, m);
  }
}

enum class Pairing { split, interleaved };

// Columns j to j + n of a row.
template <Pairing pairing, bool stream, class T, class Act>
void gated_piece(const T* x, T* out, int64_t d, int64_t j, int64_t n, const Act& act) {
  if constexpr (pairing == Pairing::split)
    gated_split<stream>(x + j, x + d + j, out + j, n, act);
  else
    gated_pairs<stream>(x + 2 * j, out + j, n, act);
}

template <Pairing pairing, class T, class Act>
kvops_status gated(const kvops_tensor& input, const kvops_tensor& output, const Act& act) {
  constexpr int64_t kColumns = 16384;  // in a piece at most: 96 KiB of 16-bit elements
  const auto in = rows_view<const T>(input);
  const auto out = rows_view<T>(output);
  const int64_t columns = HWY_MIN(out.size, kColumns);
  if (columns == 0) return KVOPS_OK;
  const int64_t pieces = (out.size + columns - 1) / columns;
  const bool stream = streams(out, 2 * out.size * int64_t(sizeof(T)));
  parallel_for(out.rows * pieces, rows_per_piece(3 * columns * int64_t(sizeof(T))),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t r = i / pieces, j = i % pieces * columns;
                   const int64_t n = HWY_MIN(columns, out.size - j);
                   if (stream)
                     gated_piece<pairing, true>(in.row(r), out.row(r), out.size, j, n, act);
                   else
                     gated_piece<pairing, false>(in.row(r), out.row(r), out.size, j, n, act);
                 }
                 if (stream) finish_streams();
               });
  return KVOPS_OK;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
