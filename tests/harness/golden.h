/* Runs golden cases over the public API: each on every device and CPU instruction set that is
   here, with several placements of its tensors. Used by tests/golden.c and `kvops verify`. */
#ifndef HARNESS_GOLDEN_H_
#define HARNESS_GOLDEN_H_

#include "kvcache_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GOLDEN_PASSED = 0, GOLDEN_FAILED = 1, GOLDEN_SKIPPED = 2 };

typedef struct golden_result {
  const char* op;
  const char* name;    /* of the case */
  const char* backend; /* "cpu", "cuda", "hip" */
  const char* device;  /* "avx2", "NVIDIA H200" */
  int outcome;         /* GOLDEN_PASSED, ... */
  int calls;
  double worst;          /* largest error in units of the row's comparison */
  const char* worst_arg; /* where; "" when everything was exact */
  const char* text;      /* why it failed or was skipped */
} golden_result;

typedef struct golden_options {
  const char* root;    /* folder of <op>/<case>/ */
  const char* op;      /* NULL: all */
  const char* name;    /* of one case; NULL: all */
  int32_t device_type; /* KVOPS_CPU, ...; 0: all that are here */
  void (*report)(void* context, const golden_result* result);
  void* context;
} golden_options;

/* Number of failures; -1: there is no case like that. A case whose operator a back end does not
   have is skipped. Sets the options cpu_isa and threads, and leaves them at their defaults; under
   KVOPS_CPU_ISA only that instruction set runs. */
int golden_run(const golden_options* options);

#ifdef __cplusplus
}
#endif

#endif
