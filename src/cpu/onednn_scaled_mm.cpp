// onednn_scaled_mm: acc = input . weight in int32, exact, then in f32, every step rounded once:
//
//   static   y = sx * (sw * f32(acc - azp * W)) + bias
//   dynamic  y = sx * (sw * f32(acc)) - azp_adj * (sx * f32(azp)) + bias
//
// A piece of work is a panel of rows and kPanelColumns columns: oneDNN or gemm_i8() writes its sums
// to a temporary on the stack, from which the results are made while they are in the cache. The
// temporaries of all threads are 256 KiB at most (16 KiB each when there are more than 16). Bits
// depend neither on who multiplies, nor on threads, nor on the instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/onednn_scaled_mm.cpp"
#include <hwy/foreach_target.h>

#include "cpu/simd-inl.h"

// Everything that is compiled once only.
#include <algorithm>
#include <atomic>

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/isa.h"
#include "cpu/matmul.h"
#include "cpu/onednn.h"
#include "cpu/parallel.h"
#include "kvcache_ops.h"

#if !defined(KVOPS_CPU_ONEDNN_SCALED_MM_ONCE)
#define KVOPS_CPU_ONEDNN_SCALED_MM_ONCE
namespace kvops::cpu {
namespace {

constexpr int64_t kTemporary = 256 << 10, kLeastRows = 16, kMostRows = 64;
constexpr int64_t kRowBytes = kPanelColumns * int64_t(sizeof(int32_t));

int64_t panel_rows() {
  const int64_t rows = kTemporary / (kRowBytes * num_threads());
  return std::clamp(rows, kLeastRows, kMostRows);
}

// One number per row of the input, or one for all rows.
template <class T>
struct PerRow {
  const T* data;
  int64_t stride;
  explicit PerRow(const kvops_tensor& t)
      : data(static_cast<const T*>(t.data)), stride(t.rank && t.shape[0] > 1 ? t.stride[0] : 0) {}
  T operator[](int64_t row) const { return data[row * stride]; }
};

}  // namespace
}  // namespace kvops::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

using Lanes = hn::ScalableTag<float>;

// Columns [begin, begin + count) of one row.
template <class T>
struct Columns {
  int64_t count;
  const float* scales;
  const int32_t* sums;   // of the weight's columns
  const float* azp_adj;  // NULL: scales * sums
  const T* bias;         // or NULL
};

// f32(acc - azp * W), through f64: exact but for zero points beyond 2^53 / |W|.
void subtract_azp(const int32_t* acc, const int32_t* sums, double azp, int64_t count, float* out) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<int32_t, decltype(dd)> di;
  const hn::Rebind<float, decltype(dd)> df;
  const auto factor = hn::Set(dd, azp);
  for (int64_t j = 0; j < count; j += int64_t(hn::Lanes(dd))) {
    const auto x = hn::PromoteTo(dd, hn::LoadU(di, acc + j));
    const auto w = hn::PromoteTo(dd, hn::LoadU(di, sums + j));
    hn::StoreU(hn::DemoteTo(df, hn::Sub(x, hn::Mul(factor, w))), df, out + j);
  }
}

template <class T>
HWY_INLINE hn::Vec<Lanes> some(const T* p, int64_t left) {
  const Lanes d;
  return left >= int64_t(hn::Lanes(d)) ? load(d, p) : load_n(d, p, size_t(left));
}
template <class T>
HWY_INLINE void put(hn::Vec<Lanes> v, T* p, int64_t left) {
  const Lanes d;
  if (left >= int64_t(hn::Lanes(d)))
    store(d, v, p);
  else
    store_n(d, v, p, size_t(left));
}

template <class T>
void static_row(const int32_t* acc, const Columns<T>& c, float scale, int32_t azp, T* out) {
  const Lanes d;
  const hn::RebindToSigned<Lanes> di;
  HWY_ALIGN float numbers[kPanelColumns + kGemmColumns];
  if (azp) subtract_azp(acc, c.sums, azp, c.count, numbers);
  const auto sx = hn::Set(d, scale);
  for (int64_t j = 0; j < c.count; j += int64_t(hn::Lanes(d))) {
    const int64_t left = c.count - j;
    const auto x = azp ? hn::LoadU(d, numbers + j) : hn::ConvertTo(d, hn::LoadU(di, acc + j));
    auto y = hn::Mul(sx, hn::Mul(hn::LoadU(d, c.scales + j), x));
    if (c.bias) y = hn::Add(y, some(c.bias + j, left));
    put(y, out + j, left);
  }
}

template <class T>
void dynamic_row(const int32_t* acc, const Columns<T>& c, float scale, const int32_t* azp, T* out) {
  const Lanes d;
  const hn::RebindToSigned<Lanes> di;
  const auto sx = hn::Set(d, scale);
  const auto zero = hn::Set(d, azp ? scale * float(*azp) : 0.0F);
  for (int64_t j = 0; j < c.count; j += int64_t(hn::Lanes(d))) {
    const int64_t left = c.count - j;
    const auto sw = hn::LoadU(d, c.scales + j);
    auto y = hn::Mul(sx, hn::Mul(sw, hn::ConvertTo(d, hn::LoadU(di, acc + j))));
    if (azp) {
      const auto adj = c.azp_adj ? some(c.azp_adj + j, left)
                                 : hn::Mul(sw, hn::ConvertTo(d, hn::LoadU(di, c.sums + j)));
      y = hn::Sub(y, hn::Mul(adj, zero));
    }
    if (c.bias) y = hn::Add(y, some(c.bias + j, left));
    put(y, out + j, left);
  }
}

