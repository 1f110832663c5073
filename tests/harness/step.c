/* Every tensor has its own buffer with an image of what the buffer must hold. After the call,
   results are compared with the case, put into the image, and then image and buffer must be equal
   to the last byte: gaps between elements, guards, and everything that is only read. */
#include "step.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"

typedef struct run {
  const step* s;
  int number;
  const variant* v;
  const target* t;
  memory* m;
  outcome* o;
  unsigned char* args;
  int used[MAX_ARGS]; /* index of the argument's tensor in memory; -1: absent */
  int untouched;      /* index + 1 of a counter that must stay as it is */
} run;

static int wrong(run* r, const char* arg, const char* format, ...) {
  size_t n;
  va_list list;
  snprintf(r->o->text, sizeof r->o->text, "step %d, %s: %s: ", r->number, r->v->name, arg);
  n = strlen(r->o->text);
  va_start(list, format);
  vsnprintf(r->o->text + n, sizeof r->o->text - n, format, list);
  va_end(list);
  return -1;
}

static int arg_index(const kvops_op_info* op, const char* name) {
  size_t i;
  for (i = 0; i < op->num_args; ++i)
    if (!strcmp(op->args[i]->name, name)) return (int)i;
  return -1;
}

static kvops_tensor* tensor_of(run* r, int arg) {
  return (kvops_tensor*)(void*)(r->args + r->s->op->args[arg]->offset);
}

static int find_placed(const memory* m, const char* name) {
  int i;
  for (i = m->count - 1; i >= 0; --i)
    if (!strcmp(m->items[i].name, name)) return i;
  return -1;
}

/* Pages hold codes and scales in an order of their own: only whole pages may move. */
static const char* shape_of(const run* r, const kvops_arg_info* info, kvops_dtype dtype) {
  char rule[96];
  size_t i;
  if (!info) return "";
  snprintf(rule, sizeof rule, "require %s pages", info->name);
  for (i = 0; i < r->s->op->num_rules && dtype == KVOPS_U8; ++i)
    if (!strcmp(r->s->op->rules[i], rule)) return "blocks block! heads! width!";
  return info->shape;
}

/* How the case wants the tensor to lie in this variant: the text, or NULL. */
static const char* order_of(const run* r, const char* name, int rank, char* text, size_t size) {
  int i;
  for (i = 0; i < r->s->count && r->v->order; ++i) {
    const entry* e = &r->s->entries[i];
    if (strcmp(e->type, "order") || strcmp(e->name, name) || r->v->order > e->array.count) continue;
    npy_string(&e->array, r->v->order - 1, text, size);
    return (int)strlen(text) == rank ? text : NULL;
  }
  return NULL;
}

/* A new buffer with these elements, and the argument that names it. arg -1: no argument. */
static int add(run* r, const char* name, int arg, kvops_dtype dtype, int rank, const int64_t* shape,
               const void* elements) {
  const kvops_arg_info* info = arg < 0 ? NULL : r->s->op->args[arg];
  const kvops_device cpu = {KVOPS_CPU, 0};
  int flags = info ? info->flags : 0;
  int hosted = arg >= 0 && r->v->hosted == arg + 1;
  int host = flags & KVOPS_ARG_HOST || !strncmp(name, "host_", 5);
  int whole = !info || flags & (KVOPS_ARG_SIZED | KVOPS_ARG_ANYWHERE | KVOPS_ARG_PLACE);
  placed* p = &r->m->items[r->m->count];
  kvops_status status;
  char order[16];
  if (r->m->count == MAX_PLACED || strlen(name) >= sizeof p->name)
    return wrong(r, name, "one tensor too many");
  memset(p, 0, sizeof *p);
  strcpy(p->name, name);
  if (place(p, shape_of(r, info, dtype), dtype, rank, shape, elements,
            whole ? LAYOUT_DENSE : r->v->lie, r->v->fill,
            order_of(r, name, rank, order, sizeof order)))
    return wrong(r, name, "no memory");
  ++r->m->count;
  status =
      host ? place_upload(p, cpu, NULL, 0) : place_upload(p, r->t->device, r->t->stream, hosted);
  if (status) return wrong(r, name, "%s", kvops_last_error());
  if (arg >= 0) r->used[arg] = r->m->count - 1, *tensor_of(r, arg) = p->tensor;
  return 0;
}

