// rotary_embedding: (x, y) = (x c - y s, y c + x s) for rot/2 pairs of every head, in place.
// A thread takes some tokens; lanes are pairs: (j, rot/2 + j) or, GPT-J style, (2j, 2j + 1).
// f32 inside, each output rounded once. Whatever the position of a pair in a vector, its bits are
// the same; where the target has FMA, one product of each sum is not rounded.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rotary_embedding.cpp"
#include <hwy/foreach_target.h>

#include "cpu/simd-inl.h"

// Everything that is compiled once only.
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

using Lanes = hn::ScalableTag<float>;

struct Rotation {
  int64_t half;
  bool neox;
  float sign;  // -0 turns the sines around
};

// v: the first rotated element of a head. row: cosines, then sines.
template <class T, class C>
HWY_INLINE void rotate_lanes(T* v, const C* row, int64_t j, size_t m, const Rotation& how) {
  const Lanes d;
  const bool full = m == hn::Lanes(d);
  const auto c = full ? load(d, row + j) : load_n(d, row + j, m);
  auto s = full ? load(d, row + how.half + j) : load_n(d, row + how.half + j, m);
  s = hn::Xor(s, hn::Set(d, how.sign));
  auto x = hn::Zero(d), y = hn::Zero(d);
  if (how.neox) {
    x = full ? load(d, v + j) : load_n(d, v + j, m);
    y = full ? load(d, v + how.half + j) : load_n(d, v + how.half + j, m);
  } else {
    full ? load_pairs(d, v + 2 * j, x, y) : load_pairs_n(d, v + 2 * j, m, x, y);
  }
  const auto a = hn::MulSub(x, c, hn::Mul(y, s));
  const auto b = hn::MulAdd(y, c, hn::Mul(x, s));
  if (how.neox) {
    full ? store(d, a, v + j) : store_n(d, a, v + j, m);
    full ? store(d, b, v + how.half + j) : store_n(d, b, v + how.half + j, m);
  } else {
    full ? store_pairs(d, a, b, v + 2 * j) : store_pairs_n(d, a, b, v + 2 * j, m);
  }
}

// The same for two vectors of pairs (j, rot/2 + j), in the order that is cheapest for T.
template <class T, class C>
HWY_INLINE void rotate_two(T* v, const C* row, int64_t j, const Rotation& how) {
  const Lanes d;
  const auto sign = hn::Set(d, how.sign);
  const auto c = load2_as<T>(d, row + j), s = load2_as<T>(d, row + how.half + j);
  const auto x = load2(d, v + j), y = load2(d, v + how.half + j);
  const auto s0 = hn::Xor(s.a, sign), s1 = hn::Xor(s.b, sign);
  constexpr Nan kind = std::is_same_v<T, C> ? kNanOf<T> : Nan::any;
  const Two<Lanes> a = {hn::MulSub(x.a, c.a, hn::Mul(y.a, s0)),
                        hn::MulSub(x.b, c.b, hn::Mul(y.b, s1))};
  const Two<Lanes> b = {hn::MulAdd(y.a, c.a, hn::Mul(x.a, s0)),
                        hn::MulAdd(y.b, c.b, hn::Mul(x.b, s1))};
  store2<false, kind>(d, a, v + j);
  store2<false, kind>(d, b, v + how.half + j);
}

template <class T, class C>
void rotate_head(T* v, const C* row, const Rotation& how) {
  const auto lanes = int64_t(hn::Lanes(Lanes()));
  int64_t j = 0;
  if (how.neox)
    for (; j + 2 * lanes <= how.half; j += 2 * lanes) rotate_two(v, row, j, how);
  for (; j + lanes <= how.half; j += lanes) rotate_lanes(v, row, j, size_t(lanes), how);
  if (j < how.half) rotate_lanes(v, row, j, size_t(how.half - j), how);
}

// query or key: heads of a token, as [..., heads, head_size] or [..., heads * head_size].
template <class T>
struct Heads {
  T* data;
  int64_t token_stride[2], heads, head_stride;

  T* token(int64_t i, int64_t j) const { return data + i * token_stride[0] + j * token_stride[1]; }
};

template <class T>
Heads<T> heads_of(const kvops_tensor& t, int32_t token_dims, const kvops_rotary_embedding_args& a) {
  Heads<T> h = {static_cast<T*>(t.data), {0, t.stride[token_dims - 1]}, 0, a.head_size};
  if (!present(t)) return h;
  if (token_dims == 2) h.token_stride[0] = t.stride[0];
  const bool split = t.rank == token_dims + 2;
  h.heads = split ? t.shape[token_dims] : t.shape[token_dims] / a.head_size;
  if (split) h.head_stride = t.stride[token_dims];
  h.data += a.rope_dim_offset;
  return h;
}

template <class T, class C>
kvops_status run(const kvops_rotary_embedding_args& a) {
  const int32_t dims = a.positions.rank;
  const auto cache = view<const C, 2>(a.cos_sin_cache);
  const auto query = heads_of<T>(a.query, dims, a), key = heads_of<T>(a.key, dims, a);
  const int64_t batch = dims == 2 ? a.positions.shape[0] : 1, tokens = a.positions.shape[dims - 1];
  const int64_t stride[2] = {a.positions.stride[0], a.positions.stride[dims - 1]};
  const Rotation how = {cache.shape[1] / 2, a.is_neox != 0, a.inverse ? -0.0f : 0.0f};
  std::atomic<int64_t> faults = 0;
  const int64_t bytes = 4 * (query.heads + key.heads) * how.half * int64_t(sizeof(T));
  parallel_for(batch * tokens, rows_per_piece(bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / tokens, t = i % tokens;
      const int64_t p = index_at(a.positions, (dims == 2 ? b * stride[0] : 0) + t * stride[1]);
      if (p >= cache.shape[0]) faults.fetch_add(1, std::memory_order_relaxed);
      if (p < 0 || p >= cache.shape[0]) continue;
      const C* row = cache.at(p);
      for (const auto* heads : {&query, &key})
        for (int64_t h = 0; h < heads->heads; ++h)
          rotate_head(heads->token(b, t) + h * heads->head_stride, row, how);
    }
  });
  if (present(a.faults)) *static_cast<int64_t*>(a.faults.data) += faults;
  return KVOPS_OK;
}

}  // namespace

kvops_status rotary_embedding(const kvops_rotary_embedding_args& a) {
  constexpr auto kOp = "rotary_embedding";
  return dispatch(kOp, "query", a.query.dtype, Floats{}, [&]<class T>() {
    return dispatch(kOp, "cos_sin_cache", a.cos_sin_cache.dtype, Floats{},
                    [&]<class C>() { return run<T, C>(a); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(rotary_embedding)
}  // namespace kvops::cpu
#endif
