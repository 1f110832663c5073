/* Which cases, on which devices, in which variants. */
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "step.h"

enum { MAX_VARIANTS = 48 };

/* What every case goes through. 0xff is NaN in all float dtypes but fnuz, 0x80 in those. */
static const variant basic[] = {
    /* name       layout           fill alias workspace bare faults hosted stream threads order */
    {"dense", LAYOUT_DENSE, 0xff, 0, 1, 0, 0, 0, 0, 0, 0},
    {"padded", LAYOUT_PADDED, 0xff, 0, 1, 0, 1, 0, 1, 1, 0},
    {"permuted", LAYOUT_PERMUTED, 0x80, 0, 1, 0, 1, 0, 0, 3, 0},
    {"negative strides", LAYOUT_NEGATIVE, 0xa5, 0, 1, 0, 1, 0, 0, 0, 0},
    {"without optional results", LAYOUT_DENSE, 0xa5, 0, 1, 1, 0, 0, 0, 0, 0},
    {"without workspace", LAYOUT_DENSE, 0xff, 0, 0, 0, 0, 0, 0, 0, 0},
};

static int has(const kvops_op_info* op, int flags) {
  size_t i;
  for (i = 0; i < op->num_args; ++i)
    if (op->args[i]->kind == KVOPS_ARG_TENSOR && (op->args[i]->flags & flags) == flags) return 1;
  return 0;
}

static int num_orders(const golden_case* c) {
  int i, j, most = 0;
  for (i = 0; i < c->num_steps; ++i)
    for (j = 0; j < c->steps[i].count; ++j)
      if (!strcmp(c->steps[i].entries[j].type, "order") &&
          c->steps[i].entries[j].array.count > most)
        most = (int)c->steps[i].entries[j].array.count;
  return most;
}

static int list_variants(const golden_case* c, kvops_device device, variant* list) {
  const kvops_op_info* op = c->steps[0].op;
  int n = 0, i;
  for (i = 0; i < (int)(sizeof basic / sizeof *basic); ++i) {
    if (basic[i].bare && (c->num_steps > 1 || !has(op, KVOPS_ARG_WRITTEN | KVOPS_ARG_OPTIONAL)))
      continue;
    if (!basic[i].workspace && !has(op, KVOPS_ARG_SIZED | KVOPS_ARG_OPTIONAL)) continue;
    list[n++] = basic[i];
  }
  for (i = 0; i < (int)op->num_rules && n < MAX_VARIANTS && c->num_steps == 1; ++i) {
    if (strncmp(op->rules[i], "alias ", 6)) continue;
    list[n] = basic[0];
    list[n].name = "in place";
    list[n++].alias = i + 1;
  }
  for (i = 0; i < (int)op->num_args && n < MAX_VARIANTS && device.type != KVOPS_CPU; ++i) {
    if (op->args[i]->kind != KVOPS_ARG_TENSOR || !(op->args[i]->flags & KVOPS_ARG_ANYWHERE))
      continue;
    list[n] = basic[0];
    list[n].name = "one side in pinned memory";
    list[n++].hosted = i + 1;
  }
  for (i = 0; i < num_orders(c) && n < MAX_VARIANTS; ++i) {
    list[n] = basic[0];
    list[n].name = "in another order";
    list[n++].order = i + 1;
  }
  return n;
}

static int run_variant(const golden_case* c, const variant* v, target t, results* kept,
                       outcome* o) {
  memory* m = (memory*)calloc(1, sizeof *m);
  int i, bad = 0;
  if (!m || (v->own_stream && kvops_stream_create(t.device, &t.stream))) {
    snprintf(o->text, sizeof o->text, "no memory, or no stream");
    free(m);
    return -1;
  }
  kvops_set_num_threads(v->threads);
  for (i = 0; i < c->num_steps && !bad; ++i)
    bad = step_run(&c->steps[i], i, v, &t, m, v->workspace ? kept : NULL, o);
  kvops_set_num_threads(0);
  memory_release(m);
  free(m);
  if (v->own_stream) kvops_stream_destroy(t.device, t.stream);
  return bad;
}

