// SPDX-License-Identifier: Apache-2.0
// Operators that vLLM has for the CPU only: attention over its own packed cache, matrix products
// with packed weights, int8 quantisation. All tensors lie on the CPU. T: f32 f16 bf16.
#ifndef KVCACHE_OPS_CPU_H_
#define KVCACHE_OPS_CPU_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- attention ----------------------------------------------------------------------------------

// kvops_cpu_isa: vLLM's name of a cache packing and of its alignment. Which instructions run is
// decided by the machine. Inside one (block, head), element d of token t stands at:
//
//   VEC    key d * block + t, value t * size + d;  block and size multiples of 32
//   VEC16  as VEC;  block and size multiples of 16
//   AMX    key   (t / 16) * 16 * size  + (d / 2) * 32 + (t % 16) * 2 + d % 2
//          value (d / 16) * 16 * block + (t / 2) * 32 + (d % 16) * 2 + t % 2;  multiples of 32
enum { KVOPS_CPU_ISA_VEC = 1, KVOPS_CPU_ISA_VEC16 = 2, KVOPS_CPU_ISA_AMX = 3 };

// 1 if caches of this packing can be written and read here.
KVOPS_API int32_t kvops_cpu_attn_has_isa(int64_t isa);

typedef struct kvops_cpu_attn_get_scheduler_metadata_args {
  size_t struct_size;
  kvops_tensor seq_lens;            // [reqs]       i32
  kvops_tensor query_start_loc;     // [reqs + 1]   i32, ascending from 0
  kvops_tensor dynamic_causal;      // [reqs]       i32, opt: request r is causal iff != 0
  kvops_tensor scheduler_metadata;  // [bytes]      u8 or i8, 64-byte aligned; written
  int64_t num_heads;                // <= 65536
  int64_t num_kv_heads;
  int64_t head_size;    // a multiple of 16, <= 576
  int64_t query_dtype;  // kvops_dtype: T
  int64_t isa;          // KVOPS_CPU_ISA_*
  int64_t causal;
  int64_t window_left;      // keys left of a token's own; -1: unlimited. Not 0 by default: set both
  int64_t window_right;     // keys right of it; causal makes it 0
  int64_t enable_kv_split;  // 1: few queries over many keys are cut into ranges and merged
} kvops_cpu_attn_get_scheduler_metadata_args;

// Plans one step of cpu_attention_with_kv_cache for all layers. The plan is position-independent
// (it may be copied anywhere), read-only afterwards, valid for any number of threads, and
// independent of cache dtype and strides. INVALID_ARGUMENT if query_start_loc does not ascend from
// 0, a length is negative, or a request has more queries than its length, unless that is 0: then
// its rows are written as zeros. reqs = 0 gives a valid empty plan.
KVOPS_API kvops_status
kvops_cpu_attn_get_scheduler_metadata(const kvops_cpu_attn_get_scheduler_metadata_args* args);

// Bytes of scheduler_metadata: depends on the number of requests only.
KVOPS_API kvops_status kvops_cpu_attn_get_scheduler_metadata_size(
    const kvops_cpu_attn_get_scheduler_metadata_args* args, int64_t* bytes);

typedef struct kvops_cpu_attn_reshape_and_cache_args {
  size_t struct_size;
  kvops_tensor key;           // [tokens, heads, size]         T; AMX: f16 bf16
  kvops_tensor value;         // as key
  kvops_tensor key_cache;     // [blocks, heads, block, size]  Cache: T, f8_e4m3, f8_e5m2
  kvops_tensor value_cache;   // as key_cache, with strides of its own
  kvops_tensor slot_mapping;  // [>= tokens]                   i64
  kvops_tensor faults;        // [1]                           i64, opt
  double k_scale;             // > 0 when Cache is fp8, else not read
  double v_scale;
  int64_t isa;  // packing to write: KVOPS_CPU_ISA_*
} kvops_cpu_attn_reshape_and_cache_args;

// Writes rows of key and value into their slots in the packing of isa; tokens come from key, slots
// as in cache.h. [block, size] of one head is dense, block and head strides are free. fp8 codes as
// everywhere; vLLM's, from a reciprocal and truncated, differ by at most one code.
KVOPS_API kvops_status
kvops_cpu_attn_reshape_and_cache(const kvops_cpu_attn_reshape_and_cache_args* args);

