/* The .npy format: a magic number, the length of a header, the header (a Python dictionary with
   descr, fortran_order and shape), the elements. */
#include "npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(char* error, size_t size, const char* path, const char* what) {
  snprintf(error, size, "%s: %s", path, what);
  return -1;
}

static int parse_header(const char* header, npy* a) {
  const char* descr = strstr(header, "'descr': '");
  const char* order = strstr(header, "'fortran_order': False");
  const char* shape = strstr(header, "'shape': (");
  const char* at;
  char* end;
  if (!descr || !order || !shape) return -1;
  descr += strlen("'descr': '");
  if (*descr != '<' && *descr != '|') return -1;
  a->kind = descr[1];
  a->size = (size_t)strtoul(descr + 2, NULL, 10);
  if (!a->size || !strchr("fiuS", a->kind)) return -1;
  a->rank = 0;
  a->count = 1;
  for (at = shape + strlen("'shape': ("); *at && *at != ')'; at = end) {
    int64_t n = strtoll(at, &end, 10);
    if (end == at || n < 0 || a->rank == NPY_MAX_RANK) return -1;
    a->shape[a->rank++] = n;
    a->count *= n;
    while (*end == ',' || *end == ' ') ++end;
  }
  return 0;
}

int npy_read(const char* path, npy* a, char* error, size_t error_size) {
  unsigned char start[12];
  size_t length, body, prefix = 10;
  char* header = NULL;
  int bad = 1;
  FILE* file = fopen(path, "rb");
  memset(a, 0, sizeof *a);
  if (!file) return fail(error, error_size, path, "cannot be opened");
  if (fread(start, 1, 10, file) == 10 && !memcmp(start, "\x93NUMPY", 6) && start[6] <= 2) {
    length = (size_t)start[8] | (size_t)start[9] << 8;
    if (start[6] == 2 && fread(start + 10, 1, 2, file) == 2)
      length |= (size_t)start[10] << 16 | (size_t)start[11] << 24, prefix = 12;
    header = (char*)calloc(length + 1, 1);
    bad = !header || (start[6] == 2 && prefix == 10) || fread(header, 1, length, file) != length ||
          parse_header(header, a);
  }
  if (!bad) {
    body = (size_t)a->count * a->size;
    a->data = (unsigned char*)malloc(body + 1);
    bad = !a->data || fread(a->data, 1, body, file) != body || fgetc(file) != EOF;
  }
  free(header);
  fclose(file);
  if (!bad) return 0;
  npy_free(a);
  return fail(error, error_size, path, "is not a .npy file that this program reads");
}

void npy_free(npy* a) {
  free(a->data);
  a->data = NULL;
}

void npy_string(const npy* a, int64_t i, char* text, size_t size) {
  size_t n = a->size < size - 1 ? a->size : size - 1;
  memcpy(text, a->data + (size_t)i * a->size, n);
  text[n] = 0;
}
