// SPDX-License-Identifier: Apache-2.0
// Devices, memory, copies and streams for programs without a GPU framework of their own. These are
// the only calls that allocate or synchronise; no operator needs them, and memory and streams of
// any other origin work as well. On the CPU: stream is NULL, copies and fills are done on return.
#ifndef KVCACHE_OPS_DEVICE_H_
#define KVCACHE_OPS_DEVICE_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

// Devices of a type in this process; 0 without a driver. Creates no context.
KVOPS_API kvops_status kvops_device_count(int32_t type, int32_t* count);

typedef struct kvops_device_info {
  size_t struct_size;
  char name[128];  // "NVIDIA H200"
  char arch[32];   // "sm_90", "gfx942", "avx512_bf16"
  int64_t memory_bytes;
  int64_t cache_bytes;    // last level
  int64_t compute_units;  // SMs, CUs, cores
  int64_t warp_size;      // lanes; 1 on the CPU
  int64_t fp8_e4m3;       // dtype that "fp8" means here: KVOPS_F8_E4M3; gfx94x: KVOPS_F8_E4M3FNUZ
} kvops_device_info;

// Set info->struct_size. UNAVAILABLE when there is no such device.
KVOPS_API kvops_status kvops_get_device_info(kvops_device device, kvops_device_info* info);

// At least 256-byte aligned; bytes = 0 gives NULL. Freeing NULL does nothing.
KVOPS_API kvops_status kvops_malloc(kvops_device device, int64_t bytes, void** data);
KVOPS_API kvops_status kvops_free(kvops_device device, void* data);

// CPU memory that `device` reaches without staging: what swap_blocks and swap_blocks_batch want.
KVOPS_API kvops_status kvops_malloc_pinned(kvops_device device, int64_t bytes, void** data);
KVOPS_API kvops_status kvops_free_pinned(kvops_device device, void* data);

// Queued on the stream of the device. One side of a copy may be CPU memory; pageable CPU memory
// makes it synchronous.
KVOPS_API kvops_status kvops_copy(kvops_device device, void* stream, void* dst, const void* src,
                                  int64_t bytes);
KVOPS_API kvops_status kvops_fill(kvops_device device, void* stream, void* dst, int32_t byte,
                                  int64_t bytes);

// Streams do not order themselves against the default stream. NULL synchronises the default stream.
KVOPS_API kvops_status kvops_stream_create(kvops_device device, void** stream);
KVOPS_API kvops_status kvops_stream_destroy(kvops_device device, void* stream);
KVOPS_API kvops_status kvops_stream_synchronize(kvops_device device, void* stream);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_DEVICE_H_
