// SPDX-License-Identifier: Apache-2.0
// Moving whole blocks between caches and memories; converting between floats and fp8.
#ifndef KVCACHE_OPS_TRANSFER_H_
#define KVCACHE_OPS_TRANSFER_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvops_swap_blocks_args {
  size_t struct_size;
  kvops_tensor src;            // [blocks, ...]  any dtype; on a device or in CPU memory
  kvops_tensor dst;            // [blocks, ...]  likewise, the same device; may overlap src
  kvops_tensor block_mapping;  // [pairs, 2]     i64, HOST: source block, destination block
  int64_t block_size_in_bytes;
} kvops_swap_blocks_args;

// Block block_mapping[i][0] of src is copied, as bytes, to block block_mapping[i][1] of dst, for
// i = 0, 1, ... in this order. Block b starts at byte b * block_size_in_bytes of its tensor and
// must end within the bytes from the first element of its tensor to the end of the last; shapes,
// strides and dtypes matter no further. A block onto itself is no copy. All pairs are checked
// before the first copy: INVALID_ARGUMENT names the first bad one. A copy into pageable CPU memory
// is complete on return; the others are stream-ordered, and only they may be captured. A graph
// replays the pairs of the captured call.
KVOPS_API kvops_status kvops_swap_blocks(const kvops_swap_blocks_args* args);

typedef struct kvops_swap_blocks_batch_args {
  size_t struct_size;
  kvops_tensor queue;               // only device and stream are read: where the copies are queued
  kvops_tensor src_ptrs;            // [copies]  i64, HOST: addresses, device or CPU
  kvops_tensor dst_ptrs;            // [copies]  i64, HOST
  kvops_tensor sizes;               // [copies]  i64, HOST: bytes; 0 is skipped
  int64_t is_src_access_order_any;  // 1: sources may be read before earlier work of the stream ends
} kvops_swap_blocks_batch_args;

// sizes[i] bytes from src_ptrs[i] to dst_ptrs[i] for all i. The batch is ordered on the stream, its
// copies are not ordered among themselves and must not depend on each other. Works on the default
// stream, for any number of copies. A negative size, or an address of 0 where the size is not, is
// INVALID_ARGUMENT before any copy; other addresses cannot be checked. kvops_get_error() names the
// first copy that failed. Set is_src_access_order_any only for sources that nothing on the device
// still writes (CPU to device).
KVOPS_API kvops_status kvops_swap_blocks_batch(const kvops_swap_blocks_batch_args* args);

typedef struct kvops_convert_fp8_args {
  size_t struct_size;
  kvops_tensor src;  // [...]   f32 f16 bf16, or fp8; all strides are free
  kvops_tensor dst;  // as src  fp8, or f32 f16 bf16; all strides are free
  double scale;      // rounded to f32; > 0
} kvops_convert_fp8_args;

// float -> fp8: dst = fp8(src / scale), see cache_format.h. fp8 -> float: dst = RN_T(p) of the f32
// product p = RN(decode(src) * scale); f16 overflows to infinity. One side must be fp8, one not.
KVOPS_API kvops_status kvops_convert_fp8(const kvops_convert_fp8_args* args);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_TRANSFER_H_
