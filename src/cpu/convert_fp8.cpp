// convert_fp8: dst = fp8(src / scale), or dst = RN_T(decode(src) * scale), element by element.
//
// Dimensions are taken in the order of dst's strides and merged where both tensors allow it: dense
// tensors of any permutation are one run. Threads share the elements. With AVX-512 a result of 16
// bits is looked up: the 128 magnitudes of an encoding are four registers. Results that do not stay
// in the last cache go past it.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/convert_fp8.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_row-inl.h"

// Everything that is compiled once only.
#include "core/dispatch.h"
#include "cpu/elementwise.h"
#include "cpu/isa.h"
#include "cpu/stream.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kAhead = 2048;  // bytes

template <bool stream, class S, class T>
void convert_run(const S* from, T* to, int64_t n, float scale) {
  if constexpr (IsFp8<T>)
    write_row<stream>(from, to, n, scale, from + kAhead / int64_t(sizeof(S)));
  else
    read_row<stream>(from, to, n, scale);
}

#if HWY_TARGET <= HWY_AVX3
template <bool stream, class S, class T>
void convert_run(const S* from, T* to, int64_t n, const CodeTable<S, T>& table) {
  const decltype(table.d) d;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const auto lanes = int64_t(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    prefetch(from + i, kAhead);
    put_raw<stream>(d, table(hn::PromoteTo(d, load_raw(d8, from + i))), to + i);
  }
  if (i == n) return;
  const auto rest = size_t(n - i);
  store_raw_n(d, table(hn::PromoteTo(d, load_raw_n(d8, from + i, rest))), to + i, rest);
}
#endif

template <class S, class T>
void convert_apart(const S* from, int64_t from_stride, T* to, int64_t to_stride, int64_t n,
                   float scale) {
  for (int64_t i = 0; i < n; ++i) {
    const float x = to_float(from[i * from_stride]);
    to[i * to_stride] = from_float<T>(IsFp8<T> ? x / scale : x * scale);
  }
}

template <class S, class T>
kvops_status convert(const kvops_convert_fp8_args& a) {
  const auto scale = float(a.scale);
#if HWY_TARGET <= HWY_AVX3
  constexpr bool looks_up = IsFp8<S> && sizeof(T) == 2;
  const std::conditional_t<looks_up, CodeTable<S, T>, float> rule(scale);
#else
  const float rule = scale;
#endif
  int64_t bytes = sizeof(S) + sizeof(T);
  for (int i = 0; i < a.dst.rank; ++i) bytes *= a.dst.shape[i];
  const bool large = bytes > last_cache_bytes() / 2;
  for_each_pair_of_runs<S, T>(
      a.src, a.dst, [&](const S* from, int64_t from_stride, T* to, int64_t to_stride, int64_t n) {
        if (from_stride != 1 || to_stride != 1)
          return convert_apart(from, from_stride, to, to_stride, n, scale);
        if (!large || !on_line(to)) return convert_run<false>(from, to, n, rule);
        convert_run<true>(from, to, n, rule);
        finish_streams();
      });
  return KVOPS_OK;
}

}  // namespace

kvops_status convert_fp8(const kvops_convert_fp8_args& a) {
  constexpr auto* op = "convert_fp8";
  const bool quantises = a.src.dtype <= KVOPS_BF16;
  const kvops_dtype wide = quantises ? a.src.dtype : a.dst.dtype;
  const kvops_dtype narrow = quantises ? a.dst.dtype : a.src.dtype;
  return dispatch(op, "src", wide, Floats{}, [&]<class T>() {
    return dispatch(op, "dst", narrow, Fp8s{},
                    [&]<class F>() { return quantises ? convert<T, F>(a) : convert<F, T>(a); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(convert_fp8)
}  // namespace kvops::cpu
#endif
