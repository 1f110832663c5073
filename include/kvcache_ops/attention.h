// SPDX-License-Identifier: Apache-2.0
// Decode attention over a paged cache, merging of partial results.
// T: f32 f16 bf16.
#ifndef KVCACHE_OPS_ATTENTION_H_
#define KVCACHE_OPS_ATTENTION_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_paged_attention_v1_args {
  size_t struct_size;
  kvops_tensor query;         // [seqs, heads, size]                   T
  kvops_tensor key_cache;     // [blocks, kv_heads, size/x, block, x]  Cache: T or fp8; any strides
  kvops_tensor value_cache;   // [blocks, kv_heads, size, block]       Cache; any strides
  kvops_tensor block_table;   // [seqs, width]                         i32
  kvops_tensor seq_lens;      // [seqs]                                i32
  kvops_tensor alibi_slopes;  // [heads]                               f32, opt
  kvops_tensor k_scale;       // [] or [1]                             f32; opt unless Cache is fp8
  kvops_tensor v_scale;       // [] or [1]                             f32; opt unless Cache is fp8
  kvops_tensor sinks;         // [heads]                               f32, opt
  kvops_tensor out;           // [seqs, heads, size]                   T
  kvops_tensor lse;           // [seqs, heads]                         f32, opt; any strides
  kvops_tensor workspace;     // [bytes]                               u8, 64-byte aligned, opt
  kvops_tensor faults;        // [1]                                   i64, opt
  double scale;               // of the logits, usually size^-0.5
  double softcap;             // 0: none
  int64_t max_seq_len;        // upper bound of seq_lens; 0: width * block
  int64_t window;             // the last `window` tokens take part; 0: all of them
  int64_t batch_invariant;    // 1: split points depend on a sequence's length only
  int64_t tp_rank;            // block-sparse: index of this rank's heads
  int64_t blocksparse_local_blocks;
  int64_t blocksparse_vert_stride;  // <= 1: dense
  int64_t blocksparse_block_size;   // a multiple of block
  int64_t blocksparse_head_sliding_step;
} kvops_paged_attention_v1_args;

// The query token of sequence s attends to its cached tokens t < L = seq_lens[s]. Head h reads kv
// head g = h / (heads / kv_heads); token t is token t % block of block block_table[s, t / block].
//
//   c(z)       = softcap * tanh(z / softcap), or z when softcap is 0
//   a[t]       = c(scale * sum_d query[s,h,d] * k[t,d])  +  alibi_slopes[h] * (t - L + 1)
//   m          = max(max_t a[t], sinks[h]),   Z = sum_t exp(a[t] - m) + exp(sinks[h] - m)
//   out[s,h,:] = RN_T(sum_t exp(a[t] - m) * v[t,:] / Z),   lse[s,h] = log(Z) + m
//
// Without sinks their terms vanish. A window w keeps t >= L - w. No token left: out = 0 and, where
// there are no sinks, lse = -inf. The caches take any strides: an NHD or HND cache [blocks, block,
// kv_heads, size] with strides (sb, st, sh, 1) is passed as keys [blocks, kv_heads, size/x, block,
// x] with strides (sb, sh, x, st, 1) and values [blocks, kv_heads, size, block] with (sb, sh, 1,
// st). The same bits result.
//
// Everything is accumulated in f32. fp8: k = decode * k_scale, v = decode * v_scale, but k_scale is
// part of the scale and v_scale of the last product, so that neither rounds an element. L <= 0:
// zeros. A logit of -inf has no weight. What lies at t >= L in a block, and in the table past it,
// is not used and may be anything, NaN included. Faults: each entry of the table that a token
// needs and whose block id is outside [0, blocks), which leaves its tokens out; and each L above
// max_seq_len or width * block, where it is cut. Chunked prefill: each token of the chunk is a
// sequence of its own, with the same table row and the L that ends with it.
//
// size: a multiple of 8 (fp8: 16) from 8 to 512; any block; heads a multiple of kv_heads.
//
// Block-sparse, if vert_stride > 1; B = blocksparse_block_size, step = head_sliding_step: the cache
// block that starts at token t takes part iff
//
//   (t/B + o) % vert_stride == 0   or   t/B > (L-1)/B - local_blocks,
//   o = 1 + (step >= 0 ? (tp_rank * heads + h) * step : (tp_rank * kv_heads + g) * -step)
//
// No block left: zeros. Without batch_invariant the way a sequence is split, and so its last bits,
// may depend on the other sequences of the call and on whether there is a workspace; with it, on
// neither. On the CPU bits never depend on the batch, on threads or on the workspace. Without a
// workspace one sequence and kv head is the work of one thread, on a GPU of one thread block. What
// the workspace holds before a call does not matter; calls that may overlap need one each.
KVOPS_API kvops_status kvops_paged_attention_v1(const kvops_paged_attention_v1_args* args);

// Bytes of workspace: depends on shapes, max_seq_len, batch_invariant and the device only, not on
// any tensor's contents.
KVOPS_API kvops_status kvops_paged_attention_v1_workspace(const kvops_paged_attention_v1_args* args,
                                                          int64_t* bytes);

// vLLM's second entry point: the same arguments and, with the same workspace, the same bits.
typedef kvops_paged_attention_v1_args kvops_paged_attention_v2_args;
KVOPS_API kvops_status kvops_paged_attention_v2(const kvops_paged_attention_v2_args* args);
KVOPS_API kvops_status kvops_paged_attention_v2_workspace(const kvops_paged_attention_v2_args* args,
                                                          int64_t* bytes);

typedef struct kvops_merge_attn_states_args {
  size_t struct_size;
  kvops_tensor prefix_output;  // [tokens, heads, size]   T
  kvops_tensor prefix_lse;     // [heads, tokens]         f32, natural logarithm; any strides
  kvops_tensor suffix_output;  // [tokens, heads, size]   T
  kvops_tensor suffix_lse;     // [heads, tokens]         f32; any strides
  kvops_tensor out_scale;      // [] or [1]               f32; given exactly if out is fp8
  kvops_tensor out;            // [tokens, heads, size]   T, or e4m3, e4m3fnuz; may be an input
  kvops_tensor out_lse;        // [heads, tokens]         f32, opt; any strides; may be an input
  int64_t suffix_only_tokens;  // so many tokens at the end have no prefix; 0: every token has one
  int64_t keep_nan;            // fp8 out: 1: NaN stays NaN; 0: the largest value, as in vLLM
} kvops_merge_attn_states_args;

// Combines two attention results over disjoint sets of keys. With p, q = prefix_lse, suffix_lse of
// (head, token), each infinity of either sign taken as -inf (an empty set), and M = max(p, q):
//
//   a = exp(p - M),  b = exp(q - M),  out = RN_T(prefix * (a / (a + b)) + suffix * (b / (a + b))),
//   out_lse = log(a + b) + M
//
// One side empty: the other side's bits, and the empty one is not read. Both: prefix_output's bits,
// out_lse = -inf. A NaN beside an infinity counts as empty, beside a number it gives NaN. The last
// suffix_only_tokens tokens copy suffix_output and suffix_lse unchanged, their prefix is not read.
// fp8: every stored value, copies included, is sat(x * RN(1 / out_scale)) of the unrounded x, with
// 448 (fnuz: 224) as the largest magnitude.
KVOPS_API kvops_status kvops_merge_attn_states(const kvops_merge_attn_states_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_ATTENTION_H_
