// merge_attn_states: out = RN_T(prefix * a / (a + b) + suffix * b / (a + b)),
// a = exp(prefix_lse - M), b = exp(suffix_lse - M), M their maximum. A thread takes tokens; the
// weights of 16 of them for 16 heads are computed together, because [heads, tokens] has the lse of
// neighbouring tokens in one cache line, then rows are read and written in the order of memory.
// Numerics: with e = exp(-|prefix_lse - suffix_lse|) the weights are 1 / (1 + e), e / (1 + e), and
// out_lse = M + log(1 + e); all in f32. All of (head, token) is read before any of it is written,
// which is what in place needs.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/merge_attn_states.cpp"
#include <hwy/foreach_target.h>

#include "cpu/math-inl.h"
#include "cpu/simd-inl.h"

// Everything that is compiled once only.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Floats = hn::ScalableTag<float>;
constexpr int64_t kBatch = 16;  // heads, tokens

// log(1 + e) for 0 <= e <= 1: 2 atanh(s), s = e / (2 + e) <= 1/3, by its series up to s^15.
template <class D>
HWY_INLINE hn::Vec<D> log1p(D d, hn::Vec<D> e) {
  const auto s = hn::Div(e, hn::Add(e, hn::Set(d, 2.0f)));
  constexpr float kC[] = {2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9, 2.0f / 11, 2.0f / 13, 2.0f / 15};
  const auto s2 = hn::Mul(s, s);
  return hn::MulAdd(hn::Mul(s, s2), polynomial(d, s2, kC), hn::Add(s, s));
}

// What becomes of the tokens of a batch, for one head.
struct Batch {
  alignas(64) float prefix_lse[kBatch], suffix_lse[kBatch];
  alignas(64) float prefix[kBatch], suffix[kBatch], lse[kBatch];  // weights, result

  void weigh() {
    const Floats d;
    const auto one = hn::Set(d, 1.0f);
    for (size_t i = 0; i < size_t(kBatch); i += hn::Lanes(d)) {
      const auto p = hn::Load(d, prefix_lse + i), s = hn::Load(d, suffix_lse + i);
      const auto e = exp(d, hn::Neg(hn::Abs(hn::Sub(p, s))));
      const auto large = hn::Div(one, hn::Add(one, e)), small = hn::Div(e, hn::Add(one, e));
      const auto first = hn::Ge(p, s);
      hn::Store(hn::IfThenElse(first, large, small), d, prefix + i);
      hn::Store(hn::IfThenElse(first, small, large), d, suffix + i);
      hn::Store(hn::Add(hn::Max(p, s), log1p(d, e)), d, lse + i);
    }
  }
};

enum class Take { prefix, suffix, both };

template <class T, class O>
struct Merge {
  TensorView<const T, 3> prefix, suffix;
  TensorView<O, 3> out;
  TensorView<const float, 2> prefix_lse, suffix_lse;
  TensorView<float, 2> lse;
  int64_t tokens, heads, size, with_prefix;
  float inverse = 1, largest = 0;
  bool keep_nan;

  explicit Merge(const kvops_merge_attn_states_args& a)
      : prefix(view<const T, 3>(a.prefix_output)),
        suffix(view<const T, 3>(a.suffix_output)),
        out(view<O, 3>(a.out)),
        prefix_lse(view<const float, 2>(a.prefix_lse)),
        suffix_lse(view<const float, 2>(a.suffix_lse)),
        lse(view<float, 2>(a.out_lse)),
        tokens(a.out.shape[0]),
        heads(a.out.shape[1]),
        size(a.out.shape[2]),
        with_prefix(tokens - a.suffix_only_tokens),
        keep_nan(a.keep_nan) {
    if constexpr (IsFp8<O>) {
      inverse = 1.0f / *static_cast<const float*>(a.out_scale.data);
      largest = Fp8Traits<O>::kFnuz ? 224.0f : 448.0f;
    }
  }

  // x as it is stored.
  template <class D>
  HWY_INLINE hn::Vec<D> scaled(D d, hn::Vec<D> x) const {
    if constexpr (!IsFp8<O>) return x;
    const auto most = hn::Set(d, largest);
    const auto y = hn::Mul(x, hn::Set(d, inverse));
    const auto clamped = hn::Max(hn::Min(y, most), hn::Neg(most));
    return hn::IfThenElse(hn::IsNaN(y), keep_nan ? y : most, clamped);
  }

  void copy(const T* from, O* to) const {
    if constexpr (std::is_same_v<T, O>) {
      if (from != to) std::memcpy(to, from, size_t(size) * sizeof(T));
    } else {
      const Floats d;
      const auto lanes = int64_t(hn::Lanes(d));
      int64_t i = 0;
      for (; i + lanes <= size; i += lanes) store(d, scaled(d, load(d, from + i)), to + i);
      if (const auto n = size_t(size - i)) store_n(d, scaled(d, load_n(d, from + i, n)), to + i, n);
    }
  }

