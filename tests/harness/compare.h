/* Compares the elements of a tensor with reference values, by the tolerance of its row. */
#ifndef HARNESS_COMPARE_H_
#define HARNESS_COMPARE_H_

#include "kvcache_ops.h"

typedef struct comparison {
  int64_t wrong; /* elements outside the tolerance */
  int64_t first; /* the first of them */
  double worst;  /* largest error, in units of the row's comparison; 0 when compared exactly */
} comparison;

/* count elements; the last `row` of them belong together, and the `row` before them, ... */
comparison compare_elements(const kvops_arg_info* info, kvops_dtype dtype, const void* got,
                            const void* want, int64_t count, int64_t row);

/* Bit for bit, but for the payload of 16- and 32-bit NaNs. */
comparison compare_bits(kvops_dtype dtype, const void* got, const void* want, int64_t count);

/* The row's comparison in a call with these arguments: rows are sets only as long as an enum of the
   call that has "unordered" as its first value says so. */
kvops_arg_info compared_in(const kvops_op_info* op, const kvops_arg_info* info, const void* args);

/* An element as a number, and one unit in the last place of such a number. */
double element_value(kvops_dtype dtype, const void* element);
double element_ulp(kvops_dtype dtype, double value);

#endif
