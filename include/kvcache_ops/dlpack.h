// SPDX-License-Identifier: Apache-2.0
// DLTensor -> kvops_tensor, inline. Not part of kvcache_ops.h: include DLPack's own dlpack.h first.
#ifndef KVCACHE_OPS_DLPACK_H_
#define KVCACHE_OPS_DLPACK_H_

#include "types.h"

// 0: no kvops dtype. u8 stays u8: a framework without fp8 exports bytes, and the caller names the
// encoding by setting tensor.dtype.
static inline kvops_dtype kvops_dtype_from_dlpack(uint8_t code, uint8_t bits, uint16_t lanes) {
  static const struct {
    uint8_t code, bits;
    kvops_dtype dtype;
  } table[] = {
      {2, 32, KVOPS_F32},                               // kDLFloat
      {2, 16, KVOPS_F16},         {4, 16, KVOPS_BF16},  // kDLBfloat
      {10, 8, KVOPS_F8_E4M3},                           // kDLFloat8_e4m3fn
      {12, 8, KVOPS_F8_E5M2},                           // kDLFloat8_e5m2
      {11, 8, KVOPS_F8_E4M3FNUZ},                       // kDLFloat8_e4m3fnuz
      {13, 8, KVOPS_F8_E5M2FNUZ},                       // kDLFloat8_e5m2fnuz
      {1, 8, KVOPS_U8},                                 // kDLUInt
      {0, 8, KVOPS_I8},                                 // kDLInt
      {0, 32, KVOPS_I32},         {0, 64, KVOPS_I64},
  };
  size_t i;
  for (i = 0; i < sizeof table / sizeof table[0]; ++i) {
    if (lanes == 1 && table[i].code == code && table[i].bits == bits) return table[i].dtype;
  }
  return 0;
}

// 1 and *tensor filled; 0 when the dtype, the rank or the kind of memory has no counterpart. Pinned
// and managed memory become CPU and GPU. `stream` is the stream on which the data is valid: DLPack
// tensors do not carry one.
static inline int kvops_from_dlpack(const DLTensor* from, void* stream, kvops_tensor* tensor) {
  int64_t stride = 1;
  int i, type = (int)from->device.device_type;
  if (type == 3 || type == 11) type = KVOPS_CPU;  // kDLCUDAHost, kDLROCMHost
  if (type == 13) type = KVOPS_CUDA;              // kDLCUDAManaged
  if (type != KVOPS_CPU && type != KVOPS_CUDA && type != KVOPS_HIP) return 0;
  tensor->dtype = kvops_dtype_from_dlpack(from->dtype.code, from->dtype.bits, from->dtype.lanes);
  if (!tensor->dtype || from->ndim < 0 || from->ndim > KVOPS_MAX_RANK) return 0;
  tensor->data = from->data ? (char*)from->data + from->byte_offset : NULL;
  tensor->device.type = type;
  tensor->device.index = type == KVOPS_CPU ? 0 : from->device.device_id;
  tensor->rank = from->ndim;
  tensor->stream = type == KVOPS_CPU ? NULL : stream;
  for (i = KVOPS_MAX_RANK - 1; i >= 0; --i) {
    int used = i < from->ndim;
    tensor->shape[i] = used ? from->shape[i] : 0;
    tensor->stride[i] = !used ? 0 : from->strides ? from->strides[i] : stride;
    if (used) stride *= from->shape[i];
  }
  return 1;
}

#endif  // KVCACHE_OPS_DLPACK_H_