/* "alias out input": does this variant make them one? Then the index of the other argument. */
static int alias_of(const run* r, int arg) {
  const kvops_op_info* op = r->s->op;
  char written[64], other[64];
  const entry *e, *f;
  if (!r->v->alias) return -1;
  if (sscanf(op->rules[r->v->alias - 1], "alias %63s %63s", written, other) != 2) return -1;
  if (strcmp(written, op->args[arg]->name)) return -1;
  e = find_entry(r->s, written, 1);
  f = find_entry(r->s, other, 0);
  if (!e || !f || find_entry(r->s, written, 0) || e->dtype != f->dtype ||
      e->array.rank != f->array.rank ||
      memcmp(e->array.shape, f->array.shape, sizeof(int64_t) * (size_t)e->array.rank))
    return -1;
  return arg_index(op, other);
}

/* Tensors with elements in the case; then results without any, counters. */
static int add_tensors(run* r) {
  const kvops_op_info* op = r->s->op;
  const int64_t one = 1, start = 5; /* counters grow: they are not set */
  int i;
  for (i = 0; i < r->s->count; ++i) {
    const entry* e = &r->s->entries[i];
    if (!e->dtype || e->expected) continue;
    if (add(r, e->name, arg_index(op, e->name), e->dtype, e->array.rank, e->array.shape,
            e->array.data))
      return -1;
  }
  for (i = 0; i < (int)op->num_args; ++i) {
    const kvops_arg_info* a = op->args[i];
    const entry* e = find_entry(r->s, a->name, 1);
    int alias;
    if (a->kind != KVOPS_ARG_TENSOR || r->used[i] >= 0 || find_entry(r->s, a->name, 0)) continue;
    if (a->flags & KVOPS_ARG_COUNTER && (e || r->v->faults)) {
      if (add(r, a->name, i, KVOPS_I64, 1, &one, &start)) return -1;
      if (!e) r->untouched = r->m->count;
      continue;
    }
    if (a->flags & KVOPS_ARG_PLACE && add(r, a->name, i, KVOPS_U8, 1, &one, NULL)) return -1;
    if (!e || (r->v->bare && a->flags & KVOPS_ARG_OPTIONAL)) continue;
    alias = alias_of(r, i);
    if (alias >= 0) {
      r->used[i] = r->used[alias], *tensor_of(r, i) = *tensor_of(r, alias);
    } else if (add(r, a->name, i, e->dtype, e->array.rank, e->array.shape, NULL)) {
      return -1;
    }
  }
  return 0;
}

/* "name+offset" -> an address on the side of the call. */
static int resolve(run* r, const char* text, int64_t* address) {
  char name[64];
  long long offset;
  int i;
  if (sscanf(text, "%63[^+]+%lld", name, &offset) != 2) return -1;
  i = find_placed(r->m, name);
  if (i < 0) return -1;
  *address = (int64_t)(uintptr_t)r->m->items[i].tensor.data + offset;
  return 0;
}

static int add_addresses(run* r, const entry* e, int arg) {
  int64_t i, *list = (int64_t*)calloc((size_t)e->array.count + 1, sizeof(int64_t));
  int bad = list ? 0 : -1;
  for (i = 0; !bad && i < e->array.count; ++i) {
    char text[128];
    npy_string(&e->array, i, text, sizeof text);
    if (resolve(r, text, &list[i])) bad = wrong(r, e->name, "%s is no address", text);
  }
  if (!bad) bad = add(r, e->name, arg, KVOPS_I64, e->array.rank, e->array.shape, list);
  free(list);
  return bad;
}

static int set_number(run* r, const entry* e, int arg) {
  const kvops_arg_info* a = r->s->op->args[arg];
  int64_t i;
  double d;
  memcpy(&i, e->array.data, sizeof i);
  memcpy(&d, e->array.data, sizeof d);
  if (a->kind == KVOPS_ARG_REAL && e->array.kind == 'i') d = (double)i;
  if (a->kind == KVOPS_ARG_TENSOR || (a->kind == KVOPS_ARG_INT && e->array.kind != 'i'))
    return wrong(r, e->name, "a number of another kind");
  if (a->kind == KVOPS_ARG_REAL)
    memcpy(r->args + a->offset, &d, sizeof d);
  else
    memcpy(r->args + a->offset, &i, sizeof i);
  return 0;
}

