// fused_add_rms_norm: residual = RN_T(input + residual), input = rms_norm(residual) * weight.
// A thread takes some rows. The sum of squares is that of the rounded sums, taken as rms_norm takes
// it: the results are those of an addition followed by rms_norm, bit for bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/fused_add_rms_norm.cpp"
#include <hwy/foreach_target.h>

#include "cpu/norm-inl.h"
#include "cpu/simd-inl.h"

// Everything that is compiled once only.
#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

template <class T, class W>
void add_and_normalize(T* x, const T* next, T* residual, const W* weight, int64_t n,
                       float epsilon) {
  const Lanes d;
  const float sum = sum_of_squares(
      n,
      [&](int64_t i) HWY_ATTR {
        const auto v = load2(d, x + i), w = load2(d, residual + i);
        constexpr Nan kind = kNanOf<T>;
        const Two<Lanes> z = {round_to<T, kind>(d, hn::Add(v.a, w.a)),
                              round_to<T, kind>(d, hn::Add(v.b, w.b))};
        store2<false, kind>(d, z, residual + i);
        return z;
      },
      [&](int64_t i, size_t m) HWY_ATTR {
        const auto z = round_to<T>(d, hn::Add(load_n(d, x + i, m), load_n(d, residual + i, m)));
        store_n(d, z, residual + i, m);
        return z;
      });
  scale_row(residual, inverse_rms(sum, n, epsilon), weight, x, n, next);
}

template <class T, class W>
kvops_status run(const kvops_fused_add_rms_norm_args& a) {
  const auto input = rows_view<T>(a.input);
  const auto residual = rows_view<T>(a.residual);
  const auto* weight = static_cast<const W*>(a.weight.data);
  const auto epsilon = float(a.epsilon);
  parallel_for(input.rows, rows_per_piece(4 * input.size * int64_t(sizeof(T))),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r)
                   add_and_normalize(input.row(r), input.row(HWY_MIN(r + 1, input.rows - 1)),
                                     residual.row(r), weight, input.size, epsilon);
               });
  return KVOPS_OK;
}

}  // namespace

kvops_status fused_add_rms_norm(const kvops_fused_add_rms_norm_args& a) {
  return dispatch("fused_add_rms_norm", "input", a.input.dtype, Floats{}, [&]<class T>() {
    return a.weight.dtype == KVOPS_F32 ? run<T, float>(a) : run<T, T>(a);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(fused_add_rms_norm)
}  // namespace kvops::cpu
#endif
