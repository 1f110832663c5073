// SPDX-License-Identifier: Apache-2.0
// Process-wide settings: threads of the CPU back end, logging, debugging. None is needed; all take
// effect for calls that start later, from any thread.
#ifndef KVCACHE_OPS_OPTIONS_H_
#define KVCACHE_OPS_OPTIONS_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

// Threads of the CPU back end; 0: as many as the process may use. Results do not depend on it.
KVOPS_API kvops_status kvops_set_num_threads(int64_t threads);

// Runs task(task_context, i) for every i in [0, tasks), in any order, on any threads, and returns
// when all are done. Must not throw or call an operator of this library.
typedef void (*kvops_task)(void* task_context, int64_t i);
typedef void (*kvops_parallel_for)(void* context, int64_t tasks, kvops_task task,
                                   void* task_context);

// Hands the work of the CPU back end to the host's own thread pool; NULL: the library's threads.
KVOPS_API kvops_status kvops_set_parallel_for(kvops_parallel_for function, void* context);

// Receives the lines of KVOPS_DEBUG=log, without a line end; NULL: they go to stderr.
typedef void (*kvops_log)(void* context, const char* line);
KVOPS_API kvops_status kvops_set_log(kvops_log function, void* context);

// What the environment says at load, set later:
//
//   debug    KVOPS_DEBUG    any of bounds, log, sync, separated by commas; "" for none
//            bounds         device-side indices, scales of NVFP4 and the order of slash lists are
//                           checked before the call: the first bad one is INVALID_ARGUMENT,
//                           nothing is written; synchronises
//            log            a line per call
//            sync           every call waits for its device; both are inert during graph capture
//   impl     KVOPS_IMPL     op:name, ...: forces an implementation where an operator has several
//   cpu_isa  KVOPS_CPU_ISA  scalar, sse4, avx2, avx3: forces the CPU's instruction set; "" for best
//   onednn   KVOPS_ONEDNN   path of oneDNN's library, or off; "" for where onednn.h looks
//
// UNSUPPORTED for a name or value that does not exist here; the setting is then unchanged.
KVOPS_API kvops_status kvops_set_option(const char* name, const char* value);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_OPTIONS_H_
