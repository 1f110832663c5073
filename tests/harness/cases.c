/* A case is a folder of .npy files, or of numbered folders of them: the calls of a sequence. */
#include "cases.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const kvops_op_info* find_op(const char* name) {
  size_t count, i;
  const kvops_op_info* const* ops = kvops_ops(&count);
  for (i = 0; i < count; ++i)
    if (!strcmp(ops[i]->name, name)) return ops[i];
  return NULL;
}

const entry* find_entry(const step* s, const char* name, int expected) {
  int i;
  for (i = 0; i < s->count; ++i)
    if (s->entries[i].expected == expected && !strcmp(s->entries[i].name, name))
      return &s->entries[i];
  return NULL;
}

/* Numbers by value, so that step 10 follows step 9; anything else by name. */
static int by_name(const void* a, const void* b) {
  const char *x = *(char*const*)a, *y = *(char*const*)b;
  if (isdigit((unsigned char)*x) && isdigit((unsigned char)*y)) {
    long m = strtol(x, NULL, 10), n = strtol(y, NULL, 10);
    if (m != n) return m < n ? -1 : 1;
  }
  return strcmp(x, y);
}

int list_folder(const char* folder, char*** names) {
  DIR* dir = opendir(folder);
  struct dirent* item;
  int count = 0;
  *names = NULL;
  if (!dir) return -1;
  while ((item = readdir(dir)) != NULL) {
    char** grown;
    if (item->d_name[0] == '.') continue;
    grown = (char**)realloc(*names, (size_t)(count + 1) * sizeof(char*));
    if (!grown) break;
    *names = grown;
    grown[count] = (char*)malloc(strlen(item->d_name) + 1);
    if (!grown[count]) break;
    strcpy(grown[count++], item->d_name);
  }
  closedir(dir);
  if (count) qsort(*names, (size_t)count, sizeof(char*), by_name);
  return count;
}

void free_list(char** names, int count) {
  while (count > 0) free(names[--count]);
  free(names);
}

static kvops_dtype dtype_named(const char* name) {
  kvops_dtype d;
  for (d = 1; kvops_dtype_size(d); ++d)
    if (!strcmp(kvops_dtype_name(d), name)) return d;
  return 0;
}

/* "out.expected.bf16.npy" -> name, expected, type. */
static int parse_name(const char* file, entry* e) {
  char text[160], *part;
  size_t n = strlen(file);
  memset(e, 0, sizeof *e);
  if (n < 5 || n > sizeof text || strcmp(file + n - 4, ".npy")) return -1;
  memcpy(text, file, n - 4);
  text[n - 4] = 0;
  part = strtok(text, ".");
  if (!part || strlen(part) >= sizeof e->name) return -1;
  strcpy(e->name, part);
  part = strtok(NULL, ".");
  if (part && !strcmp(part, "expected")) {
    e->expected = 1;
    part = strtok(NULL, ".");
  }
  if (part && (strlen(part) >= sizeof e->type || strtok(NULL, "."))) return -1;
  if (part) strcpy(e->type, part);
  e->dtype = dtype_named(e->type);
  return 0;
}

/* Does the array hold what the name of its file says? */
static int fits(const entry* e) {
  int text = !strcmp(e->type, "of") || !strcmp(e->type, "address") || !strcmp(e->type, "order") ||
             (e->expected && (!strcmp(e->name, "status") || !strcmp(e->name, "message")));
  if (text) return e->array.kind == 'S';
  if (e->dtype)
    return e->array.kind != 'S' && (int64_t)e->array.size == kvops_dtype_size(e->dtype) &&
           e->array.rank <= KVOPS_MAX_RANK;
  return !*e->type && e->array.size == 8 && e->array.count == 1 &&
         (e->array.kind == 'f' || e->array.kind == 'i');
}

static int load_step(const char* folder, const char* op, step* s, char* error, size_t size) {
  char** names;
  int i, bad = 0, count = list_folder(folder, &names);
  s->op = find_op(op);
  s->count = 0;
  if (!s->op) bad = snprintf(error, size, "there is no operator %s", op);
  for (i = 0; i < count && !bad; ++i) {
    char path[1024];
    entry* e = &s->entries[s->count];
    if (s->count == MAX_ENTRIES || parse_name(names[i], e)) {
      bad = snprintf(error, size, "%s: unexpected file", names[i]);
      break;
    }
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    bad = npy_read(path, &e->array, error, size);
    if (bad) break;
    ++s->count;
    if (!fits(e)) bad = snprintf(error, size, "%s: is not a %s array", names[i], e->type);
  }
  free_list(names, count);
  return bad ? -1 : 0;
}

int case_load(const char* folder, const char* op, golden_case* c, char* error, size_t size) {
  char** names;
  int i, bad = 0, count = list_folder(folder, &names);
  int steps = count > 0 && isdigit((unsigned char)names[0][0]);
  memset(c, 0, sizeof *c);
  c->steps = (step*)calloc(MAX_STEPS, sizeof(step));
  if (count <= 0 || !c->steps || (steps && count > MAX_STEPS))
    bad = snprintf(error, size, "is not a folder of at most %d steps", MAX_STEPS);
  if (!bad && !steps) {
    c->num_steps = 1;
    bad = load_step(folder, op, c->steps, error, size);
  }
  for (i = 0; !bad && steps && i < count; ++i) {
    char path[1024];
    const char* dot = strchr(names[i], '.');
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    ++c->num_steps;
    bad = load_step(path, dot ? dot + 1 : op, &c->steps[i], error, size);
  }
  if (count >= 0) free_list(names, count);
  return bad ? -1 : 0;
}

void case_free(golden_case* c) {
  int i, j;
  for (i = 0; i < c->num_steps; ++i)
    for (j = 0; j < c->steps[i].count; ++j) npy_free(&c->steps[i].entries[j].array);
  free(c->steps);
  c->steps = NULL;
  c->num_steps = 0;
}
