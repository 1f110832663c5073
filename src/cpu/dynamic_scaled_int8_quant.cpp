// dynamic_scaled_int8_quant: int8 codes with a scale and, asymmetric, a zero point for every row.
//
//   symmetric   scale = max(RN(max|x| / 127), 2^-126)
//   asymmetric  scale = max(RN((max - min) / 255), 2^-126),  azp = RNE(-128 - RN(min / scale))
//
// A thread takes some rows; a row is read twice, the second time from L1 or L2. NaN does not enter
// the extremes. Codes as in int8-inl.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/dynamic_scaled_int8_quant.cpp"
#include <hwy/foreach_target.h>

#include "cpu/amax-inl.h"
#include "cpu/int8-inl.h"

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

using Args = kvops_dynamic_scaled_int8_quant_args;

struct Extremes {
  float least, most;
};

// Min and Max give the second operand, or the one that is a number, when the first is NaN.
template <class T>
HWY_INLINE Extremes extremes_of(const T* x, int64_t n) {
  const Lanes d;
  const auto lanes = int64_t(hn::Lanes(d));
  auto least = hn::Set(d, HUGE_VALF), most = hn::Set(d, -HUGE_VALF);
  auto least2 = least, most2 = most;
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto v = load2(d, x + i);
    least = hn::Min(v.a, least), most = hn::Max(v.a, most);
    least2 = hn::Min(v.b, least2), most2 = hn::Max(v.b, most2);
  }
  least = hn::Min(least2, least), most = hn::Max(most2, most);
  for (; i + lanes <= n; i += lanes) {
    const auto v = load(d, x + i);
    least = hn::Min(v, least), most = hn::Max(v, most);
  }
#if HWY_TARGET == HWY_EMU128  // Highway's emulation starts from the largest finite numbers
  Extremes e = {HUGE_VALF, -HUGE_VALF};
  for (int64_t j = 0; j < lanes; ++j)
    e = {HWY_MIN(e.least, least.raw[j]), HWY_MAX(e.most, most.raw[j])};
#else
  Extremes e = {hn::GetLane(hn::MinOfLanes(d, least)), hn::GetLane(hn::MaxOfLanes(d, most))};
#endif
  for (; i < n; ++i) {
    const float v = to_float(x[i]);
    if (v < e.least) e.least = v;
    if (v > e.most) e.most = v;
  }
  return e;
}

struct RowScale {
  float scale;
  int32_t azp;
};

constexpr float kLeastScale = 0x1p-126f;  // its reciprocal is finite

float symmetric_scale(float amax) {
  return amax == 0 ? 1 : std::max(amax / 127, kLeastScale);  // 0: zeros, or NaN alone
}

// e.least < e.most.
RowScale asymmetric(Extremes e) {
  const float range = e.most - e.least;
  const float step = std::isinf(range) ? e.most / 255 - e.least / 255 : range / 255;
  const float scale = std::max(step, kLeastScale);
  const double azp = std::nearbyint(-128.0f - e.least / scale);
  if (std::isnan(azp)) return {scale, 0};
  return {scale, int32_t(std::clamp(azp, double(INT32_MIN), double(INT32_MAX)))};
}

template <bool stream, class T>
void quantise_row(const T* x, int8_t* out, int64_t n, float* scale, int32_t* azp, const T* next) {
  const int64_t ahead = (next - x) * int64_t(sizeof(T));
  if (!azp) {
    *scale = symmetric_scale(row_amax(x, n));
    return quantise_int8<stream, true>(x, out, n, {1 / *scale, 0}, ahead);
  }
  const Extremes e = extremes_of(x, n);
  RowScale s;
  if (!(e.least < e.most)) {  // one value c, whose code is its sign, or NaN alone
    const float c = e.least == e.most ? e.least : 0;
    std::memset(out, (c > 0) - (c < 0), size_t(n));
    s = {c == 0 ? 1 : std::fabs(c), 0};
  } else {
    s = asymmetric(e);
    quantise_int8<stream>(x, out, n, {1 / s.scale, float(s.azp)}, ahead);
  }
  *scale = s.scale;
  *azp = s.azp;
}

template <class T>
kvops_status run(const Args& a) {
  const auto in = rows_view<const T>(a.input);
  const auto out = rows_view<int8_t>(a.out);
  const auto scale = rows_view<float>(a.scale);
  const auto azp = rows_view<int32_t>(a.azp);
  const bool stream = streams(out, in.size * int64_t(sizeof(T)));
  parallel_for(in.rows, rows_per_piece(in.size * (int64_t(sizeof(T)) + 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) {
                   int32_t* point = azp.data ? azp.row(r) : nullptr;
                   const T* next = in.row(HWY_MIN(r + 1, in.rows - 1));
                   if (stream)
                     quantise_row<true>(in.row(r), out.row(r), in.size, scale.row(r), point, next);
                   else
                     quantise_row<false>(in.row(r), out.row(r), in.size, scale.row(r), point, next);
                 }
                 if (stream) finish_streams();
               });
  return KVOPS_OK;
}

}  // namespace

kvops_status dynamic_scaled_int8_quant(const Args& a) {
  return dispatch("dynamic_scaled_int8_quant", "input", a.input.dtype, Floats{},
                  [&]<class T>() { return run<T>(a); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(dynamic_scaled_int8_quant)
}  // namespace kvops::cpu
#endif
