// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding. T: f32 f16 bf16.
#ifndef KVCACHE_OPS_ROPE_H_
#define KVCACHE_OPS_ROPE_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_rotary_embedding_args {
  size_t struct_size;
  kvops_tensor positions;      // [tokens] or [batch, tokens]  i64 or i32; any strides
  kvops_tensor query;          // positions.shape + [heads, head_size] or [heads * head_size]  T
  kvops_tensor key;            // as query, with kv_heads  T, opt
  kvops_tensor cos_sin_cache;  // [max_pos, rot]  f32 f16 bf16, whatever T is
  kvops_tensor faults;         // [1]  i64, opt
  int64_t head_size;
  int64_t rope_dim_offset;  // first rotated element of a head; rot + rope_dim_offset <= head_size
  int64_t is_neox;          // 1: pairs (j, rot/2 + j).  0, GPT-J style: pairs (2j, 2j + 1)
  int64_t inverse;          // 1: rotate back
} kvops_rotary_embedding_args;

// Rotates rot elements of every head of query and of key in place. A row of cos_sin_cache is rot/2
// cosines, then rot/2 sines; rot is even. With p = positions[token], v = a head from
// rope_dim_offset on, (a, b) = pair j:
//
//   c = cos_sin_cache[p][j],  s = cos_sin_cache[p][rot/2 + j]          inverse: s = -s
//   v[a], v[b] = RN_T(v[a]*c - v[b]*s), RN_T(v[b]*c + v[a]*s)          one rounding each
//
// The rest of a head is left alone. query and key have their own token and head strides; both may
// be slices of one packed qkv row. A token whose position is negative or >= max_pos is left alone,
// the latter counted as a fault.
KVOPS_API kvops_status kvops_rotary_embedding(const kvops_rotary_embedding_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_ROPE_H_
