// SPDX-License-Identifier: Apache-2.0
// Writing new keys and values into paged KV caches.
// T: f32 f16 bf16. Cache: T, or an fp8 dtype with its scale.
//
// A slot s names token s % block of block s / block; block 0 is like any other. Slots outside [0,
// blocks * block) are never written: negative ones are padding, of larger ones each entry counts as
// one fault. Of two tokens with the same slot one wins, per 16-byte group. slot_mapping may be
// shorter than the rows of key: the rows past it are not read. Nothing outside the written rows is
// touched. Addresses need the alignment of their elements, no more.
#ifndef KVCACHE_OPS_CACHE_WRITE_H_
#define KVCACHE_OPS_CACHE_WRITE_H_

#include "cache_format.h"
#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_reshape_and_cache_args {
  size_t struct_size;
  kvops_tensor key;           // [>= tokens, heads, size]           T
  kvops_tensor value;         // as key                             T
  kvops_tensor key_cache;     // [blocks, heads, size/x, block, x]  Cache; x elements are 16 bytes
  kvops_tensor value_cache;   // [blocks, heads, size, block]       Cache; both: any strides
  kvops_tensor slot_mapping;  // [tokens]                           i64
  kvops_tensor k_scale;       // [] or [1]                          f32; opt unless Cache is fp8
  kvops_tensor v_scale;       // [] or [1]                          f32; opt unless Cache is fp8
  kvops_tensor faults;        // [1]                                i64, opt
} kvops_reshape_and_cache_args;

// Scatters new keys and values into the x-packed cache that paged_attention_v1/v2 read. The slot of
// token t is position o of block b:
//
//   key_cache[b, h, d / x, o, d % x] = conv(key[t, h, d], k_scale)
//   value_cache[b, h, d, o]          = conv(value[t, h, d], v_scale)    conv: copy, or fp8 codes
//
//   one (block, head) of key_cache:    o0: k0..k[x-1] | o1: k0..k[x-1] | ...  then kx.. of every o
//   one (block, head) of value_cache:  v0: o0 o1 ... | v1: o0 o1 ... | ...
//
// That is the dense layout; all strides of the caches are read. A flash cache [blocks, block,
// heads, size] with strides (sb, st, sh, 1) is a key_cache with strides (sb, sh, x, st, 1) and a
// value_cache with strides (sb, sh, 1, st).
KVOPS_API kvops_status kvops_reshape_and_cache(const kvops_reshape_and_cache_args* args);

typedef struct kvops_reshape_and_cache_flash_args {
  size_t struct_size;
  kvops_tensor key;           // [>= tokens, heads, size]      T; NVFP4: f16 bf16
  kvops_tensor value;         // as key
  kvops_tensor key_cache;     // [blocks, block, heads, size]  Cache; NVFP4: u8, [.., 9 size/16]
  kvops_tensor value_cache;   // as key_cache, with strides of its own
  kvops_tensor slot_mapping;  // [tokens]                      i64
  kvops_tensor k_scale;       // [] or [1] or [heads]          f32; opt unless fp8 or NVFP4
  kvops_tensor v_scale;       // [] or [1] or [heads]          f32; NVFP4: one element each
  kvops_tensor faults;        // [1]                           i64, opt
  int64_t format;             // KVOPS_FORMAT_PLAIN, _NVFP4, _NVFP4_4OVER6
  int64_t v_scale_layout;     // NVFP4: must be set; PLAIN: must not
} kvops_reshape_and_cache_flash_args;

// Writes new rows into a paged cache whose rows are contiguous over size. NHD, HND, K|V packed in
// one row, blocks that span layers: all are strides.
//
//   PLAIN   key_cache[b, o, h, d] = conv(key[t, h, d], k_scale[h or 0]), and so for value
//
// NVFP4: size % 16 == 0. A page (one block of one side) is dense, NHD or HND by the strides of
// dimensions 1 and 2; row = o * heads + h or h * block + o. It holds all codes, then all scales:
//
//   codes   row * size/2 + j             element 2j in the low nibble, 2j + 1 in the high one
//   scales  block*heads*size/2 + row * size/16 + g        one e4m3 per group g of 16 elements
//   V, TRANSPOSED: the scale of (o, g) stands where LINEAR has (o', g'):  k = 4g + o % 4,
//                  o' = 4 (o / 4) + k / (size/16),  g' = k % (size/16);  block % 4 == 0
//
//   G = RN(1 / k_scale),  sf = e4m3(RN(G * RN(amax * c))),  c = 0x3E2AAAAB (1/6),  S = decode(sf)
//   w = S == 0 ? 0 : 1 / RN(S * (1 / G)),  code = e2m1(RN(x * w)), half to even, saturating
//
// NaN enters amax only if all 16 are NaN, and codes as 6. NVFP4_4OVER6 also tries c = 1/4 and keeps
// it where the sum of (decode(code) * RN(1 / w) - x)^2 is strictly smaller: in f32, rounded after
// every operation, of pairs, pairs of pairs and so on; 1 / w is 0 where w = 0. Reciprocals are
// correctly rounded: all backends write the same bytes. Under a k_scale that is not positive and
// finite the codes mean nothing; KVOPS_DEBUG=bounds refuses it.
KVOPS_API kvops_status
kvops_reshape_and_cache_flash(const kvops_reshape_and_cache_flash_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_CACHE_WRITE_H_
