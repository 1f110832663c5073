/* Tensors in buffers that show every stray byte: grown strides, guard bands, garbage around. */
#ifndef HARNESS_PLACE_H_
#define HARNESS_PLACE_H_

#include "kvcache_ops.h"

/* How the dimensions lie whose stride the row leaves open. */
typedef enum layout {
  LAYOUT_DENSE,    /* row-major, 64-byte aligned */
  LAYOUT_PADDED,   /* gaps after every dimension, aligned to the element only */
  LAYOUT_PERMUTED, /* gaps, and the first dimension innermost */
  LAYOUT_NEGATIVE  /* gaps, and negative strides */
} layout;

typedef struct placed {
  char name[64];
  kvops_tensor tensor;  /* data, device and stream are those of the call */
  kvops_device home;    /* of the buffer */
  unsigned char* base;  /* of the buffer */
  int64_t bytes;        /* of the buffer, guards included */
  int64_t offset;       /* of element (0, 0, ...) in it */
  int64_t count, size;  /* elements, and bytes of one */
  unsigned char* image; /* what the buffer holds, or must hold after the call */
  int pinned;
} placed;

/* rank and shape are those of the elements; text is the shape of the row in kvops_ops(), "" for
   memory that is no argument. elements: in C order; NULL: garbage. fill: a byte of it. order:
   NULL, or the dimensions of a dense tensor from the outermost on in memory: "0213" (l: dense).
   0, or -1 without memory. */
int place(placed* p, const char* text, kvops_dtype dtype, int rank, const int64_t* shape,
          const void* elements, layout l, int fill, const char* order);
/* Gives the image a buffer on the device. pinned: CPU memory for copies to `device`. */
kvops_status place_upload(placed* p, kvops_device device, void* stream, int pinned);
/* The image of the buffer after a call, to be released with free(). */
unsigned char* place_download(const placed* p);
void place_release(placed* p);

/* Elements out of an image and into one, in C order. */
void place_gather(const placed* p, const unsigned char* image, void* elements);
void place_scatter(const placed* p, unsigned char* image, const void* elements);

/* First dimension of `rank` from which on the row demands dense strides; rank: none. */
int first_packed(const char* text, int rank);

/* Gives the args of a call a workspace of the size that it asks for, if it takes one, full of
   garbage; *memory is to be freed with kvops_free(). A call that is refused says why by itself. */
kvops_status place_workspace(const kvops_op_info* op, void* args, kvops_device device, void* stream,
                             void** memory);

#endif