static int add_rest(run* r) {
  int i;
  for (i = 0; i < r->s->count; ++i) {
    const entry* e = &r->s->entries[i];
    int arg = arg_index(r->s->op, e->name);
    if (e->dtype || e->expected || !strcmp(e->type, "order")) continue;
    if (arg < 0) return wrong(r, e->name, "is no argument");
    if (!strcmp(e->type, "of")) {
      char name[64];
      npy_string(&e->array, 0, name, sizeof name);
      r->used[arg] = find_placed(r->m, name);
      if (r->used[arg] < 0) return wrong(r, e->name, "no tensor %s before", name);
      *tensor_of(r, arg) = r->m->items[r->used[arg]].tensor;
    } else if (!strcmp(e->type, "address")) {
      if (add_addresses(r, e, arg)) return -1;
    } else if (set_number(r, e, arg)) {
      return -1;
    }
  }
  return 0;
}

/* As many bytes as kvops_query() asks for, and no more. */
static int add_workspace(run* r) {
  const kvops_op_info* op = r->s->op;
  kvops_query_result q = {sizeof q, 0, NULL, 0, 0};
  int i;
  for (i = 0; i < (int)op->num_args; ++i) {
    const kvops_arg_info* a = op->args[i];
    if (a->kind != KVOPS_ARG_TENSOR || !(a->flags & KVOPS_ARG_SIZED) || r->used[i] >= 0) continue;
    if (a->flags & KVOPS_ARG_OPTIONAL && !r->v->workspace) continue;
    if (kvops_query(op->name, r->args, &q) || !q.bytes) continue;
    if (add(r, a->name, i, KVOPS_U8, 1, &q.bytes, NULL)) return -1;
  }
  return 0;
}

/* The expected text, or NULL. */
static const char* expected_text(const run* r, const char* name, char* text, size_t size) {
  const entry* e = find_entry(r->s, name, 1);
  if (!e || e->dtype) return NULL;
  npy_string(&e->array, 0, text, size);
  return text;
}

static int make_call(run* r, int* failed) {
  const char* op = r->s->op->name;
  char want[64], message[512];
  const char* status = expected_text(r, "status", want, sizeof want);
  const char* text = expected_text(r, "message", message, sizeof message);
  unsigned char* before = (unsigned char*)malloc(r->s->op->args_size);
  kvops_status got, query = kvops_query(op, r->args, NULL);
  int touched;
  if (!before) return wrong(r, op, "no memory");
  memcpy(before, r->args, r->s->op->args_size);
  got = kvops_call(op, r->args);
  touched = memcmp(before, r->args, r->s->op->args_size);
  free(before);
  ++r->o->calls;
  *failed = got != KVOPS_OK;
  if (touched) return wrong(r, op, "changed its arguments");
  if (strcmp(kvops_status_string(got), status ? status : "KVOPS_OK"))
    return wrong(r, op, "%s, expected %s (%s)", kvops_status_string(got),
                 status ? status : "KVOPS_OK", got ? kvops_last_error() : "");
  if (!got && query) return wrong(r, op, "kvops_query() says %s", kvops_status_string(query));
  if (text && strncmp(kvops_last_error(), text, strlen(text)))
    return wrong(r, op, "\"%s\", expected \"%s\"", kvops_last_error(), text);
  got = kvops_stream_synchronize(r->t->device, r->t->stream);
  return got ? wrong(r, op, "%s", kvops_last_error()) : 0;
}

static void describe(const placed* p, const void* got, const entry* e, int64_t i, char* text,
                     size_t size) {
  const char* x = (const char*)got + i * p->size;
  const char* w = (const char*)e->array.data + i * p->size;
  snprintf(text, size, "element %lld is %.9g, expected %.9g", (long long)i,
           element_value(p->tensor.dtype, x), element_value(p->tensor.dtype, w));
}