template <class T>
struct Job {
  const kvops_onednn_scaled_mm_args& a;
  const MatmulWeight& weight;
  int64_t rows_each;  // of a panel
  PerRow<float> scale;
  PerRow<int32_t> azp;

  Job(const kvops_onednn_scaled_mm_args& args, const MatmulWeight& w)
      : a(args), weight(w), rows_each(panel_rows()), scale(args.input_scale), azp(args.azp) {}

  // Rows from `row` on, columns from `begin` on.
  kvops_status panel(int64_t row, int64_t begin) const {
    HWY_ALIGN int32_t sums[kMostRows * kPanelColumns];
    const int64_t rows = std::min(rows_each, a.input.shape[0] - row);
    const int64_t end = std::min(begin + kPanelColumns, weight.shape.n);
    const int64_t stride = a.input.stride[0];
    const GemmI8 g = {weight.shape, weight.packed.get(),
                      rows,         static_cast<const int8_t*>(a.input.data) + row * stride,
                      stride,       begin,
                      end,          sums,
                      kPanelColumns};
    if (weight.onednn) {
      if (auto s = weight.onednn->multiply_i8("onednn_scaled_mm", g)) return s;
    } else if (!gemm_i8(g)) {
      return KVOPS_OUT_OF_MEMORY;
    }
    const auto* adj = static_cast<const float*>(a.azp_adj.data);
    const auto* bias = static_cast<const T*>(a.bias.data);
    const Columns<T> columns = {end - begin, weight.scales.data() + begin,
                                weight.sums.data() + begin, adj ? adj + begin : nullptr,
                                bias ? bias + begin : nullptr};
    auto* out = static_cast<T*>(a.out.data) + begin;
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t* acc = sums + i * kPanelColumns;
      T* to = out + (row + i) * a.out.stride[0];
      const int32_t zero = azp.data ? azp[row + i] : 0;
      if (weight.dynamic)
        dynamic_row(acc, columns, scale[row + i], azp.data ? &zero : nullptr, to);
      else
        static_row(acc, columns, scale[row + i], zero, to);
    }
    return KVOPS_OK;
  }
};

template <class T>
kvops_status run(const kvops_onednn_scaled_mm_args& a, const MatmulWeight& weight) {
  const Job<T> job(a, weight);
  const int64_t panels = (a.input.shape[0] - 1) / job.rows_each + 1;
  const int64_t slabs = (weight.shape.n - 1) / kPanelColumns + 1;
  // Columns outside, rows inside: a slab of the weight stays in the cache.
  const int64_t grain = rows_per_piece(weight.shape.k * kPanelColumns);
  std::atomic<kvops_status> status = KVOPS_OK;
  parallel_for(panels * slabs, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (auto s = job.panel(i % panels * job.rows_each, i / panels * kPanelColumns)) status = s;
  });
  if (!status) return KVOPS_OK;
  // The message of another thread is not seen here.
  return fail(status, "onednn_scaled_mm", "",
              status == KVOPS_OUT_OF_MEMORY ? "the host has no memory left" : "oneDNN failed");
}

}  // namespace

kvops_status scaled_product(const kvops_onednn_scaled_mm_args& a, const MatmulWeight& weight) {
  return dispatch("onednn_scaled_mm", "out", a.out.dtype, Floats{},
                  [&]<class T>() { return run<T>(a, weight); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
namespace {

int64_t count_of(const kvops_tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank; ++i) n *= t.shape[i];
  return n;
}

kvops_status check(const char* op, const kvops_onednn_scaled_mm_args& a, const MatmulWeight& w) {
  if (auto s = check_product(op, w, a.input, a.out)) return s;
  if (a.out.dtype != w.out_dtype)
    return fail(KVOPS_INVALID_ARGUMENT, op, "out", "dtype is %s, expected %s (out_dtype of %s)",
                dtype(a.out.dtype).name, dtype(w.out_dtype).name, "the handle");
  const int64_t expected = w.dynamic ? a.input.shape[0] : 1;
  if (count_of(a.input_scale) != expected)
    return fail(KVOPS_INVALID_ARGUMENT, op, "input_scale",
                "has %lld elements, expected %lld (a handle for %s quantisation)",
                (long long)count_of(a.input_scale), (long long)expected,
                w.dynamic ? "dynamic" : "static");
  if (present(a.azp) && !w.dynamic && !w.has_azp)
    return fail(KVOPS_INVALID_ARGUMENT, op, "azp",
                "is given, expected none (a static handle without use_azp)");
  return KVOPS_OK;
}

}  // namespace

kvops_status onednn_scaled_mm(const kvops_onednn_scaled_mm_args& a) {
  constexpr const char* op = "onednn_scaled_mm";
  const auto weight = find_weight(op, a.handle, true);
  if (!weight) return KVOPS_INVALID_ARGUMENT;
  if (auto s = check(op, a, *weight)) return s;
  return KVOPS_CPU_CHOSEN(scaled_product)(a, *weight);
}

}  // namespace kvops::cpu
#endif
