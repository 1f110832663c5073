// SPDX-License-Identifier: Apache-2.0
// Gathering rows of paged caches into dense memory. T: f32 f16 bf16. Cache: T, or fp8 with a scale.
//
// Row t of out belongs to request b with cu_seq_lens[b] <= t < cu_seq_lens[b + 1] and is read from
//
//   pos = t - cu_seq_lens[b] + seq_starts[b]                               seq_starts absent: 0
//   entry = kv_cache[block_table[b, pos / block], pos % block]
//
// Rows that belong to no request are left alone; a decreasing pair of cu_seq_lens is an empty
// request, and rows from cu_seq_lens[batch] on are nobody's. A row with pos < 0, pos / block >=
// width or a block outside [0, blocks) is left alone, or zeroed if zero_invalid; faults grows by
// one for every such pos / block (rounded down) of every request.
#ifndef KVCACHE_OPS_CACHE_READ_H_
#define KVCACHE_OPS_CACHE_READ_H_

#include "cache_format.h"
#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_gather_and_maybe_dequant_cache_args {
  size_t struct_size;
  kvops_tensor kv_cache;     // [blocks, block, entry]   Cache
  kvops_tensor block_table;  // [batch, width]           i32
  kvops_tensor cu_seq_lens;  // [batch + 1]              i32
  kvops_tensor seq_starts;   // [batch]                  i32, opt
  kvops_tensor kv_scale;     // [] or [1]                f32; opt unless Cache is fp8
  kvops_tensor out;          // [rows, entry]            T
  kvops_tensor faults;       // [1]                      i64, opt
  int64_t zero_invalid;
} kvops_gather_and_maybe_dequant_cache_args;

// out[t] = RN_T(decode(entry) * kv_scale), or a bit copy when Cache is T. Packed records are not
// decoded here.
KVOPS_API kvops_status
kvops_gather_and_maybe_dequant_cache(const kvops_gather_and_maybe_dequant_cache_args* args);

typedef struct kvops_cp_gather_cache_args {
  size_t struct_size;
  kvops_tensor kv_cache;     // [blocks, block, ...]     any dtype; trailing dimensions dense
  kvops_tensor block_table;  // [batch, width]           i32
  kvops_tensor cu_seq_lens;  // [batch + 1]              i32
  kvops_tensor seq_starts;   // [batch]                  i32, opt
  kvops_tensor out;          // [rows, ...]              as kv_cache; trailing dimensions dense
  kvops_tensor faults;       // [1]                      i64, opt
  int64_t zero_invalid;
} kvops_cp_gather_cache_args;

// out[t] = the entry, bit for bit. cu_seq_lens may be padded (context parallelism): rows that were
// never written are copied as they are.
KVOPS_API kvops_status kvops_cp_gather_cache(const kvops_cp_gather_cache_args* args);

typedef struct kvops_cp_gather_and_upconvert_fp8_kv_cache_args {
  size_t struct_size;
  kvops_tensor kv_cache;          // [blocks, block, 656]   u8: FP8_DS_MLA records
  kvops_tensor block_table;       // [batch, width]         i32
  kvops_tensor workspace_starts;  // [>= batch]             i32, ascending
  kvops_tensor seq_starts;        // [batch]                i32, opt
  kvops_tensor out;               // [rows, 576]            bf16 or f16, as the records' source
  kvops_tensor faults;            // [1]                    i64, opt
  int64_t zero_invalid;
  int64_t fp8_encoding;
} kvops_cp_gather_and_upconvert_fp8_kv_cache_args;

// out[t] = RN_T(decode(code) * scale) for 512 latent elements, then the 64 rope elements bit for
// bit. Any f32 scale is read as it is. Here row t belongs to the last request b < batch with
// workspace_starts[b] <= t: the last owns the rest of out, rows before the first have no owner.
KVOPS_API kvops_status kvops_cp_gather_and_upconvert_fp8_kv_cache(
    const kvops_cp_gather_and_upconvert_fp8_kv_cache_args* args);

typedef struct kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args {
  size_t struct_size;
  kvops_tensor kv_cache;          // [blocks, block, 352]   u8: NVFP4_DS_MLA records
  kvops_tensor block_table;       // [batch, width]         i32
  kvops_tensor workspace_starts;  // [>= batch]             i32, ascending
  kvops_tensor seq_starts;        // [batch]                i32, opt
  kvops_tensor out;               // [rows, 576]            bf16 or f16
  kvops_tensor faults;            // [1]                    i64, opt
  int64_t zero_invalid;
} kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args;

// The same for 352-byte records: e2m1 * e4m3 and the e4m3 rope are exact in either dtype. Needs no
// fp4 hardware.
KVOPS_API kvops_status kvops_cp_gather_and_upconvert_nvfp4_kv_cache(
    const kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_CACHE_READ_H_
