// Operators that only the tests have. test_grown has had two releases: the second one appended
// `extra` and `flag`.
#pragma once
#include "kvcache_ops.h"

typedef struct kvops_test_grown_args {
  size_t struct_size;
  kvops_tensor input;
  kvops_tensor out;
  double alpha;
  kvops_tensor extra;
  int64_t flag;
} kvops_test_grown_args;
