// concat_mla_q: out = [ql_nope | q_pe] along the last dimension, bit for bit.
// A thread takes some rows (token, head) in the order of out; the inputs may lie in any other, so
// the next row is asked for while one is copied.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/concat_mla_q.cpp"
#include <hwy/foreach_target.h>

#include "cpu/copy_row-inl.h"

// Everything that is compiled once only.
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

template <class T>
struct Queries {
  TensorView<const T, 3> nope, rope;
  TensorView<T, 3> out;
};

// A row of all tokens and heads, and the one after it.
struct Row {
  int64_t t, h;
  void step(int64_t heads) {
    if (++h == heads) ++t, h = 0;
  }
};

// How many rows before its turn a row is asked for: 4 KiB of DeepSeek's.
constexpr int64_t kAhead = 4;

// Rows [begin, end) of tokens * heads.
template <bool stream, class T>
void copy_rows(const Queries<T>& q, int64_t begin, int64_t end) {
  const int64_t heads = q.out.shape[1], nope = q.nope.shape[2], rope = q.rope.shape[2];
  Row row = {begin / heads, begin % heads}, next = row;
  for (int64_t r = begin; r < begin + kAhead && r + 1 < end; ++r) next.step(heads);
  for (int64_t r = begin; r < end; ++r, row.step(heads)) {
    T* out = q.out.at(row.t, row.h);
    copy_row<stream>(q.nope.at(row.t, row.h), out, nope * int64_t(sizeof(T)),
                     q.nope.at(next.t, next.h));
    copy_row<stream>(q.rope.at(row.t, row.h), out + nope, rope * int64_t(sizeof(T)),
                     q.rope.at(next.t, next.h));
    if (r + kAhead + 1 < end) next.step(heads);
  }
  if constexpr (stream) finish_streams();
}

template <class T>
kvops_status run(const kvops_concat_mla_q_args& a) {
  const Queries<T> q = {view<const T, 3>(a.ql_nope), view<const T, 3>(a.q_pe), view<T, 3>(a.out)};
  const int64_t row = q.out.shape[2] * int64_t(sizeof(T));
  const bool stream =
      streams(rows_view<T>(a.out), row) && q.nope.shape[2] * int64_t(sizeof(T)) % 64 == 0;
  parallel_for(q.out.shape[0] * q.out.shape[1], rows_per_piece(2 * row),
               [&](int64_t begin, int64_t end) {
                 stream ? copy_rows<true>(q, begin, end) : copy_rows<false>(q, begin, end);
               });
  return KVOPS_OK;
}

}  // namespace

kvops_status concat_mla_q(const kvops_concat_mla_q_args& a) {
  return a.out.dtype == KVOPS_F32 ? run<uint32_t>(a) : run<uint16_t>(a);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(concat_mla_q)
}  // namespace kvops::cpu
#endif
