/* The headers as C99, C11, C++17 and C++20, pedantic. One reference to every function of the table:
   a missing one fails the link. */
#include "kvcache_ops.h"

#ifdef KVOPS_TEST_DLPACK
#include <dlpack/dlpack.h>

#include "kvcache_ops/dlpack.h"
kvops_tensor from_dlpack(const DLTensor* t);
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
#define KVOPS_OP(op, ...) (function) kvops_##op,
#define KVOPS_SIZE(op, name, ...) (function) kvops_##name,
extern const function kvops_every_function[];
const function kvops_every_function[] = {
#include "ops.def"
    (function)kvops_version};
