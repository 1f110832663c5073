// The part of oneDNN's C API (version 3) that is used, declared here and nowhere else, so that
// nothing of oneDNN is needed to build; the opened library; owners of its objects.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "cpu/onednn.h"
#include "cpu/parallel.h"

namespace kvops::cpu::dnnl {

// ---- the C API ----------------------------------------------------------------------------------

using Status = int;
struct Engine;
struct Stream;
struct MemoryDesc;
struct Memory;
struct PrimitiveDesc;
struct Primitive;
struct Attributes;
struct Argument {
  int index;
  Memory* memory;
};
struct Version {
  int major, minor, patch;
  const char* hash;
  unsigned cpu_runtime, gpu_runtime;
};
using Dims = int64_t[12];

enum : int {
  kOutOfMemory = 1,
  kCpuEngine = 1,
  kInOrder = 1,
  kUserScratchpad = 1,
  kAnyLayout = 1,
  kSequential = 1,
  kOpenMp = 2,
  kImplementation = 8,  // queries
  kWeightsDesc = 131,
  kScratchpadDesc = 136,
  kSource = 1,  // arguments
  kFrom = 1,
  kOut = 17,
  kTo = 17,
  kWeights = 33,
  kBias = 41,
  kScratchpad = 80,
  kAvx2Vnni = 0xf,  // instruction sets, as bits
  kAvx512Vnni = 0x67,
};

#define KVOPS_ONEDNN_API(F)                                                                        \
  F(const Version*, version, ())                                                                   \
  F(int, get_effective_cpu_isa, ())                                                                \
  F(Status, engine_create, (Engine**, int kind, size_t index))                                     \
  F(Status, stream_create, (Stream**, Engine*, unsigned flags))                                    \
  F(Status, stream_destroy, (Stream*))                                                             \
  F(Status, memory_desc_create_with_strides,                                                       \
    (MemoryDesc**, int rank, const Dims, int dtype, const Dims strides))                           \
  F(Status, memory_desc_create_with_tag, (MemoryDesc**, int rank, const Dims, int dtype, int tag)) \
  F(Status, memory_desc_clone, (MemoryDesc**, const MemoryDesc*))                                  \
  F(Status, memory_desc_destroy, (MemoryDesc*))                                                    \
  F(size_t, memory_desc_get_size, (const MemoryDesc*))                                             \
  F(Status, memory_create, (Memory**, const MemoryDesc*, Engine*, void* data))                     \
  F(Status, memory_set_data_handle, (Memory*, void* data))                                         \
  F(Status, memory_destroy, (Memory*))                                                             \
  F(Status, primitive_attr_create, (Attributes**))                                                 \
  F(Status, primitive_attr_set_scratchpad_mode, (Attributes*, int mode))                           \
  F(Status, primitive_attr_destroy, (Attributes*))                                                 \
  F(Status, matmul_primitive_desc_create,                                                          \
    (PrimitiveDesc**, Engine*, const MemoryDesc* input, const MemoryDesc* weights,                 \
     const MemoryDesc* bias, const MemoryDesc* out, const Attributes*))                            \
  F(Status, reorder_primitive_desc_create,                                                         \
    (PrimitiveDesc**, const MemoryDesc* from, Engine*, const MemoryDesc* to, Engine*,              \
     const Attributes*))                                                                           \
  F(const MemoryDesc*, primitive_desc_query_md, (const PrimitiveDesc*, int what, int index))       \
  F(Status, primitive_desc_query, (const PrimitiveDesc*, int what, int index, void* result))       \
  F(Status, primitive_desc_destroy, (PrimitiveDesc*))                                              \
  F(Status, primitive_create, (Primitive**, const PrimitiveDesc*))                                 \
  F(Status, primitive_execute, (const Primitive*, Stream*, int count, const Argument*))            \
  F(Status, primitive_destroy, (Primitive*))

struct Api {
#define KVOPS_MEMBER(result, name, parameters) result(*name) parameters;
  KVOPS_ONEDNN_API(KVOPS_MEMBER)
#undef KVOPS_MEMBER
};

inline int onednn_dtype(kvops_dtype dtype) {
  switch (dtype) {
    case KVOPS_F16:
      return 1;
    case KVOPS_BF16:
      return 2;
    case KVOPS_I32:
      return 4;
    case KVOPS_I8:
      return 5;
    default:
      return 3;  // f32
  }
}

struct Library {
  Api api = {};
  Engine* engine = nullptr;
  OneDnnState state;
  // Of the OpenMP runtime that it was linked with; NULL when it has none.
  void (*set_threads)(int) = nullptr;
  int (*max_threads)() = nullptr;
  int (*in_parallel)() = nullptr;
};

// Loads what set_onednn() says when nobody has yet; without an engine there is none. Never closed
// and never destroyed: weights point to it, and the process may be ending.
const Library& library();

// Threads of oneDNN's runtime for calls by this thread.
class Threads {
 public:
  Threads(const Library& l, int threads) : library_(l) {
    if (!l.set_threads) return;
    before_ = l.max_threads();
    l.set_threads(threads);
  }
  Threads(const Threads&) = delete;
  ~Threads() {
    if (library_.set_threads) library_.set_threads(before_);
  }

 private:
  const Library& library_;
  int before_ = 1;
};

inline int usable_threads(const Library& l) {
  return !l.in_parallel || l.in_parallel() ? 1 : num_threads();
}

template <class T, Status (*Api::*destroy)(T*)>
class Owned {
 public:
  explicit Owned(const Library& l) : api_(&l.api) {}
  Owned(Owned&& o) noexcept : api_(o.api_), object_(o.object_) { o.object_ = nullptr; }
  Owned& operator=(Owned&& o) noexcept {
    std::swap(api_, o.api_), std::swap(object_, o.object_);
    return *this;
  }
  ~Owned() {
    if (object_) (api_->*destroy)(object_);
  }
  T** out() { return &object_; }
  T* get() const { return object_; }

 private:
  const Api* api_;
  T* object_ = nullptr;
};
using OwnedDesc = Owned<MemoryDesc, &Api::memory_desc_destroy>;
using OwnedMemory = Owned<Memory, &Api::memory_destroy>;
using OwnedAttributes = Owned<Attributes, &Api::primitive_attr_destroy>;
using OwnedPrimitiveDesc = Owned<PrimitiveDesc, &Api::primitive_desc_destroy>;
using OwnedPrimitive = Owned<Primitive, &Api::primitive_destroy>;
using OwnedStream = Owned<Stream, &Api::stream_destroy>;

// rows of a matrix, `stride` elements apart.
inline OwnedDesc matrix(const Library& l, int64_t rows, int64_t columns, int64_t stride,
                        int dtype) {
  OwnedDesc desc(l);
  const Dims dims = {rows, columns}, strides = {stride, 1};
  l.api.memory_desc_create_with_strides(desc.out(), 2, dims, dtype, strides);
  return desc;
}

inline OwnedMemory memory(const Library& l, const MemoryDesc* desc, const void* data) {
  OwnedMemory m(l);
  l.api.memory_create(m.out(), desc, l.engine, const_cast<void*>(data));
  return m;
}

}  // namespace kvops::cpu::dnnl
