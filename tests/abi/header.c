/* The headers as C99. One reference to every exported function: a missing one fails the link. */
#include "kvcache_ops.h"

#ifdef KVOPS_TEST_DLPACK
#include <dlpack/dlpack.h>

#include "kvcache_ops/dlpack.h"
kvops_tensor from_dlpack(const DLTensor* t) {
  kvops_tensor tensor = {0};
  return kvops_from_dlpack(t, NULL, &tensor) ? tensor : tensor;
}
#endif

/* Compile-time assertion for C99. */
#define KVOPS_SAME(name, condition) typedef char name[(condition) ? 1 : -1]
KVOPS_SAME(tensor_is_128_bytes, sizeof(kvops_tensor) == 128);
KVOPS_SAME(stream_is_last, offsetof(kvops_tensor, stream) == 120);

typedef void (*function)(void);
#define REF(name) (function) name,
const function kvops_every_function[] = {
#define KVOPS_OP(op, ...) REF(kvops_##op)
#define KVOPS_SIZE(op, name, ...) REF(kvops_##name)
#include "../src/ops.def"
    REF(kvops_version) REF(kvops_status_string) REF(kvops_last_error) REF(kvops_get_error)
        REF(kvops_dtype_name) REF(kvops_dtype_size) REF(kvops_query) REF(kvops_call) REF(kvops_ops)
            REF(kvops_device_count) REF(kvops_get_device_info) REF(kvops_malloc) REF(kvops_free)
                REF(kvops_malloc_pinned) REF(kvops_free_pinned) REF(kvops_copy) REF(kvops_fill)
                    REF(kvops_stream_create) REF(kvops_stream_destroy) REF(kvops_stream_synchronize)
                        REF(kvops_parse_kv_cache_dtype) REF(kvops_cpu_attn_has_isa)
                            REF(kvops_is_onednn_acl_supported)};
const unsigned long kvops_num_functions =
    sizeof kvops_every_function / sizeof *kvops_every_function;
