/* Elements are compared as numbers in units of the expected value's last place, or as bits.
   NaN equals NaN when the dtype has 16 or 32 bits; the one code of an 8-bit NaN is exact.
   Infinities and the values of integers equal only themselves. */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct format {
  int mantissa, bias, fnuz;
} format;

static int format_of(kvops_dtype dtype, format* f) {
  static const format formats[] = {{0, 0, 0}, {23, 127, 0}, {10, 15, 0}, {7, 127, 0},
                                   {3, 7, 0}, {2, 15, 0},   {3, 8, 1},   {2, 16, 1}};
  if (dtype < KVOPS_F32 || dtype > KVOPS_F8_E5M2FNUZ) return 0;
  *f = formats[dtype];
  return 1;
}

static uint64_t bits_of(int64_t size, const void* element) {
  uint64_t bits = 0;
  memcpy(&bits, element, (size_t)size);
  return bits;
}

double element_value(kvops_dtype dtype, const void* element) {
  int64_t size = kvops_dtype_size(dtype);
  uint64_t bits = bits_of(size, element), magnitude, sign;
  int exponent;
  double value;
  format f;
  if (dtype == KVOPS_I64) return (double)(int64_t)bits;
  if (dtype == KVOPS_I32) return (double)(int32_t)bits;
  if (dtype == KVOPS_I8) return (double)(int8_t)bits;
  if (!format_of(dtype, &f)) return (double)bits;
  sign = bits >> (size * 8 - 1);
  magnitude = bits & ((1ULL << (size * 8 - 1)) - 1);
  if (f.fnuz && bits == 0x80) return NAN;
  if (dtype == KVOPS_F8_E4M3 && magnitude == 0x7f) return NAN;
  exponent = (int)(magnitude >> f.mantissa);
  if (!f.fnuz && dtype != KVOPS_F8_E4M3 && (magnitude >> f.mantissa) == 2U * (unsigned)f.bias + 1) {
    value = (magnitude & ((1ULL << f.mantissa) - 1)) ? NAN : INFINITY;
  } else {
    uint64_t steps = (magnitude & ((1ULL << f.mantissa) - 1)) | (exponent ? 1ULL << f.mantissa : 0);
    value = ldexp((double)steps, (exponent ? exponent : 1) - f.bias - f.mantissa);
  }
  return sign ? -value : value;
}

double element_ulp(kvops_dtype dtype, double value) {
  format f;
  int exponent;
  if (!format_of(dtype, &f)) return 1;
  if (isnan(value) || isinf(value)) return 0;
  frexp(value, &exponent); /* |value| = m * 2^exponent, m in [0.5, 1) */
  if (value == 0 || exponent - 1 < 1 - f.bias) exponent = 2 - f.bias;
  return ldexp(1, exponent - 1 - f.mantissa);
}

static void count_wrong(comparison* c, int64_t i) {
  if (!c->wrong++) c->first = i;
}

static int same_bits(kvops_dtype dtype, int64_t size, const char* got, const char* want) {
  if (!memcmp(got, want, (size_t)size)) return 1;
  return dtype >= KVOPS_F32 && dtype <= KVOPS_BF16 && isnan(element_value(dtype, got)) &&
         isnan(element_value(dtype, want));
}

comparison compare_bits(kvops_dtype dtype, const void* got, const void* want, int64_t count) {
  comparison c = {0, -1, 0};
  int64_t i, size = kvops_dtype_size(dtype);
  for (i = 0; i < count; ++i)
    if (!same_bits(dtype, size, (const char*)got + i * size, (const char*)want + i * size))
      count_wrong(&c, i);
  return c;
}

/* least: what an ulp is at least, in a row whose largest element this is a part of. */
static void compare_near(comparison* c, double tolerance, kvops_dtype dtype, const char* got,
                         const char* want, int64_t i, double least) {
  double x = element_value(dtype, got), w = element_value(dtype, want), unit, error;
  if (isnan(w) || isinf(w)) {
    if (!(isnan(w) ? isnan(x) : x == w)) count_wrong(c, i);
    return;
  }
  unit = fmax(element_ulp(dtype, w), least);
  error = fabs(x - w) / unit;
  if (!(error <= tolerance)) count_wrong(c, i);
  if (!isnan(error) && error > c->worst) c->worst = error;
}

static double largest(kvops_dtype dtype, const char* want, int64_t row, int64_t size) {
  double top = 0;
  int64_t i;
  for (i = 0; i < row; ++i) {
    double w = fabs(element_value(dtype, want + i * size));
    if (w > top && !isinf(w)) top = w;
  }
  return top;
}

static int by_value(const void* a, const void* b) {
  uint64_t x, y;
  memcpy(&x, a, sizeof x);
  memcpy(&y, b, sizeof y);
  return x < y ? -1 : x > y;
}

/* Do the two rows hold the same elements, in any order? */
static int same_set(const char* got, const char* want, int64_t row, int64_t size) {
  uint64_t* both = (uint64_t*)malloc(2 * (size_t)row * sizeof(uint64_t) + 1);
  int64_t i;
  int same;
  if (!both) return 0;
  for (i = 0; i < row; ++i) {
    both[i] = bits_of(size, got + i * size);
    both[row + i] = bits_of(size, want + i * size);
  }
  qsort(both, (size_t)row, sizeof *both, by_value);
  qsort(both + row, (size_t)row, sizeof *both, by_value);
  same = !memcmp(both, both + row, (size_t)row * sizeof *both);
  free(both);
  return same;
}

comparison compare_elements(const kvops_arg_info* info, kvops_dtype dtype, const void* got,
                            const void* want, int64_t count, int64_t row) {
  comparison c = {0, -1, 0};
  int64_t size = kvops_dtype_size(dtype), i, j;
  double tolerance = size > 2 ? info->tolerance_f32 : info->tolerance_narrow;
  const char *x = (const char*)got, *w = (const char*)want;
  format f;
  if (info->compare == KVOPS_COMPARE_SCRATCH) return c;
  if (info->compare == KVOPS_COMPARE_EXACT) return compare_bits(dtype, got, want, count);
  for (i = 0; row > 0 && i < count; i += row) {
    double least = 0;
    if (info->compare == KVOPS_COMPARE_SET) {
      if (!same_set(x + i * size, w + i * size, row, size)) count_wrong(&c, i);
      continue;
    }
    if (info->compare == KVOPS_COMPARE_ROWS && tolerance > 0 && format_of(dtype, &f))
      least = ldexp(largest(dtype, w + i * size, row, size), -23) * info->tolerance_f32 / tolerance;
    for (j = i; j < i + row; ++j)
      compare_near(&c, tolerance, dtype, x + j * size, w + j * size, j, least);
  }
  return c;
}

kvops_arg_info compared_in(const kvops_op_info* op, const kvops_arg_info* info, const void* args) {
  kvops_arg_info result = *info;
  size_t i;
  for (i = 0; info->compare == KVOPS_COMPARE_SET && i < op->num_args; ++i) {
    const kvops_arg_info* a = op->args[i];
    int64_t value;
    if (a->kind != KVOPS_ARG_INT || strncmp(a->shape, "unordered", 9)) continue;
    memcpy(&value, (const char*)args + a->offset, sizeof value);
    if (value) result.compare = KVOPS_COMPARE_EXACT;
  }
  return result;
}
