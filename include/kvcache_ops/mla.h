// SPDX-License-Identifier: Apache-2.0
// Writing multi-head latent attention caches, and assembling MLA queries.
// T: f32 f16 bf16. Cache: T, or an fp8 dtype with its scale. Slots as in cache_write.h.
#ifndef KVCACHE_OPS_MLA_H_
#define KVCACHE_OPS_MLA_H_

#include "cache_format.h"
#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_concat_and_cache_mla_args {
  size_t struct_size;
  kvops_tensor kv_c;          // [>= tokens, latent]     T; FP8_DS_MLA: f16 bf16; NVFP4_DS_MLA: bf16
  kvops_tensor k_pe;          // [>= tokens, rope]       as kv_c
  kvops_tensor kv_cache;      // [blocks, block, entry]  Cache, entry = latent + rope; *_DS_MLA: u8
  kvops_tensor slot_mapping;  // [tokens]                i64
  kvops_tensor kv_scale;      // [] or [1]               f32; opt unless Cache is fp8
  kvops_tensor faults;        // [1]                     i64, opt
  int64_t format;             // KVOPS_FORMAT_PLAIN, _FP8_DS_MLA, _NVFP4_DS_MLA
  int64_t scale_rule;         // kvops_scale_rule, read for FP8_DS_MLA
  int64_t fp8_encoding;       // kvops_fp8_encoding, read for FP8_DS_MLA
} kvops_concat_and_cache_mla_args;

// Stores [kv_c | k_pe] of each token as one cache entry. *_DS_MLA: latent = 512, rope = 64, and
// kv_scale is not read.
//
//   PLAIN         conv(kv_c[t], kv_scale) | conv(k_pe[t], kv_scale)
//
//   FP8_DS_MLA    [0, 512) e4m3(x / s[k]) of kv_c | [512, 528) f32 s[k] of elements 128k ..
//                 | [528, 656) the bits of k_pe
//                 POW2: s = 2^ceil(log2(max(RN(amax / C), 1e-4))), exact
//                 AMAX: s = max(RN(amax / C), 2^-126)
//
//   NVFP4_DS_MLA  [0, 256) e2m1(RN(x * RN(1 / S))), even element in the low nibble
//                 | [256, 320) e4m3(k_pe), unscaled | [320, 352) scales sf, OCP, of groups of 16
//                 f = max(RN(amax / 6), 2^-9),  sf = e4m3(f), plus one code if that is < f and
//                 sf < 0x7E,  S = decode(sf);  group g at byte 320 + 8 (g % 4) + g / 4
//
// NaN does not enter amax. Codes and scales are byte-equal on all backends.
KVOPS_API kvops_status kvops_concat_and_cache_mla(const kvops_concat_and_cache_mla_args* args);

typedef struct kvops_concat_and_cache_mla_rope_fused_args {
  size_t struct_size;
  kvops_tensor positions;      // [rows]                   i64 or i32
  kvops_tensor q_pe;           // [rows, heads, rope]      T; rotated in place
  kvops_tensor k_pe;           // [rows, rope]             T; rotated in place
  kvops_tensor kv_c;           // [rows, latent]           T
  kvops_tensor cos_sin_cache;  // [max_pos, rope]          T or f32; rope/2 cosines, rope/2 sines
  kvops_tensor kv_cache;       // as concat_and_cache_mla
  kvops_tensor slot_mapping;   // [tokens], tokens <= rows i64
  kvops_tensor kv_scale;       // [] or [1]                f32; opt unless Cache is fp8
  kvops_tensor faults;         // [1]                      i64, opt
  int64_t is_neox;             // pairs as in rotary_embedding
  int64_t format;              // KVOPS_FORMAT_PLAIN, _FP8_DS_MLA
  int64_t scale_rule;
  int64_t fp8_encoding;
} kvops_concat_and_cache_mla_rope_fused_args;

// Rotates q_pe and k_pe of ALL rows in place, then stores [kv_c | rotated k_pe] of the rows that
// have a slot, as concat_and_cache_mla does. Three roundings to T, also of cos and sin before, the
// same bits everywhere: RN_T(RN_T(x*c) - RN_T(y*s)); NaN is the quiet one; rotary_embedding rounds
// once. A row whose position is outside [0, max_pos) is neither rotated nor stored.
KVOPS_API kvops_status
kvops_concat_and_cache_mla_rope_fused(const kvops_concat_and_cache_mla_rope_fused_args* args);

typedef struct kvops_concat_and_cache_mla_grouped_args {
  size_t struct_size;
  kvops_tensor kv_c;           // [layers, >= tokens, latent]  T
  kvops_tensor k_pe;           // [layers, >= tokens, rope]    T
  kvops_tensor kv_cache_ptrs;  // [layers]                     i64: address of a layer's cache, or 0
  kvops_tensor slot_mapping;   // [layers, tokens]             i64; stride 0: one row for all layers
  kvops_tensor kv_scales;      // [layers]                     f32; given iff the caches are fp8
  kvops_tensor faults;         // [1]                          i64, opt
  int64_t cache_dtype;         // kvops_dtype of the caches: T, fp8; FP8_DS_MLA: KVOPS_U8
  int64_t num_blocks;          // of every cache; 0: unknown, and slots are not bounded above
  int64_t block_size;          // tokens per block
  int64_t block_stride;        // in cache elements
  int64_t entry_stride;        // in cache elements, >= entry
  int64_t format;              // KVOPS_FORMAT_PLAIN, _FP8_DS_MLA
  int64_t scale_rule;
  int64_t fp8_encoding;
} kvops_concat_and_cache_mla_grouped_args;

// concat_and_cache_mla for several layers in one launch. The caches are reached by address: neither
// their memory nor, with num_blocks = 0, their slots can be checked.
KVOPS_API kvops_status
kvops_concat_and_cache_mla_grouped(const kvops_concat_and_cache_mla_grouped_args* args);

typedef struct kvops_concat_mla_q_args {
  size_t struct_size;
  kvops_tensor ql_nope;  // [tokens, heads, nope]          T; a transposed view is fine
  kvops_tensor q_pe;     // [tokens, heads, rope]          T
  kvops_tensor out;      // [tokens, heads, nope + rope]   T
} kvops_concat_mla_q_args;

// out = [ql_nope | q_pe] along the last dimension, bit for bit.
KVOPS_API kvops_status kvops_concat_mla_q(const kvops_concat_mla_q_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_MLA_H_
