// SPDX-License-Identifier: Apache-2.0
// Status codes, dtypes, devices, tensors, errors, version, introspection: what all other headers
// share.
#ifndef KVCACHE_OPS_TYPES_H_
#define KVCACHE_OPS_TYPES_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define KVOPS_API __attribute__((visibility("default")))
#else
#define KVOPS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// ---- version ------------------------------------------------------------------------------------

#define KVOPS_VERSION_MAJOR 0
#define KVOPS_VERSION_MINOR 1
#define KVOPS_VERSION_PATCH 0
#define KVOPS_VERSION \
  (KVOPS_VERSION_MAJOR * 10000 + KVOPS_VERSION_MINOR * 100 + KVOPS_VERSION_PATCH)

// KVOPS_VERSION of the loaded library. Equal majors are compatible.
KVOPS_API int32_t kvops_version(void);

// ---- status and errors --------------------------------------------------------------------------

typedef int32_t kvops_status;
enum {
  KVOPS_OK = 0,
  KVOPS_INVALID_ARGUMENT = 1,  // the call breaks the operator's contract: no backend would take it
  KVOPS_UNSUPPORTED = 2,       // a legal call that this backend or this build does not implement
  KVOPS_UNAVAILABLE = 3,       // no such device here, or its driver is missing or too old
  KVOPS_OUT_OF_MEMORY = 4,
  KVOPS_DEVICE_ERROR = 5,  // the driver refused a launch or a copy
  KVOPS_INTERNAL = 6       // a defect of this library
};

// "KVOPS_INVALID_ARGUMENT", ...; "KVOPS_?" for an unknown number.
KVOPS_API const char* kvops_status_string(kvops_status status);

// Text of the last call that failed on this thread: "<op>: <argument>: <seen>, <expected> (<why>)",
// or "". Valid until the next failing call on this thread; a call that succeeds leaves it alone.
KVOPS_API const char* kvops_last_error(void);

typedef struct kvops_error {
  size_t struct_size;
  const char* op;        // "rms_norm"; the function's name for calls outside the operators
  const char* argument;  // "weight"; "" when no single argument is at fault
  const char* message;   // as kvops_last_error()
  int64_t element;       // of the argument: the block pair or copy at fault; -1: none
  int64_t status;
} kvops_error;

// Forgets it: kvops_last_error() gives "" again.
KVOPS_API void kvops_clear_error(void);

// The same in parts. Set error->struct_size; returns INVALID_ARGUMENT without it.
KVOPS_API kvops_status kvops_get_error(kvops_error* error);

// ---- dtypes -------------------------------------------------------------------------------------

// Numbers are part of the ABI and never reused. Packed records (fp8_ds_mla, nvfp4, ...) are U8
// tensors plus a kvops_cache_format in the arguments.
typedef int32_t kvops_dtype;
enum {
  KVOPS_F32 = 1,
  KVOPS_F16 = 2,  // IEEE half
  KVOPS_BF16 = 3,
  KVOPS_F8_E4M3 = 4,      // OCP "fn": largest 448, no infinities
  KVOPS_F8_E5M2 = 5,      // OCP: largest finite 57344
  KVOPS_F8_E4M3FNUZ = 6,  // AMD gfx94x: largest 240, NaN 0x80, no -0
  KVOPS_F8_E5M2FNUZ = 7,  // AMD gfx94x: largest 57344, NaN 0x80, no -0
  KVOPS_U8 = 8,
  KVOPS_I8 = 9,
  KVOPS_I32 = 10,
  KVOPS_I64 = 11
};

KVOPS_API const char* kvops_dtype_name(kvops_dtype dtype);  // "bf16"; "?" when unknown
KVOPS_API int64_t kvops_dtype_size(kvops_dtype dtype);      // bytes; 0 when unknown

// ---- devices and tensors ------------------------------------------------------------------------

typedef struct kvops_device {
  int32_t type;   // the numbers of DLPack
  int32_t index;  // 0 for the CPU
} kvops_device;
enum { KVOPS_CPU = 1, KVOPS_CUDA = 2, KVOPS_HIP = 10 };

#define KVOPS_MAX_RANK 6

// 128 bytes for ever: operators embed it by value.
typedef struct kvops_tensor {
  void* data;           // first element; NULL is legal when an extent is 0
  kvops_device device;  // all device tensors of a call name the same device ...
  kvops_dtype dtype;
  int32_t rank;                    // 0 with data: a scalar. 0 without data: absent
  int64_t shape[KVOPS_MAX_RANK];   // entries past rank are not read
  int64_t stride[KVOPS_MAX_RANK];  // in elements; may be 0 or negative
  void* stream;  // ... and the same cudaStream_t / hipStream_t. NULL: the default one; CPU: NULL
} kvops_tensor;

