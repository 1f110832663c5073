// SPDX-License-Identifier: Apache-2.0
// Sparse attention: the quantised indexer cache, row-wise top-k, vertical-slash index lists.
#ifndef KVCACHE_OPS_SPARSE_H_
#define KVCACHE_OPS_SPARSE_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- indexer cache ------------------------------------------------------------------------------
//
// A block holds all codes, then all scales (q = quant_block_size, off = position in the block):
//
//   [0, block * d)                    e4m3 codes, token off at off * d
//   [block * d, + block * 4 * d / q)  f32 scales, group g of token off at
//                                     block * d + 4 * (off * d / q + g)

typedef struct kvops_indexer_k_quant_and_cache_args {
  size_t struct_size;
  kvops_tensor k;             // [rows, d]                f32 f16 bf16
  kvops_tensor kv_cache;      // [blocks, block, entry]   u8, entry >= d + 4 d/q; a block is dense
  kvops_tensor slot_mapping;  // [slots]                  i64; min(rows, slots) tokens are written
  kvops_tensor faults;        // [1]                      i64, opt
  int64_t quant_block_size;   // q: a multiple of 4 that divides d
  int64_t scale_rule;         // kvops_scale_rule; vLLM's "ue8m0" is KVOPS_SCALE_POW2
  int64_t fp8_encoding;       // kvops_fp8_encoding
} kvops_indexer_k_quant_and_cache_args;

// Per token and group of q elements: amax = max |k|, NaN ignored;  s = RN(max(amax, 1e-4) / C),
// C = 448 (fnuz: 224); POW2: s = 2^ceil(log2(s)), exact;  codes sat(k / s). Byte-equal everywhere.
KVOPS_API kvops_status
kvops_indexer_k_quant_and_cache(const kvops_indexer_k_quant_and_cache_args* args);

typedef struct kvops_cp_gather_indexer_k_quant_cache_args {
  size_t struct_size;
  kvops_tensor kv_cache;     // [blocks, block, entry]   u8, as above
  kvops_tensor block_table;  // [batch, width]           i32
  kvops_tensor cu_seq_lens;  // [batch + 1]              i32
  kvops_tensor seq_starts;   // [batch]                  i32, opt
  kvops_tensor out_k;        // [rows, d]                u8 or fp8: codes
  kvops_tensor out_scale;    // [rows, 4 groups]         u8: the bytes of groups = d/q f32 scales
  kvops_tensor faults;       // [1]                      i64, opt
  int64_t zero_invalid;
} kvops_cp_gather_indexer_k_quant_cache_args;

// Gathers codes and scales of a batch into two packed arrays, byte for byte; d and groups come from
// the outputs. Rows, requests and faults as in cache_read.h.
KVOPS_API kvops_status
kvops_cp_gather_indexer_k_quant_cache(const kvops_cp_gather_indexer_k_quant_cache_args* args);

// ---- top-k --------------------------------------------------------------------------------------

// kvops_top_k_order
enum {
  KVOPS_TOP_K_UNORDERED = 0,  // any order; the set is that of BY_INDEX
  KVOPS_TOP_K_BY_VALUE = 1,   // descending value, then descending position, which also wins ties
  KVOPS_TOP_K_BY_INDEX = 2    // ascending position; the lowest positions win ties
};

typedef struct kvops_top_k_per_row_prefill_args {
  size_t struct_size;
  kvops_tensor logits;      // [rows, columns]  f32; any strides
  kvops_tensor row_starts;  // [rows]           i32
  kvops_tensor row_ends;    // [rows]           i32
  kvops_tensor indices;     // [rows, k]        i32; 1 <= k <= 2^20
  kvops_tensor workspace;   // [bytes]          u8, 64-byte aligned; opt if 0 bytes suffice
  int64_t order;            // kvops_top_k_order
} kvops_top_k_per_row_prefill_args;

// indices[r, :] = the positions of the k largest logits among columns [start, end), relative to
// start; start and end are row_starts[r] and row_ends[r], clamped to [0, columns]. Always min(k,
// len) distinct positions, len = end - start or 0, then -1. len <= k: 0, 1, .. len - 1, in this
// order unless it is BY_VALUE. Exact in all 32 bits: +0 ranks above -0, -inf is a value like
// others, NaN of either sign are equal and above +inf. Logits outside a row's range are not read.
KVOPS_API kvops_status kvops_top_k_per_row_prefill(const kvops_top_k_per_row_prefill_args* args);
KVOPS_API kvops_status
kvops_top_k_per_row_prefill_workspace(const kvops_top_k_per_row_prefill_args* args, int64_t* bytes);