  template <bool stream>
  void merge(const T* p, const T* s, O* to, float a, float b) const {
    const Floats d;
    const auto lanes = int64_t(hn::Lanes(d));
    const auto wa = hn::Set(d, a), wb = hn::Set(d, b);
    const auto sum = [&](hn::Vec<Floats> x, hn::Vec<Floats> y)
                         HWY_ATTR { return hn::MulAdd(x, wa, hn::Mul(y, wb)); };
    int64_t i = 0;
    if constexpr (std::is_same_v<T, O>) {
      for (; i + 2 * lanes <= size; i += 2 * lanes) {
        const auto x = load2(d, p + i), y = load2(d, s + i);
        store2<stream>(d, {sum(x.a, y.a), sum(x.b, y.b)}, to + i);
      }
    }
    for (; i + lanes <= size; i += lanes)
      store(d, scaled(d, sum(load(d, p + i), load(d, s + i))), to + i);
    if (const auto n = size_t(size - i))
      store_n(d, scaled(d, sum(load_n(d, p + i, n), load_n(d, s + i, n))), to + i, n);
  }

  // Which side has keys, by its lse; two empty sides give the prefix, with an lse of -inf.
  Take take(int64_t t, float p, float s, float& result) const {
    if (t >= with_prefix) return result = s, Take::suffix;
    const bool no_prefix = std::isinf(p), no_suffix = std::isinf(s);
    if (!no_prefix && !no_suffix) return Take::both;
    const float left = no_prefix ? s : p;
    if (std::isinf(left) || std::isnan(left)) return result = -HUGE_VALF, Take::prefix;
    return result = left, no_prefix ? Take::suffix : Take::prefix;
  }

  // Tokens [t, t + count) of heads [first, first + heads_now).
  template <bool stream>
  void run(int64_t t, int64_t count, int64_t first, int64_t heads_now) const {
    Batch batch[kBatch];
    Take which[kBatch][kBatch];
    for (int64_t h = 0; h < heads_now; ++h) {
      Batch& b = batch[h] = {};
      for (int64_t i = 0; i < count; ++i) b.suffix_lse[i] = suffix_lse(first + h, t + i);
      for (int64_t i = 0; i < HWY_MIN(count, with_prefix - t); ++i)
        b.prefix_lse[i] = prefix_lse(first + h, t + i);
      b.weigh();
      for (int64_t i = 0; i < count; ++i)
        which[h][i] = take(t + i, b.prefix_lse[i], b.suffix_lse[i], b.lse[i]);
      for (int64_t i = 0; lse.data && i < count; ++i) lse(first + h, t + i) = b.lse[i];
    }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t h = 0; h < heads_now; ++h) {
        const T *p = prefix.at(t + i, first + h), *s = suffix.at(t + i, first + h);
        O* const to = out.at(t + i, first + h);
        if (which[h][i] == Take::both)
          merge<stream>(p, s, to, batch[h].prefix[i], batch[h].suffix[i]);
        else
          copy(which[h][i] == Take::prefix ? p : s, to);
      }
  }

  template <bool stream>
  void run_all(int64_t begin, int64_t end) const {
    for (int64_t t = begin; t < end; t += kBatch)
      for (int64_t h = 0; h < heads; h += kBatch)
        run<stream>(t, HWY_MIN(kBatch, end - t), h, HWY_MIN(kBatch, heads - h));
    if (stream) finish_streams();
  }
};

template <class T, class O>
kvops_status merge_all(const kvops_merge_attn_states_args& a) {
  const Merge<T, O> m(a);
  const int64_t bytes = m.heads * (m.size * int64_t(2 * sizeof(T) + sizeof(O)) + 12);
  const bool in_place = a.out.data == a.prefix_output.data || a.out.data == a.suffix_output.data;
  const bool stream = std::is_same_v<T, O> && !in_place &&
                      streams(rows_view<O>(a.out), 2 * m.size * int64_t(sizeof(T)));
  int64_t grain = rows_per_piece(bytes);
  if (grain > kBatch) grain = (grain + kBatch - 1) / kBatch * kBatch;
  parallel_for(m.tokens, grain, [&](int64_t begin, int64_t end) {
    stream ? m.template run_all<true>(begin, end) : m.template run_all<false>(begin, end);
  });
  return KVOPS_OK;
}

}  // namespace

kvops_status merge_attn_states(const kvops_merge_attn_states_args& a) {
  constexpr auto* op = "merge_attn_states";
  return dispatch(op, "prefix_output", a.prefix_output.dtype, kvops::Floats{}, [&]<class T>() {
    if (a.out.dtype == a.prefix_output.dtype) return merge_all<T, T>(a);
    return dispatch(op, "out", a.out.dtype, DtypeList<f8_e4m3, f8_e4m3fnuz>{},
                    [&]<class O>() { return merge_all<T, O>(a); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(merge_attn_states)
}  // namespace kvops::cpu
#endif
