// SPDX-License-Identifier: Apache-2.0
// Root-mean-square normalisation. T: f32 f16 bf16.
#ifndef KVCACHE_OPS_NORM_H_
#define KVCACHE_OPS_NORM_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_rms_norm_args {
  size_t struct_size;
  kvops_tensor input;   // [..., d]       T
  kvops_tensor weight;  // [d] or [n, d]  T or f32, opt; n = input.shape[0], a row per first index
  kvops_tensor out;     // [..., d]       T; may be input
  double epsilon;
} kvops_rms_norm_args;

// Normalises every row (last dimension) to root mean square 1 and scales it.
//
//   s       = 1 / sqrt(sum_j input[j]^2 / d + epsilon)        within 2 ulp
//   out[j]  = RN_T((input[j] * s) * weight[j])                without weight: RN_T(input[j] * s)
//
// input has rank >= 1 and the shape of out. One rounding, at the end. The order of the sum depends
// on d and T only: a row has the same bits in any batch, at any address, with any strides. An
// infinity in a row: finite elements give 0, the infinite ones NaN; NaN: all give NaN. A sum of
// squares beyond f32: the row gives 0.
KVOPS_API kvops_status kvops_rms_norm(const kvops_rms_norm_args* args);

typedef struct kvops_fused_add_rms_norm_args {
  size_t struct_size;
  kvops_tensor input;     // [..., d]  T; replaced by the normalised sum
  kvops_tensor residual;  // [..., d]  T; replaced by the sum
  kvops_tensor weight;    // [d]       T or f32, opt
  double epsilon;
} kvops_fused_add_rms_norm_args;

// residual = RN_T(input + residual), then input = rms_norm(residual, weight, epsilon): the same
// bits as an addition followed by kvops_rms_norm, on every backend and for any alignment.
KVOPS_API kvops_status kvops_fused_add_rms_norm(const kvops_fused_add_rms_norm_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_NORM_H_
