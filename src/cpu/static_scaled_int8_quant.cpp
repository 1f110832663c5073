// static_scaled_int8_quant: int8 codes with one given scale and zero point; see int8-inl.h.
// Rows are cut into pieces of columns, so that one long row also keeps all threads busy.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/static_scaled_int8_quant.cpp"
#include <hwy/foreach_target.h>

#include "cpu/int8-inl.h"

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

using Args = kvops_static_scaled_int8_quant_args;

constexpr int64_t kAhead = 2048;  // bytes

template <bool stream, class T>
void quantise(const RowsView<const T>& in, const RowsView<int8_t>& out, Int8Scale scale,
              int64_t columns, int64_t begin, int64_t end) {
  const int64_t pieces = (in.size + columns - 1) / columns;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t r = i / pieces, j = i % pieces * columns;
    quantise_int8<stream>(in.row(r) + j, out.row(r) + j, HWY_MIN(columns, in.size - j), scale,
                          kAhead);
  }
  if constexpr (stream) finish_streams();
}

template <class T>
kvops_status run(const Args& a) {
  constexpr int64_t kColumns = 16384;  // in a piece at most: 48 KiB of 16-bit elements and codes
  const auto in = rows_view<const T>(a.input);
  const auto out = rows_view<int8_t>(a.out);
  const Int8Scale scale = {1 / *static_cast<const float*>(a.scale.data),
                           present(a.azp) ? float(*static_cast<const int32_t*>(a.azp.data)) : 0};
  const int64_t columns = HWY_MIN(in.size, kColumns), pieces = (in.size + columns - 1) / columns;
  const bool stream = streams(out, in.size * int64_t(sizeof(T)));
  parallel_for(in.rows * pieces, rows_per_piece(columns * (int64_t(sizeof(T)) + 1)),
               [&](int64_t begin, int64_t end) {
                 if (stream)
                   quantise<true>(in, out, scale, columns, begin, end);
                 else
                   quantise<false>(in, out, scale, columns, begin, end);
               });
  return KVOPS_OK;
}

}  // namespace

kvops_status static_scaled_int8_quant(const Args& a) {
  return dispatch("static_scaled_int8_quant", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return run<T>(a); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(static_scaled_int8_quant)
}  // namespace kvops::cpu
#endif
