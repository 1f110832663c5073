/* golden [--json] [--device cpu|cuda|hip] [-q] FOLDER [op [case]]
   Runs the golden cases in FOLDER and lists operator, case, back end, device, worst error. */
#include "golden.h"

#include <stdio.h>
#include <string.h>

typedef struct totals {
  int json, quiet, passed, failed, skipped, calls;
} totals;

static void print_text(const char* text) {
  for (; *text; ++text) {
    if (*text == '"' || *text == '\\') putchar('\\');
    putchar((unsigned char)*text < ' ' ? ' ' : *text);
  }
}

static void print_json(const golden_result* r, int first) {
  static const char* const outcomes[] = {"passed", "failed", "skipped"};
  printf("%s\n  {\"op\": \"%s\", \"case\": \"%s\", \"backend\": \"%s\", \"device\": \"%s\", ",
         first ? "" : ",", r->op, r->name, r->backend, r->device);
  printf("\"outcome\": \"%s\", \"calls\": %d, \"worst\": %.4g, \"argument\": \"%s\", \"text\": \"",
         outcomes[r->outcome], r->calls, r->worst, r->worst_arg);
  print_text(r->text);
  printf("\"}");
}

static void report(void* context, const golden_result* r) {
  totals* t = (totals*)context;
  int first = t->passed + t->failed + t->skipped == 0;
  t->passed += r->outcome == GOLDEN_PASSED;
  t->failed += r->outcome == GOLDEN_FAILED;
  t->skipped += r->outcome == GOLDEN_SKIPPED;
  t->calls += r->calls;
  if (t->json) {
    print_json(r, first);
  } else if (r->outcome == GOLDEN_FAILED) {
    printf("%-28s %-32s %-4s %-8s FAILED: %s\n", r->op, r->name, r->backend, r->device, r->text);
  } else if (r->outcome == GOLDEN_SKIPPED) {
    if (!t->quiet) printf("%-28s %-32s %-4s skipped: %s\n", r->op, r->name, r->backend, r->text);
  } else if (!t->quiet) {
    printf("%-28s %-32s %-4s %-8s %2d calls, worst %.3g%s%s\n", r->op, r->name, r->backend,
           r->device, r->calls, r->worst, *r->worst_arg ? " ulp, " : "", r->worst_arg);
  }
}

int main(int argc, char** argv) {
  totals t = {0, 0, 0, 0, 0, 0};
  golden_options o = {NULL, NULL, NULL, 0, report, &t};
  int i, failures;
  for (i = 1; i < argc; ++i) {
    if (!strcmp(argv[i], "--json")) {
      t.json = 1;
    } else if (!strcmp(argv[i], "-q")) {
      t.quiet = 1;
    } else if (!strcmp(argv[i], "--device") && i + 1 < argc) {
      ++i;
      o.device_type = !strcmp(argv[i], "cuda")  ? KVOPS_CUDA
                      : !strcmp(argv[i], "hip") ? KVOPS_HIP
                                                : KVOPS_CPU;
    } else {
      *(!o.root ? &o.root : !o.op ? &o.op : &o.name) = argv[i];
    }
  }
  if (!o.root) {
    fprintf(stderr, "usage: golden [--json] [--device cpu|cuda|hip] [-q] FOLDER [op [case]]\n");
    return 2;
  }
  if (t.json) printf("[");
  failures = golden_run(&o);
  if (t.json) printf("\n]\n");
  if (failures < 0) fprintf(stderr, "no such case in %s\n", o.root);
  if (!t.json)
    printf("%d passed, %d failed, %d skipped; %d calls\n", t.passed, t.failed, t.skipped, t.calls);
  return failures != 0;
}