typedef struct kvops_top_k_per_row_decode_args {
  size_t struct_size;
  kvops_tensor logits;     // [batch * next_n, columns]  f32; any strides
  kvops_tensor seq_lens;   // [batch] [batch, 1]; per row: [batch * next_n] [batch, next_n]  i32
  kvops_tensor indices;    // [batch * next_n, k]        i32; 1 <= k <= 2^20
  kvops_tensor workspace;  // [bytes]                    u8, 64-byte aligned; opt if 0 bytes suffice
  int64_t next_n;          // rows (speculative tokens) per request, >= 1
  int64_t order;           // kvops_top_k_order
} kvops_top_k_per_row_decode_args;

// The same with row_starts = 0 and row_ends[r] = seq_lens[r] (lengths per row), or
// seq_lens[r / next_n] - next_n + r % next_n + 1 (per request).
KVOPS_API kvops_status kvops_top_k_per_row_decode(const kvops_top_k_per_row_decode_args* args);
KVOPS_API kvops_status
kvops_top_k_per_row_decode_workspace(const kvops_top_k_per_row_decode_args* args, int64_t* bytes);

// ---- vertical-slash index lists (MInference) ----------------------------------------------------

typedef struct kvops_convert_vertical_slash_indexes_args {
  size_t struct_size;
  kvops_tensor q_seq_lens;        // [batch]                      i32
  kvops_tensor kv_seq_lens;       // [batch]                      i32
  kvops_tensor vertical_indexes;  // [batch, heads, verticals]    i32: key positions, ascending
  kvops_tensor slash_indexes;     // [batch, heads, slashes]      i32: diagonal offsets, descending
  kvops_tensor block_count;       // [batch, heads, rows]         i32
  kvops_tensor block_offset;      // [batch, heads, rows, slashes]    i32: first key of a block
  kvops_tensor column_count;      // [batch, heads, rows]         i32
  kvops_tensor column_index;      // [batch, heads, rows, verticals]  i32: single keys, ascending
  kvops_tensor faults;            // [1]                          i64, opt
  int64_t block_size_m;           // query rows per row block
  int64_t block_size_n;           // keys per block, block_size_m to 2^30
  int64_t causal;
} kvops_convert_vertical_slash_indexes_args;

// Turns the important columns and diagonals of every head into, per block of M = block_size_m query
// rows, a list of blocks of N = block_size_n keys and a list of left-over columns. Slash o at query
// row i is key i + Lk - Lq - o (causal) or i + Lk - o. For row block r, q = r * M < Lq:
//
//   E = q + M + (causal ? Lk - Lq : Lk);  v, s = first vertical, first slash < E, or the last one
//   s <= E:  hi = max(E - s, M), lo = hi - M;   else lo = causal ? E : Lk, hi = lo + N (no s: lo)
//   repeat the first that applies:
//     v < hi                              column v if v < lo;  v = next vertical, or none
//     next slash s, causal or s >= q      e = max(E - s, M);  if e > hi + M: blocks, lo = e - M,
//                                         hi = e;  else if e > hi: hi += M
//     causal, or no vertical follows v    not causal and a v: column v;  blocks;  stop
//     else                                blocks;  lo = Lk, hi = Lk + N, and no range grows again
//   blocks: lo, lo + N, ... below min(hi, Lk), if lo >= 0
//
// Counts of row blocks past Lq are 0, index entries past the counts stay. Verticals below 0 are
// skipped, those from Lk on as faults. Lists may be empty; there is always room for the result.
// Lists out of order take the same steps; KVOPS_DEBUG=bounds refuses them.
KVOPS_API kvops_status
kvops_convert_vertical_slash_indexes(const kvops_convert_vertical_slash_indexes_args* args);

typedef struct kvops_convert_vertical_slash_indexes_mergehead_args {
  size_t struct_size;
  kvops_tensor q_seq_lens;  // all as above
  kvops_tensor kv_seq_lens;
  kvops_tensor vertical_indexes;
  kvops_tensor slash_indexes;
  kvops_tensor vertical_indices_count;  // [heads]  i32: valid entries, clamped to [0, verticals]
  kvops_tensor slash_indices_count;     // [heads]  i32: the same, clamped to [0, slashes]
  kvops_tensor block_count;
  kvops_tensor block_offset;
  kvops_tensor column_count;
  kvops_tensor column_index;
  kvops_tensor faults;
  int64_t block_size_m;
  int64_t block_size_n;
  int64_t causal;
} kvops_convert_vertical_slash_indexes_mergehead_args;

// The same with list lengths of their own for every head.
KVOPS_API kvops_status kvops_convert_vertical_slash_indexes_mergehead(
    const kvops_convert_vertical_slash_indexes_mergehead_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_SPARSE_H_
