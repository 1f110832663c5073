// concat_mla_q: out = [ql_nope | q_pe] along the last dimension, bit for bit.
// A thread takes some rows (token, head) in the order of out; the inputs may lie in any other, so
// the next row is asked for while one is copied.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/concat_mla_q.cpp"
#include <hwy/foreach_target.h>

#include "cpu/copy_row-inl.h"

// Everything that is compiled once only.
#include "core/backend.h"
#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

template <class T>
struct Queries {
  TensorView<const T, 3> nope, rope;
  TensorView<T, 3> out;
};

// Rows [begin, end) of tokens * heads.
template <bool stream, class T>
void copy_rows(const Queries<T>& q, int64_t begin, int64_t end) {
  const int64_t heads = q.out.shape[1], nope = q.nope.shape[2], rope = q.rope.shape[2];
  int64_t t = begin / heads, h = begin % heads;
  for (int64_t r = begin; r < end; ++r) {
    const bool last_head = h + 1 == heads, last = r + 1 == end;
    const int64_t next_t = t + (last_head && !last), next_h = last ? h : last_head ? 0 : h + 1;
    T* out = q.out.at(t, h);
    copy_row<stream>(q.nope.at(t, h), out, nope * int64_t(sizeof(T)), q.nope.at(next_t, next_h));
    copy_row<stream>(q.rope.at(t, h), out + nope, rope * int64_t(sizeof(T)),
                     q.rope.at(next_t, next_h));
    t = next_t, h = next_h;
  }
  if constexpr (stream) finish_streams();
}

template <class T>
kvops_status run(const kvops_concat_mla_q_args& a) {
  const Queries<T> q = {view<const T, 3>(a.ql_nope), view<const T, 3>(a.q_pe), view<T, 3>(a.out)};
  const int64_t row = q.out.shape[2] * int64_t(sizeof(T));
  const bool stream =
      streams(rows_view<T>(a.out)) && q.nope.shape[2] * int64_t(sizeof(T)) % 64 == 0;
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