/* The results of one written tensor: info is NULL for memory that is no argument. */
static int check_result(run* r, const placed* p, int arg, const void* got, results* kept) {
  static const kvops_arg_info exact = {"", 0, 0, 0, 0, "", "", KVOPS_COMPARE_EXACT, 0, 0};
  const kvops_arg_info in_call =
      arg < 0 ? exact : compared_in(r->s->op, r->s->op->args[arg], r->args);
  const kvops_arg_info* info = &in_call;
  const char* name = arg < 0 ? p->name : info->name;
  const entry* e = find_entry(r->s, name, 1);
  int64_t row = p->tensor.rank ? p->tensor.shape[p->tensor.rank - 1] : 1;
  comparison c;
  char text[160];
  if (info->compare == KVOPS_COMPARE_SCRATCH || !p->count) return 0;
  if (!e) return wrong(r, name, "is written, but the case does not say with what");
  if (e->dtype != p->tensor.dtype || e->array.count != p->count)
    return wrong(r, name, "is expected to have another dtype or shape");
  c = compare_elements(info, p->tensor.dtype, got, e->array.data, p->count, row);
  if (c.worst > r->o->worst) r->o->worst = c.worst, r->o->worst_arg = name;
  if (c.wrong) {
    describe(p, got, e, c.first, text, sizeof text);
    return wrong(r, name, "%lld of %lld elements are off, the worst by %g ulp; %s",
                 (long long)c.wrong, (long long)p->count, c.worst, text);
  }
  if (!kept || arg < 0 || info->compare == KVOPS_COMPARE_SET) return 0;
  if (!kept->bytes[r->number][arg]) {
    unsigned char* copy = (unsigned char*)malloc((size_t)(p->count * p->size));
    if (copy) memcpy(copy, got, (size_t)(p->count * p->size));
    kept->bytes[r->number][arg] = copy;
    return 0;
  }
  c = compare_bits(p->tensor.dtype, got, kept->bytes[r->number][arg], p->count);
  if (c.wrong)
    return wrong(r, name, "%lld elements have other bits than in the first variant, from %lld on",
                 (long long)c.wrong, (long long)c.first);
  return 0;
}

/* The written argument that lives in item i of memory; -2: nothing of it may change, -1: memory
   that is no argument, with an expected value. */
static int writer_of(const run* r, int i) {
  const kvops_op_info* op = r->s->op;
  int a;
  for (a = 0; a < (int)op->num_args; ++a)
    if (r->used[a] == i && op->args[a]->flags & KVOPS_ARG_WRITTEN) return a;
  if (arg_index(op, r->m->items[i].name) < 0 && find_entry(r->s, r->m->items[i].name, 1)) return -1;
  return -2;
}

static int check_item(run* r, int i, int failed, results* kept) {
  placed* p = &r->m->items[i];
  unsigned char* image = place_download(p);
  void* got = malloc((size_t)(p->count * p->size) + 1);
  int writer = writer_of(r, i), bad = 0;
  int64_t at;
  if (!image || !got) {
    bad = wrong(r, p->name, "cannot be read back: %s", kvops_last_error());
  } else if (!failed && writer > -2 && r->untouched != i + 1) {
    place_gather(p, image, got);
    bad = check_result(r, p, writer, got, kept);
    place_scatter(p, p->image, got);
  }
  for (at = 0; !bad && at < p->bytes; ++at)
    if (image[at] != p->image[at])
      bad = wrong(r, p->name, "a stray write, %lld bytes from its first element (%s)",
                  (long long)(at - p->offset), writer > -2 ? "it is written" : "it is only read");
  free(got);
  free(image);
  return bad;
}

int step_run(const step* s, int number, const variant* v, const target* t, memory* m, results* kept,
             outcome* o) {
  run r = {s, number, v, t, m, o, NULL, {0}, 0};
  int i, failed = 0, bad;
  if (s->op->num_args > MAX_ARGS) return wrong(&r, s->op->name, "has too many arguments");
  for (i = 0; i < MAX_ARGS; ++i) r.used[i] = -1;
  r.args = (unsigned char*)calloc(1, s->op->args_size);
  if (!r.args) return wrong(&r, s->op->name, "no memory");
  memcpy(r.args, &s->op->args_size, sizeof s->op->args_size);
  bad = add_tensors(&r) || add_rest(&r) || add_workspace(&r) || make_call(&r, &failed);
  for (i = 0; !bad && i < m->count; ++i) bad = check_item(&r, i, failed, kept);
  free(r.args);
  return bad ? -1 : 0;
}

void memory_release(memory* m) {
  while (m->count > 0) place_release(&m->items[--m->count]);
}
