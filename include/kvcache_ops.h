// SPDX-License-Identifier: Apache-2.0
// kvops: cache, attention, norm, rotary, activation and sparse operators for LLM inference.
// C99 API of libkvops.so; backends CPU, CUDA, HIP.
//
//   int64_t shape[2] = {rows, 4096};
//   kvops_rms_norm_args a = {.struct_size = sizeof a};
//   a.input   = kvops_dense(x, device, stream, KVOPS_BF16, 2, shape);
//   a.weight  = kvops_dense(w, device, stream, KVOPS_BF16, 1, shape + 1);
//   a.out     = a.input;
//   a.epsilon = 1e-6;
//   if (kvops_rms_norm(&a)) puts(kvops_last_error());
//   // rms_norm: weight: shape[0] is 4000, expected 4096 (d, as input.shape[1])
//
// What holds for every operator unless its comment says otherwise:
//
// Call     Zero the struct, set struct_size, fill the fields. An all-zero tensor is absent: allowed
//          where the field says "opt". Fields are only ever appended; zero keeps the old meaning.
// Strides  In elements, 64 bit, any value; only the last dimension of a tensor must have stride 1.
//          The stride of an extent of 1 is ignored. Any address aligned to the element works.
// Overlap  A written tensor overlaps no other tensor of the call. "may be X": the same memory,
//          shape and strides. What certainly overlaps is refused; interleaved views are trusted.
// Empty    A call with nothing to do returns KVOPS_OK and queues nothing; data of empty tensors may
//          be NULL.
// Order    Queued on the stream that its tensors name, complete on return on the CPU; no
//          synchronisation, no device allocation. Legal in graph capture; device-side values may
//          change between replays.
// Scratch  workspace: u8, 64-byte aligned, contents free before and after the call. Its bytes, from
//          kvops_<op>_workspace(), depend on shapes and scalars only, never on data.
// HOST     Tensors marked HOST lie in CPU memory and are read before the call returns.
// Indices  A negative slot or position means "no token": skipped. Any other index outside its range
//          is skipped and adds 1 to faults[0] (the caller zeroes it). No access leaves a tensor.
// Bits     Same build, device and arguments: same bits. A row or sequence gets the same bits
//          whatever else is in the call.
// Numbers  f32 arithmetic, no fast-math, contraction to FMA allowed. RN(x): rounded to f32; RN_T(x)
//          once, to dtype T; to nearest even, overflow to infinity. NaN propagates.
// fp8      stored = sat(x / scale): an IEEE f32 division, then one rounding to nearest even; beyond
//          the largest finite code, infinities included, that code; NaN gives NaN. The fnuz
//          encodings have neither infinity nor -0: infinities give NaN there, as on their hardware.
//          value = decode(stored) * scale. The encoding is the tensor's dtype on every backend.
// Errors   INVALID_ARGUMENT when a call breaks a rule, UNSUPPORTED when the backend lacks the
//          operator, UNAVAILABLE without the device, DEVICE_ERROR when a launch fails. Arguments
//          are checked before anything is queued; kvops_query() checks without queueing.
// Threads  Every function may be called from any thread at any time.
//
// Words    input/out: data of a computing operator; src/dst: of a plain copy; a result with a name
//          of its own keeps it (key_cache, indices). Extents: tokens, heads, kv_heads, size (of a
//          head), blocks, block (tokens in one), width (of a block table), d (channels), latent and
//          rope (parts of an MLA row), entry (a cached row). T, Cache: one dtype throughout a call.
#ifndef KVCACHE_OPS_H_
#define KVCACHE_OPS_H_

#include "kvcache_ops/activation.h"
#include "kvcache_ops/attention.h"
#include "kvcache_ops/cache_format.h"
#include "kvcache_ops/cache_read.h"
#include "kvcache_ops/cache_write.h"
#include "kvcache_ops/cpu.h"
#include "kvcache_ops/device.h"
#include "kvcache_ops/mla.h"
#include "kvcache_ops/norm.h"
#include "kvcache_ops/options.h"
#include "kvcache_ops/rope.h"
#include "kvcache_ops/sparse.h"
#include "kvcache_ops/transfer.h"
#include "kvcache_ops/types.h"

#endif  // KVCACHE_OPS_H_
