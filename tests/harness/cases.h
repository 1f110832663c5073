/* Golden cases on disk: tests/golden/<op>/<case>/. The format: docs/testing.md. */
#ifndef HARNESS_CASES_H_
#define HARNESS_CASES_H_

#include "kvcache_ops.h"
#include "npy.h"

enum { MAX_ENTRIES = 48, MAX_STEPS = 32 };

/* One file: "<name>[.expected][.<type>].npy"; type: a dtype, "of", "address"; "": a number. */
typedef struct entry {
  char name[64];
  char type[16];
  int expected;
  kvops_dtype dtype; /* 0: type is not a dtype */
  npy array;
} entry;

typedef struct step {
  const kvops_op_info* op;
  entry entries[MAX_ENTRIES];
  int count;
} step;

typedef struct golden_case {
  step* steps;
  int num_steps;
} golden_case;

/* 0, or -1 with the reason in `error`. */
int case_load(const char* folder, const char* op, golden_case* c, char* error, size_t size);
void case_free(golden_case* c);

const kvops_op_info* find_op(const char* name);
/* NULL: the step has no such file. */
const entry* find_entry(const step* s, const char* name, int expected);

/* Names in a folder, sorted, without "." and "..": free() each and the list. -1: no such folder. */
int list_folder(const char* folder, char*** names);
void free_list(char** names, int count);

#endif
