/* One call of a golden case: build the arguments, call, look at every byte. */
#ifndef HARNESS_STEP_H_
#define HARNESS_STEP_H_

#include "cases.h"
#include "place.h"

enum { MAX_ARGS = 40, MAX_PLACED = 160 };

/* One way to make the same calls. All give the same bits, unless the workspace differs. */
typedef struct variant {
  const char* name;
  layout lie;
  int fill;       /* byte of the garbage */
  int alias;      /* 1 + number of the "alias" rule whose tensors are one; 0: none */
  int workspace;  /* 0: an optional one is absent */
  int bare;       /* 1: optional results are absent */
  int faults;     /* 1: a counter is passed even if the case has none; it must stay 0 */
  int hosted;     /* 1 + number of the argument that may lie in CPU memory and does; 0: none */
  int own_stream; /* 1: on a stream of its own */
  int threads;    /* of the CPU back end; 0: all */
  int order;      /* 1 + index of the texts of <name>.order that say how tensors lie; 0: none */
} variant;

typedef struct target {
  kvops_device device;
  void* stream;
} target;

/* All tensors of a case, and what came out of its first variant. */
typedef struct memory {
  placed items[MAX_PLACED];
  int count;
} memory;
typedef struct results {
  unsigned char* bytes[MAX_STEPS][MAX_ARGS];
} results;

typedef struct outcome {
  int calls;
  double worst;
  const char* worst_arg;
  char text[512]; /* "": as expected */
} outcome;

/* 0, or -1 with outcome->text set. kept: NULL when the bits are not comparable. */
int step_run(const step* s, int number, const variant* v, const target* t, memory* m, results* kept,
             outcome* o);
void memory_release(memory* m);

#endif
