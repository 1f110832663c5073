/* A buffer is guard | elements with gaps | guard; everything but the elements is garbage whose
   bytes are a NaN in every float dtype, or another pattern, and untouched after the call. */
#include "place.h"

#include <stdlib.h>
#include <string.h>

enum { GUARD = 192, GAP = 3 };

/* One alternative of a row's shape: "blocks block! entry!". */
static int packed_in(const char* text, const char* end, int rank) {
  int count = 0, open = -1, i, first = rank;
  int packed[16];
  while (text < end && count < 16) {
    const char* word;
    while (text < end && *text == ' ') ++text;
    for (word = text; text < end && *text != ' ';) ++text;
    if (word == text || (text - word == 2 && !strncmp(word, "[]", 2))) continue;
    if (!strncmp(word, "...", 3) && (text - word == 3 || word[3] == '!')) open = count;
    if (*word == '*') open = count;
    packed[count++] = text[-1] == '!';
  }
  if (open < 0 ? count != rank : rank < count - 1) return rank; /* not of this rank */
  for (i = rank - 1; i >= 0; --i) {
    int d = open < 0 || i < open ? i : i + count - rank > open ? i + count - rank : open;
    if (packed[d]) first = i;
  }
  return first;
}

int first_packed(const char* text, int rank) {
  int first = rank;
  for (;;) {
    const char* end = strchr(text, '|');
    int f = packed_in(text, end ? end : text + strlen(text), rank);
    if (f < first) first = f;
    if (!end) return first;
    text = end + 1;
  }
}

/* Strides, innermost dimension first; returns the elements that the tensor spans. */
static int64_t set_strides(kvops_tensor* t, int packed, layout l) {
  int64_t next = 1;
  int i, step;
  for (i = t->rank - 1; i >= packed; --i) {
    t->stride[i] = next;
    next *= t->shape[i];
  }
  for (step = 0; step < packed; ++step) {
    i = l == LAYOUT_PERMUTED ? step : packed - 1 - step;
    if (l != LAYOUT_DENSE) next += GAP;
    t->stride[i] = next;
    if (t->shape[i] > 1) {
      next *= t->shape[i];
    } else if (l != LAYOUT_DENSE) {
      t->stride[i] = 1000003; /* never read */
    }
  }
  return next;
}

int place(placed* p, const char* text, kvops_dtype dtype, int rank, const int64_t* shape,
          const void* elements, layout l, int fill, const char* order) {
  kvops_tensor* t = &p->tensor;
  int64_t span, i;
  memset(t, 0, sizeof *t);
  t->dtype = dtype;
  t->rank = rank;
  p->size = kvops_dtype_size(dtype);
  p->count = 1;
  for (i = 0; i < rank; ++i) p->count *= t->shape[i] = shape[i];
  span = set_strides(t, *text ? first_packed(text, rank) : 0, l);
  for (i = rank, span = order ? 1 : span; order && i-- > 0;) {
    int axis = order[i] - '0';
    t->stride[axis] = span;
    span *= shape[axis];
  }
  if (!p->count) span = 0;
  p->bytes = 2 * GUARD + (span + GAP) * p->size;
  p->offset = GUARD + (l == LAYOUT_DENSE ? 0 : p->size);
  for (i = 0; l == LAYOUT_NEGATIVE && *text && i < first_packed(text, rank) && p->count; ++i) {
    if (shape[i] == 1) continue;
    p->offset += (shape[i] - 1) * t->stride[i] * p->size;
    t->stride[i] = -t->stride[i];
  }
  p->image = (unsigned char*)malloc((size_t)p->bytes);
  p->base = NULL;
  if (!p->image) return -1;
  memset(p->image, fill, (size_t)p->bytes);
  if (elements) place_scatter(p, p->image, elements);
  return 0;
}

kvops_status place_upload(placed* p, kvops_device device, void* stream, int pinned) {
  const kvops_device cpu = {KVOPS_CPU, 0};
  void* base = NULL;
  kvops_status s =
      pinned ? kvops_malloc_pinned(device, p->bytes, &base) : kvops_malloc(device, p->bytes, &base);
  p->base = (unsigned char*)base;
  p->home = device;
  p->pinned = pinned;
  if (s) return s;
  p->tensor.device = pinned ? cpu : device;
  p->tensor.stream = pinned || device.type == KVOPS_CPU ? NULL : stream;
  p->tensor.data = p->base + p->offset;
  s = kvops_copy(device, stream, p->base, p->image, p->bytes);
  return s ? s : kvops_stream_synchronize(device, stream);
}

unsigned char* place_download(const placed* p) {
  unsigned char* image = (unsigned char*)malloc((size_t)p->bytes);
  if (!image) return NULL;
  if (kvops_copy(p->home, NULL, image, p->base, p->bytes) ||
      kvops_stream_synchronize(p->home, NULL)) {
    free(image);
    return NULL;
  }
  return image;
}

void place_release(placed* p) {
  if (p->base) (p->pinned ? kvops_free_pinned : kvops_free)(p->home, p->base);
  free(p->image);
  p->base = p->image = NULL;
}

static int64_t offset_of(const placed* p, int64_t element) {
  int64_t offset = p->offset;
  int i;
  for (i = p->tensor.rank - 1; i >= 0; --i) {
    offset += element % p->tensor.shape[i] * p->tensor.stride[i] * p->size;
    element /= p->tensor.shape[i];
  }
  return offset;
}

void place_gather(const placed* p, const unsigned char* image, void* elements) {
  int64_t i;
  for (i = 0; i < p->count; ++i)
    memcpy((char*)elements + i * p->size, image + offset_of(p, i), (size_t)p->size);
}

void place_scatter(const placed* p, unsigned char* image, const void* elements) {
  int64_t i;
  for (i = 0; i < p->count; ++i)
    memcpy(image + offset_of(p, i), (const char*)elements + i * p->size, (size_t)p->size);
}

kvops_status place_workspace(const kvops_op_info* op, void* args, kvops_device device, void* stream,
                             void** memory) {
  size_t i;
  for (i = 0; i < op->num_args; ++i) {
    kvops_tensor* tensor = (kvops_tensor*)(void*)((char*)args + op->args[i]->offset);
    kvops_query_result q;
    kvops_status status;
    if (!(op->args[i]->flags & KVOPS_ARG_SIZED)) continue;
    memset(&q, 0, sizeof q);
    q.struct_size = sizeof q;
    if (kvops_query(op->name, args, &q) || !q.bytes) continue;
    status = kvops_malloc(device, q.bytes, memory);
    if (!status) status = kvops_fill(device, stream, *memory, 0xA5, q.bytes);
    if (status) return status;
    *tensor = kvops_dense(*memory, device, stream, KVOPS_U8, 1, &q.bytes);
  }
  return KVOPS_OK;
}
