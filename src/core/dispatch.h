// Run-time value -> template argument. The list is the only place where the supported values stand.
//
//   return dispatch("rms_norm", "input", a.input.dtype, Floats{}, [&]<class T>() { ... });
//   return dispatch("rms_norm", "head_size", size, Values<64, 128>{}, [&]<int D>() { ... });
//
// The lambda returns a kvops_status. A value outside the list: UNSUPPORTED, and the message names
// the list.
#pragma once
#include "core/dtype.h"
#include "core/error.h"

namespace kvops {

template <class... T>
struct DtypeList {};
template <auto... V>
struct Values {};

using Floats = DtypeList<float, f16, bf16>;
using Halves = DtypeList<f16, bf16>;
using Fp8s = DtypeList<f8_e4m3, f8_e5m2, f8_e4m3fnuz, f8_e5m2fnuz>;
using Indices = DtypeList<int32_t, int64_t>;

template <class... T, class F>
kvops_status dispatch(const char* op, const char* argument, kvops_dtype value, DtypeList<T...>,
                      F&& f) {
  kvops_status status = KVOPS_OK;
  bool found =
      ((value == dtype_of<T> && (status = f.template operator()<T>(), true)) || ... || false);
  if (found) return status;
  constexpr DtypeSet set = set_of({dtype_of<T>...});
  return fail_dtype(op, argument, value, set);
}

template <auto... V, class N, class F>
kvops_status dispatch(const char* op, const char* argument, N value, Values<V...>, F&& f) {
  kvops_status status = KVOPS_OK;
  bool found = ((value == N(V) && (status = f.template operator()<V>(), true)) || ... || false);
  if (found) return status;
  constexpr int64_t list[] = {int64_t(V)...};
  return fail_value(op, argument, int64_t(value), list, sizeof...(V));
}

}  // namespace kvops