typedef struct kvops_cpu_attention_with_kv_cache_args {
  size_t struct_size;
  kvops_tensor query;               // [tokens, heads, size]            T
  kvops_tensor key_cache;           // [blocks, kv_heads, block, size]  Cache; packing of the plan
  kvops_tensor value_cache;         // as key_cache, with strides of its own
  kvops_tensor query_start_loc;     // [reqs + 1]                       i32
  kvops_tensor seq_lens;            // [reqs]                           i32
  kvops_tensor block_table;         // [reqs, width]                    i32
  kvops_tensor alibi_slopes;        // [heads]                          f32, opt
  kvops_tensor sinks;               // [heads]                          bf16 or f32, opt
  kvops_tensor scheduler_metadata;  // [bytes]                          u8 or i8, for these lengths
  kvops_tensor dynamic_causal;      // [reqs]                           i32, opt
  kvops_tensor out;                 // [tokens, heads, size]            T
  kvops_tensor lse;                 // [tokens, heads]                  f32, opt; any strides
  kvops_tensor workspace;           // [bytes]                          u8, opt if 0 bytes suffice
  kvops_tensor faults;              // [1]                              i64, opt
  double scale;
  double softcap;  // 0: none
  double k_scale;  // > 0 when Cache is fp8, else not read
  double v_scale;
  int64_t causal;
  int64_t window_left;  // causal and windows as planned; -1: unlimited
  int64_t window_right;
} kvops_cpu_attention_with_kv_cache_args;

// Attention of new queries over the paged cache: decode, prefill, mixed batches, encoders. Query i
// of request r has position p = seq_lens[r] - q_len + i; head h reads kv head h / (heads /
// kv_heads); the valid keys are p - window_left <= k <= p + window_right, 0 <= k < seq_lens[r].
//
//   x[k] = scale * (q . K[k]) * k_scale
//   softcap: x = softcap * tanh(x / softcap);   alibi: x += slope[h] * (k - p)
//   out = RN_T(v_scale * sum_k exp(x[k] - m) V[k] / (sum_k exp(x[k] - m) + exp(sink - m)))
//
// The sink is a raw logit without a value; m is the maximum, sink included; lse is the logarithm of
// the denominator, plus m. No valid key: zeros, lse = -inf without a sink.
// Cache contents at k >= seq_lens[r], and the table past them, are not used. Rows of out past
// query_start_loc[reqs] are left alone. Keys in a block that the cache does not have weigh nothing.
// Without KV split the bits of a query depend on its own keys alone, not on threads, on other
// requests, or on how many queries come at once; with it, on that and on its request's length.
// INVALID_ARGUMENT when the plan was made for other lengths, shapes, dtypes or options, is damaged,
// or when a length is beyond the table.
//
// f32 arithmetic; where the CPU multiplies bf16 (AVX512-BF16) and the query is bf16, the weights
// exp(x - m) are rounded to bf16 before they meet V, but not in their sum, and bf16 numbers below
// 2^-126 count as 0. KVOPS_IMPL=cpu_attention_with_kv_cache:portable forces f32.
KVOPS_API kvops_status
kvops_cpu_attention_with_kv_cache(const kvops_cpu_attention_with_kv_cache_args* args);
KVOPS_API kvops_status kvops_cpu_attention_with_kv_cache_workspace(
    const kvops_cpu_attention_with_kv_cache_args* args, int64_t* bytes);

// ---- matrix products with packed weights --------------------------------------------------------
//
// oneDNN multiplies (onednn.h) or our own kernels do; KVOPS_IMPL=onednn_mm:highway, or :onednn,
// forces one for weights packed later. A handle is a number that is never used again: a stale or
// foreign one is INVALID_ARGUMENT, 0 is none. Threads may share handles.

typedef struct kvops_create_onednn_mm_args {
  size_t struct_size;
  kvops_tensor weight;           // [k, n]     T; any strides; may be freed afterwards
  kvops_tensor handle;           // [] or [1]  i64; written
  int64_t primitive_cache_size;  // execution plans kept; 0: our choice. Never changes results
} kvops_create_onednn_mm_args;

// Packs a weight matrix once for repeated products. k, n >= 1.
KVOPS_API kvops_status kvops_create_onednn_mm(const kvops_create_onednn_mm_args* args);

typedef struct kvops_onednn_mm_args {
  size_t struct_size;
  kvops_tensor input;  // [m, k]  T of the weight
  kvops_tensor bias;   // [n]     T, opt
  kvops_tensor out;    // [m, n]  T
  int64_t handle;
} kvops_onednn_mm_args;

