/* Reads .npy files, version 1 and 2, little endian, C order. */
#ifndef HARNESS_NPY_H_
#define HARNESS_NPY_H_

#include <stddef.h>
#include <stdint.h>

enum { NPY_MAX_RANK = 8 };

typedef struct npy {
  char kind;   /* 'f', 'i', 'u', 'S' */
  size_t size; /* bytes of an element */
  int rank;
  int64_t shape[NPY_MAX_RANK];
  int64_t count;
  unsigned char* data;
} npy;

/* 0, or -1 with the reason in `error`. npy_free() releases what was read. */
int npy_read(const char* path, npy* array, char* error, size_t error_size);
void npy_free(npy* array);

/* Element i of an 'S' array as a string of at most size - 1 characters. */
void npy_string(const npy* array, int64_t i, char* text, size_t size);

#endif