static void run_case(const golden_case* c, kvops_device device, golden_result* r) {
  variant list[MAX_VARIANTS];
  results* kept = (results*)calloc(1, sizeof *kept);
  outcome o = {0, 0, "", ""};
  target t;
  int i, j, n = list_variants(c, device, list), bad = kept == NULL;
  static char text[sizeof o.text];
  t.device = device;
  t.stream = NULL;
  for (i = 0; i < n && !bad; ++i) bad = run_variant(c, &list[i], t, kept, &o);
  for (i = 0; kept && i < MAX_STEPS; ++i)
    for (j = 0; j < MAX_ARGS; ++j) free(kept->bytes[i][j]);
  free(kept);
  strcpy(text, o.text);
  r->outcome = bad ? GOLDEN_FAILED : GOLDEN_PASSED;
  r->calls = o.calls;
  r->worst = o.worst;
  r->worst_arg = o.worst_arg;
  r->text = text;
}

/* Does the back end have every operator of the case? */
static int exists(const golden_case* c, int32_t type) {
  int i;
  for (i = 0; i < c->num_steps; ++i)
    if (!(c->steps[i].op->backends >> type & 1)) return 0;
  return 1;
}

static int report(const golden_options* o, golden_result* r, int outcome, const char* text) {
  r->outcome = outcome;
  r->text = text;
  o->report(o->context, r);
  return outcome == GOLDEN_FAILED;
}

/* On the CPU once per instruction set; a case that a device lacks is skipped there. */
static int run_on(const golden_options* o, const golden_case* c, int32_t type, golden_result* r) {
  static const char* const isas[] = {"scalar", "sse4", "avx2", "avx3"};
  kvops_device device = {type, 0};
  kvops_device_info info;
  int i, failures = 0, forced = getenv("KVOPS_CPU_ISA") != NULL;
  if (!exists(c, type)) return report(o, r, GOLDEN_SKIPPED, "this back end has no such operator");
  for (i = 0; i < (type == KVOPS_CPU && !forced ? 4 : 1); ++i) {
    if (type == KVOPS_CPU && !forced && kvops_set_option("cpu_isa", isas[i])) continue;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    if (kvops_get_device_info(device, &info))
      return report(o, r, GOLDEN_FAILED, kvops_last_error());
    r->device = type == KVOPS_CPU ? info.arch : info.name;
    run_case(c, device, r);
    failures += report(o, r, r->outcome, r->text);
  }
  if (type == KVOPS_CPU && !forced) kvops_set_option("cpu_isa", "");
  return failures;
}

static int run_folder(const golden_options* o, const char* op, const char* name) {
  static const int32_t types[] = {KVOPS_CPU, KVOPS_CUDA, KVOPS_HIP};
  static const char* const names[] = {"cpu", "cuda", "hip"};
  char folder[1024], error[512];
  golden_case c;
  golden_result r = {op, name, "", "", 0, 0, 0, "", ""};
  int i, failures = 0;
  snprintf(folder, sizeof folder, "%s/%s/%s", o->root, op, name);
  if (case_load(folder, op, &c, error, sizeof error)) {
    failures = report(o, &r, GOLDEN_FAILED, error);
  } else {
    for (i = 0; i < 3; ++i) {
      int32_t count = 0;
      if (o->device_type && o->device_type != types[i]) continue;
      if (kvops_device_count(types[i], &count) || !count) continue;
      r.backend = names[i];
      r.device = "";
      r.calls = 0;
      r.worst = 0;
      failures += run_on(o, &c, types[i], &r);
    }
  }
  case_free(&c);
  return failures;
}

int golden_run(const golden_options* o) {
  char **ops, **names;
  int i, j, found = 0, failures = 0, num_ops = list_folder(o->root, &ops);
  for (i = 0; i < num_ops; ++i) {
    char folder[1024];
    int count;
    if (!strcmp(ops[i], "generate") || (o->op && strcmp(o->op, ops[i]))) continue;
    snprintf(folder, sizeof folder, "%s/%s", o->root, ops[i]);
    count = list_folder(folder, &names);
    for (j = 0; j < count; ++j) {
      if (o->name && strcmp(o->name, names[j])) continue;
      ++found;
      failures += run_folder(o, ops[i], names[j]);
    }
    if (count >= 0) free_list(names, count);
  }
  if (num_ops >= 0) free_list(ops, num_ops);
  return found ? failures : -1;
}