// A dense row-major tensor.
static inline kvops_tensor kvops_dense(void* data, kvops_device device, void* stream,
                                       kvops_dtype dtype, int32_t rank, const int64_t* shape) {
  kvops_tensor tensor;
  int64_t stride = 1;
  int32_t i;
  tensor.data = data;
  tensor.device = device;
  tensor.dtype = dtype;
  tensor.rank = rank;
  tensor.stream = stream;
  for (i = KVOPS_MAX_RANK - 1; i >= 0; --i) {
    tensor.shape[i] = i < rank ? shape[i] : 0;
    tensor.stride[i] = i < rank ? stride : 0;
    if (i < rank) stride *= shape[i];
  }
  return tensor;
}

// ---- asking before calling ----------------------------------------------------------------------

typedef struct kvops_query_result {
  size_t struct_size;
  int64_t bytes;               // least size of the workspace or plan argument; 0: it has none
  const char* implementation;  // what would run: "avx2", "sm90", "portable", ...
  int64_t graph_safe;          // 1: may be captured in a graph (copies: without pageable memory)
  int64_t deterministic;       // 1: the same bits on every run
} kvops_query_result;

// Would kvops_<op>(args) be accepted here? Runs the checks of the call except those of addresses,
// reads no tensor, queues nothing. data may be NULL everywhere and the workspace absent; a scale
// that is present must then have rank 1, because rank 0 without data is an absent tensor. Returns
// what the call would return, with the same text. result may be NULL.
KVOPS_API kvops_status kvops_query(const char* op, const void* args, kvops_query_result* result);

// kvops_<op>(args) by name, for test runners and bindings.
KVOPS_API kvops_status kvops_call(const char* op, const void* args);

// ---- introspection ------------------------------------------------------------------------------

// kvops_tensor, double, int64_t
enum { KVOPS_ARG_TENSOR = 1, KVOPS_ARG_REAL = 2, KVOPS_ARG_INT = 3 };
enum {
  KVOPS_ARG_READ = 1,
  KVOPS_ARG_WRITTEN = 2,  // READ | WRITTEN: updated in place, or written in part
  KVOPS_ARG_OPTIONAL = 4,
  KVOPS_ARG_HOST = 8,       // lies in CPU memory whatever the device of the call
  KVOPS_ARG_ANYWHERE = 16,  // may lie in CPU memory (copies)
  KVOPS_ARG_SIZED = 32,     // workspace or plan: bytes from kvops_query()
  KVOPS_ARG_PLACE = 64,     // only device and stream are read
  KVOPS_ARG_COUNTER = 128   // faults
};

// How a written tensor is compared with a reference value w of its dtype; t = the tolerance.
enum {
  KVOPS_COMPARE_EXACT = 0,    // bit for bit; NaN equals NaN
  KVOPS_COMPARE_ULP = 1,      // |x - w| <= t * ulp(w)
  KVOPS_COMPARE_ROWS = 2,     // or <= tolerance_f32 * 2^-23 * the largest magnitude of the row
  KVOPS_COMPARE_SCRATCH = 3,  // not at all
  KVOPS_COMPARE_SET = 4       // rows hold the same values in any order
};

typedef struct kvops_arg_info {
  const char* name;   // the struct member
  size_t offset;      // in the args struct
  int32_t kind;       // KVOPS_ARG_TENSOR, ...
  int32_t flags;      // KVOPS_ARG_READ | ...
  uint64_t values;    // bit i: dtype or value i is allowed; 0: any number
  const char* type;   // name of the dtype rule ("T", "Cache", "i32"); "" for numbers
  const char* shape;  // tensor: "blocks block entry!"; integer: names of the values, or ">= 1"
  int64_t compare;    // written tensor: KVOPS_COMPARE_EXACT, ...
  double tolerance_f32;
  double tolerance_narrow;  // 16-bit and narrower dtypes
} kvops_arg_info;

typedef struct kvops_op_info {
  const char* name;  // "rms_norm"
  size_t args_size;
  size_t num_args;
  const kvops_arg_info* const* args;  // in struct order
  size_t num_rules;
  const char* const* rules;  // "if format == plain", "require entry == latent+rope", "noop tokens"
  uint64_t backends;         // bit i: exists for device type i
} kvops_op_info;

// All operators of this build. Both structs may grow at their end; go through the pointers.
KVOPS_API const kvops_op_info* const* kvops_ops(size_t* count);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_TYPES_H_
