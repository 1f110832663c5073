// rms_norm: out = input / sqrt(mean(input^2) + epsilon) * weight, row by row.
// A thread takes some rows; a row is read twice, the second time from L1 or L2.
// Sums in f32, one rounding on store; see norm-inl.h for the order of the sum.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>

#include "cpu/norm-inl.h"
#include "cpu/simd-inl.h"

// Everything that is compiled once only.
#include <cmath>

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

// The weight has one row for all, or one per index of the first dimension.
template <class W>
struct Weight {
  const W* data;
  int64_t stride, rows_each;
  const W* row(int64_t r) const { return data ? data + r / rows_each * stride : nullptr; }
};

template <class W>
Weight<W> weight_of(const kvops_tensor& weight, const kvops_tensor& input, int64_t rows) {
  Weight<W> w = {static_cast<const W*>(weight.data), 0, 1};
  if (weight.rank == 2) w.stride = weight.stride[0], w.rows_each = rows / input.shape[0];
  return w;
}

template <bool stream, class T, class W>
void normalize(const RowsView<const T>& input, const Weight<W>& weight, const RowsView<T>& out,
               float epsilon, int64_t r) {
  const Lanes d;
  const int64_t n = input.size;
  const T* x = input.row(r);
  const float sum = sum_of_squares(
      n, [&](int64_t i) HWY_ATTR { return load2(d, x + i); },
      [&](int64_t i, size_t count) HWY_ATTR { return load_n(d, x + i, count); });
  scale_row<stream>(x, inverse_rms(sum, n, epsilon), weight.row(r), out.row(r), n,
                    input.row(HWY_MIN(r + 1, input.rows - 1)));
}

template <class T, class W>
kvops_status run(const kvops_rms_norm_args& a) {
  const auto input = rows_view<const T>(a.input);
  const auto out = rows_view<T>(a.out);
  const auto weight = weight_of<W>(a.weight, a.input, input.rows);
  const auto epsilon = float(a.epsilon);
  const bool stream = a.input.data != a.out.data && streams(out, input.size * int64_t(sizeof(T)));
  parallel_for(input.rows, rows_per_piece(2 * input.size * int64_t(sizeof(T))),
               [&](int64_t begin, int64_t end) {
                 if (stream) {
                   for (int64_t r = begin; r < end; ++r)
                     normalize<true>(input, weight, out, epsilon, r);
                   finish_streams();
                 } else {
                   for (int64_t r = begin; r < end; ++r)
                     normalize<false>(input, weight, out, epsilon, r);
                 }
               });
  return KVOPS_OK;
}

}  // namespace

kvops_status rms_norm(const kvops_rms_norm_args& a) {
  return dispatch("rms_norm", "input", a.input.dtype, Floats{}, [&]<class T>() {
    return a.weight.dtype == KVOPS_F32 ? run<T, float>(a) : run<T, T>(a);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(rms_norm)
}  // namespace kvops::cpu
#endif
