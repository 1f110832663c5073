// SPDX-License-Identifier: Apache-2.0
// Formats of cached rows, shared by the operators that write and read paged caches.
#ifndef KVCACHE_OPS_CACHE_FORMAT_H_
#define KVCACHE_OPS_CACHE_FORMAT_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

// fp8 codes, here and in every operator: a value is divided by its scale (one f32 division, not a
// multiplication by 1 / scale) and rounded once, half to even, subnormals kept. Beyond the largest
// finite code lies that code. OCP dtypes: so does an infinity, any NaN is 0x7F, zeros keep their
// sign. fnuz dtypes: infinities and NaN are 0x80, zero has no sign. Scales are read from the device
// and not checked: the division is IEEE's. All back ends write the same bytes.

// kvops_cache_format: how a cached row is laid out. All but PLAIN live in U8 tensors.
enum {
  KVOPS_FORMAT_PLAIN = 0,         // one element per value; the dtype of the cache says the rest
  KVOPS_FORMAT_NVFP4 = 1,         // pages of e2m1 codes and e4m3 scales: reshape_and_cache_flash
  KVOPS_FORMAT_NVFP4_4OVER6 = 2,  // the same layout; a scale is amax/6 or amax/4, which errs less
  KVOPS_FORMAT_FP8_DS_MLA = 3,    // 656-byte MLA record: 512 e4m3 | 4 f32 scales | 64 16-bit rope
  KVOPS_FORMAT_NVFP4_DS_MLA = 4   // 352-byte MLA record: 512 e2m1 | 64 e4m3 rope | 32 e4m3 scales
};

// kvops_scale_rule: scale of a group whose largest magnitude is amax; C = 448, fnuz 224.
enum {
  KVOPS_SCALE_POW2 = 0,  // rounded up to a power of two ("ue8m0"): what current readers expect
  KVOPS_SCALE_AMAX = 1   // amax / C as it is
};

// kvops_fp8_encoding: which e4m3 the codes inside a packed record are.
enum { KVOPS_FP8_OCP = 0, KVOPS_FP8_FNUZ = 1 };

// kvops_v_scale_layout: order of V's scales in an NVFP4 page.
enum {
  KVOPS_V_SCALE_UNSET = 0,
  KVOPS_V_SCALE_TRANSPOSED = 1,  // runs of 4 tokens transposed: readers on sm_100
  KVOPS_V_SCALE_LINEAR = 2       // as K: readers on sm_120
};

// The kv_cache_dtype strings of vLLM -> cache dtype and kvops_cache_format. model_dtype is what
// "auto" means; "fp8" and "fp8_e4m3" take the encoding of the device. UNSUPPORTED for a name that
// no operator here implements.
KVOPS_API kvops_status kvops_parse_kv_cache_dtype(const char* name, kvops_dtype model_dtype,
                                                  kvops_device device, kvops_dtype* cache_dtype,
                                                  int64_t* format);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_CACHE_FORMAT_H_