// out = RN_T(input . weight + bias), summed in f32 in any order.
KVOPS_API kvops_status kvops_onednn_mm(const kvops_onednn_mm_args* args);

typedef struct kvops_create_onednn_scaled_mm_args {
  size_t struct_size;
  kvops_tensor weight;         // [k, n]                    i8; any strides; may be freed afterwards
  kvops_tensor weight_scales;  // [] [1] [n] [1, n] [n, 1]  f32; copied
  kvops_tensor handle;         // [] or [1]                 i64; written
  int64_t out_dtype;           // kvops_dtype: T
  int64_t dynamic_act_quant;   // 1: input_scale per row of the input; 0: one for all
  int64_t use_azp;             // static: inputs have a zero point
  int64_t primitive_cache_size;
} kvops_create_onednn_scaled_mm_args;

// Packs an int8 weight and fixes how inputs are quantised. k <= 131071: sums fit an int32.
KVOPS_API kvops_status
kvops_create_onednn_scaled_mm(const kvops_create_onednn_scaled_mm_args* args);

typedef struct kvops_onednn_scaled_mm_args {
  size_t struct_size;
  kvops_tensor input;        // [m, k]                                     i8
  kvops_tensor input_scale;  // static: [] or [1]; dynamic: [m] or [m, 1]  f32
  kvops_tensor azp;          // as input_scale                             i32, opt: zero points
  kvops_tensor azp_adj;      // [n] or [1, n]                              f32, opt: sw * W
  kvops_tensor bias;         // [n]                                        T, opt
  kvops_tensor out;          // [m, n]                                     T: the handle's out_dtype
  int64_t handle;
} kvops_onednn_scaled_mm_args;

// acc = input . weight, exact; sw = weight_scales, sx = input_scale, W = column sums of weight:
//
//   static   out = RN_T(sx * (sw * (acc - azp * W)) + bias)             azp_adj is not read
//   dynamic  out = RN_T(sx * (sw * acc) - azp_adj * (sx * azp) + bias)  azp_adj absent: sw * W
//
// Left to right, each step rounded to f32. Static azp needs a handle created with use_azp.
KVOPS_API kvops_status kvops_onednn_scaled_mm(const kvops_onednn_scaled_mm_args* args);

typedef struct kvops_release_dnnl_matmul_handler_args {
  size_t struct_size;
  int64_t handle;  // of either kind; 0: nothing happens
} kvops_release_dnnl_matmul_handler_args;

// Frees a packed weight; products that still run keep it until they end. Twice is INVALID_ARGUMENT,
// never a crash.
KVOPS_API kvops_status
kvops_release_dnnl_matmul_handler(const kvops_release_dnnl_matmul_handler_args* args);

// 1 if products run on the Arm Compute Library.
KVOPS_API int32_t kvops_is_onednn_acl_supported(void);

// ---- int8 quantisation --------------------------------------------------------------------------

typedef struct kvops_static_scaled_int8_quant_args {
  size_t struct_size;
  kvops_tensor input;  // [..., d]    T, d >= 1
  kvops_tensor scale;  // [] or [1]   f32
  kvops_tensor azp;    // [] or [1]   i32, opt
  kvops_tensor out;    // [..., d]    i8
} kvops_static_scaled_int8_quant_args;

// out = RNE(clamp(RN(RN(x * RN(1 / scale)) + azp), -128, 127)), NaN -128; x ~ scale * (out - azp).
KVOPS_API kvops_status
kvops_static_scaled_int8_quant(const kvops_static_scaled_int8_quant_args* args);

typedef struct kvops_dynamic_scaled_int8_quant_args {
  size_t struct_size;
  kvops_tensor input;  // [..., d]   T, d >= 1
  kvops_tensor out;    // [..., d]   i8
  kvops_tensor scale;  // [..., 1]   f32; written
  kvops_tensor azp;    // [..., 1]   i32, opt; written: given selects the asymmetric form
} kvops_dynamic_scaled_int8_quant_args;

// Per row, NaN aside: scale = max|x| / 127; asymmetric: scale = (max - min) / 255, azp = -128 - min
// / scale to nearest even; then as above. scale >= 2^-126. A row of zeros gives scale 1, azp 0 and
// zeros; an asymmetric row of one other value c gives scale |c|, azp 0, out sign(c).
KVOPS_API kvops_status
kvops_dynamic_scaled_int8_quant(const kvops_dynamic_scaled_int8_quant_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_CPU_H_
