// SPDX-License-Identifier: Apache-2.0
// Gated activations: two halves of a row become one row. T: f32 f16 bf16.
//
//   input [..., 2d], out [..., d], same leading dimensions;  a = input[.., :d],  b = input[.., d:]
//
// act(x) is rounded to T before it is multiplied: out = RN_T(RN_T(act(x)) * y), on every backend.
// Formulas are evaluated in f32 exactly as bracketed, so that 1 + erf and 1 + tanh have the error
// of a number near 1: for x below -2 gelu is no better than that. exp, erf and tanh are the
// full-precision ones of a GPU; on the CPU they are within 3 ulp.
//
// Strides of rows are free in both tensors. input and out do not overlap.
#ifndef KVCACHE_OPS_ACTIVATION_H_
#define KVCACHE_OPS_ACTIVATION_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_silu_and_mul_args {
  size_t struct_size;
  kvops_tensor input;  // [..., 2d]  T
  kvops_tensor out;    // [..., d]   T
} kvops_silu_and_mul_args;
typedef kvops_silu_and_mul_args kvops_mul_and_silu_args;
typedef kvops_silu_and_mul_args kvops_gelu_and_mul_args;
typedef kvops_silu_and_mul_args kvops_gelu_tanh_and_mul_args;

// out = silu(a) * b,  silu(x) = x / (1 + exp(-x)).  x = -inf gives NaN; below -88.7 the exponential
// overflows and silu is -0.
KVOPS_API kvops_status kvops_silu_and_mul(const kvops_silu_and_mul_args* args);

// out = a * silu(b).
KVOPS_API kvops_status kvops_mul_and_silu(const kvops_mul_and_silu_args* args);

// out = gelu(a) * b,  gelu(x) = (x * 0.5) * (1 + erf(x * 0.70710678)).
KVOPS_API kvops_status kvops_gelu_and_mul(const kvops_gelu_and_mul_args* args);

// out = gelu(a) * b,  gelu(x) = (0.5 * x) * (1 + tanh(0.79788456 * (x + 0.044715 * (x*x*x)))).
KVOPS_API kvops_status kvops_gelu_tanh_and_mul(const kvops_gelu_tanh_and_mul_args* args);

typedef struct kvops_fatrelu_and_mul_args {
  size_t struct_size;
  kvops_tensor input;  // [..., 2d]  T
  kvops_tensor out;    // [..., d]   T
  double threshold;    // finite
} kvops_fatrelu_and_mul_args;

// out = (a <= RN_T(threshold) ? 0 : a) * b.  A NaN in a passes; a dropped a times an infinite b is
// NaN, times a negative b -0. threshold is rounded to f32, then to T.
KVOPS_API kvops_status kvops_fatrelu_and_mul(const kvops_fatrelu_and_mul_args* args);

typedef struct kvops_swigluoai_and_mul_args {
  size_t struct_size;
  kvops_tensor input;  // [..., 2d]  T; INTERLEAVED: gate i at 2i, up i at 2i + 1
  kvops_tensor out;    // [..., d]   T
  double alpha;        // 1.702 in GPT-OSS
  double limit;        // 7.0 in GPT-OSS
} kvops_swigluoai_and_mul_args;

// g = min(gate, limit),  u = max(min(up, limit), -limit),
// out = RN_T(((u + 1) * g) / (1 + exp(-(g * alpha)))).
// One rounding; alpha and limit are rounded to f32; a NaN in gate or up gives NaN.
KVOPS_API kvops_status kvops_swigluoai_and_mul(const kvops_swigluoai_and_mul_args* args);

typedef struct kvops_silu_and_mul_with_clamp_args {
  size_t struct_size;
  kvops_tensor input;  // [..., 2d]  T
  kvops_tensor out;    // [..., d]   T
  double limit;
  double alpha;  // 1 for plain silu: there is no default, 0 makes the gate g / 2
  double beta;   // 0 for a plain product
} kvops_silu_and_mul_with_clamp_args;

// g = RN_T(min(a, limit)),  u = RN_T(max(min(b, limit), -limit));
// out = RN_T(RN_T(g / (1 + exp(-(alpha * g)))) * (u + beta)).
// limit, alpha and beta are rounded to f32, u + beta is a sum in f32; a NaN in a or b gives NaN.
KVOPS_API kvops_status
kvops_silu_and_mul_with_clamp(const kvops_silu_and_mul_with_clamp_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_ACTIVATION_H_
