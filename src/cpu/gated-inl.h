// The frame of the gated activations: rows of 2d elements become rows of d.
//
// An activation is a struct with
//   template <class T, class D> Vec<D> operator()(D d, Vec<D> g, Vec<D> u, T) const
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

// 1 + exp(-x): of f32's accuracy, or of what a result of 16 bits shows.
template <class T, class D>
HWY_INLINE hn::Vec<D> one_plus_exp_neg(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f);
  if constexpr (sizeof(T) == 2) {
    const auto sum = hn::Add(one, exp2_short(d, hn::Mul(x, hn::Set(d, -1.44269504f))));
    // Near 0 every other subnormal x is halfway between two results: the tie must be seen.
    const auto near = hn::Lt(hn::Abs(x), hn::Set(d, 0x1p-12f));
    return hn::IfThenElse(near, hn::Sub(hn::Set(d, 2.0f), x), sum);
  } else {
    return hn::Add(one, exp(d, hn::Neg(x)));
  }
}
// x / (1 + exp(-x)), rounded to T.
template <class T, class D>
HWY_INLINE hn::Vec<D> silu(D d, hn::Vec<D> x) {
  return round_to<T, kNanOf<T>>(d, hn::Div(x, one_plus_exp_neg<T>(d, x)));
}

constexpr int64_t kAhead = 2048;  // bytes

template <bool stream, class T, class Act>
void gated_split(const T* g, const T* u, T* out, int64_t n, const Act& act) {
  using D = hn::ScalableTag<float>;
  const D d;
  const auto lanes = int64_t(hn::Lanes(d));
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    prefetch(g + i, kAhead);
    prefetch(u + i, kAhead);
    const auto x = load2(d, g + i), y = load2(d, u + i);
    const Two<D> z = {act(d, x.a, y.a, T{}), act(d, x.b, y.b, T{})};
    store2<stream, kNanOf<T>>(d, z, out + i);
  }
  for (; i < n; i += lanes) {
    const auto m = size_t(HWY_MIN(lanes, n - i));
    store_n(d, act(d, load_n(d, g + i, m), load_n(d, u + i, m), T{}), out + i, m);
  }
}

template <bool stream, class T, class Act>
void gated_pairs(const T* in, T* out, int64_t n, const Act& act) {
  const hn::ScalableTag<float> d;
  const auto lanes = int64_t(hn::Lanes(d));
  auto g = hn::Zero(d), u = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    prefetch(in + 2 * i, kAhead);
    prefetch(in + 2 * (i + lanes), kAhead);
    load_pairs(d, in + 2 * i, g, u);
    const auto x = act(d, g, u, T{});
    load_pairs(d, in + 2 * (i + lanes), g, u);
    store_halves<stream, kNanOf<T>>(d, x, act(d, g, u, T{}), out + i);
  }
  for (; i < n; i += lanes) {
    const auto m = size_t(HWY_MIN(lanes, n - i));
    load_pairs_n(d, in + 2 * i, m, g, u);
    store_n(d, act(d, g, u, T{}), out + i, m);
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
