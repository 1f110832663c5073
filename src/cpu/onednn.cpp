// Packing for oneDNN, its primitives, their execution.
// oneDNN threads by itself. The OpenMP runtime that it was linked with is told how many threads a
// call may use, because a primitive must run with as many as it was made for.
#include "cpu/onednn.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "core/view.h"
#include "cpu/matmul.h"
#include "cpu/onednn_api.h"
#include "cpu/parallel.h"

namespace kvops::cpu {

using namespace dnnl;

namespace {

// Memory that grows, for the temporaries of a primitive: one per thread.
struct Scratch {
  std::byte* data = nullptr;
  size_t size = 0;
  ~Scratch() { std::free(data); }
  std::byte* of(size_t bytes) {
    if (bytes > size) {
      std::free(data);
      size = (bytes + 4095) & ~size_t{4095};
      data = static_cast<std::byte*>(std::aligned_alloc(4096, size));
      if (!data) size = 0, throw std::bad_alloc();
    }
    return data;
  }
};
thread_local Scratch scratch;

std::atomic<int64_t> primitives_made{0};

// What one execution needs besides the primitive: objects that cost more than a small product.
struct Call {
  OwnedStream stream;
  OwnedMemory input, weights, out, bias, scratch;
  Argument arguments[5] = {};
  int count = 0;

  explicit Call(const Library& l) : stream(l), input(l), weights(l), out(l), bias(l), scratch(l) {}
};

// A product with one number of rows, ready to run.
struct Product {
  OwnedDesc input, out;
  OwnedPrimitiveDesc desc;
  OwnedPrimitive primitive;
  size_t scratch_bytes = 0;
  mutable std::vector<std::unique_ptr<Call>> idle = {};  // as many as have run side by side

  explicit Product(const Library& l) : input(l), out(l), desc(l), primitive(l) {}
};

struct Key {
  int64_t rows, input_stride, out_stride;
  int threads, kind;
  bool operator==(const Key&) const = default;
};

}  // namespace

// ---- a packed weight ----------------------------------------------------------------------------

struct OneDnnWeight::Parts {
  // A weight is cut into slabs of columns: one for floats, kPanelColumns each for int8, so that at
  // most two sizes (kinds) exist.
  struct Kind {
    int64_t columns;
    size_t bytes;
    OwnedDesc weights, bias;
    std::array<std::shared_ptr<const Product>, kPreparedRows + 1> prepared;
  };
  struct Entry {
    Key key;
    uint64_t used;
    std::shared_ptr<const Product> product;
  };

  const Library& library;
  GemmShape shape;
  int64_t slab, limit;
  int prepared_threads = 1;
  std::vector<Kind> kinds;
  AlignedBytes data, zeros;  // the slabs; a bias of zeros
  std::vector<Entry> entries = {};
  uint64_t clock = 0;

  Parts(const Library& l, const GemmShape& s, int64_t primitives)
      : library(l), shape(s), slab(s.dtype == KVOPS_I8 ? kPanelColumns : s.n), limit(primitives) {}

  bool is_i8() const { return shape.dtype == KVOPS_I8; }
  int64_t slabs() const { return (shape.n + slab - 1) / slab; }
  int kind_of(int64_t slab_index) const {
    return kinds.size() > 1 && slab_index == slabs() - 1 ? 1 : 0;
  }
  Status make(const Key& key, const MemoryDesc* weights, Product& p) const;
  bool add_kind(int64_t columns);
  bool fill(const kvops_tensor& weight);
  bool prepare();
  std::shared_ptr<const Product> find(const Key& key);
  std::unique_ptr<Call> borrow(const Product& product, const Kind& kind) const;
  kvops_status run(const char* op, int64_t slab_index, const Gemm& g, int threads);
};

// The primitive for a key; its threads are already set.
Status OneDnnWeight::Parts::make(const Key& key, const MemoryDesc* weights, Product& p) const {
  auto& api = library.api;
  const int from = onednn_dtype(shape.dtype), to = onednn_dtype(is_i8() ? KVOPS_I32 : shape.dtype);
  auto& kind = kinds[size_t(key.kind)];
  OwnedAttributes attributes(library);
  if (auto s = api.primitive_attr_create(attributes.out())) return s;
  api.primitive_attr_set_scratchpad_mode(attributes.get(), kUserScratchpad);
  p.input = matrix(library, key.rows, shape.k, key.input_stride, from);
  p.out = matrix(library, key.rows, kind.columns, key.out_stride, to);
  auto status = api.matmul_primitive_desc_create(
      p.desc.out(), library.engine, p.input.get(), weights ? weights : kind.weights.get(),
      is_i8() ? nullptr : kind.bias.get(), p.out.get(), attributes.get());
  if (status) return status;
  if (auto s = api.primitive_create(p.primitive.out(), p.desc.get())) return s;
  ++primitives_made;
  p.scratch_bytes =
      api.memory_desc_get_size(api.primitive_desc_query_md(p.desc.get(), kScratchpadDesc, 0));
  return 0;
}

// Lets oneDNN choose the layout of a slab, which then serves every number of rows. False when it
// has only reference code for the type.
bool OneDnnWeight::Parts::add_kind(int64_t columns) {
  constexpr int64_t kTypicalRows = 128;
  auto& api = library.api;
  kinds.push_back({columns, 0, OwnedDesc(library), OwnedDesc(library), {}});
  auto& kind = kinds.back();
  if (!is_i8()) kind.bias = matrix(library, 1, columns, columns, onednn_dtype(shape.dtype));
  OwnedDesc any(library);
  const Dims dims = {shape.k, columns};
  api.memory_desc_create_with_tag(any.out(), 2, dims, onednn_dtype(shape.dtype), kAnyLayout);
  Product probe(library);
  const Key key = {kTypicalRows, shape.k, columns, prepared_threads, int(kinds.size() - 1)};
  if (make(key, any.get(), probe)) return false;
  const char* name = nullptr;
  api.primitive_desc_query(probe.desc.get(), kImplementation, 0, &name);
  if (!name || std::string_view(name).starts_with("ref")) return false;
  api.memory_desc_clone(kind.weights.out(),
                        api.primitive_desc_query_md(probe.desc.get(), kWeightsDesc, 0));
  kind.bytes =
      (api.memory_desc_get_size(kind.weights.get()) + kGemmAlignment - 1) & size_t(-kGemmAlignment);
  return true;
}

// Packs the slabs. weight has one stride of 1, and no negative one.
bool OneDnnWeight::Parts::fill(const kvops_tensor& weight) {
  auto& api = library.api;
  data = AlignedBytes(size_t(slabs() - 1) * kinds[0].bytes + kinds.back().bytes);
  OwnedStream stream(library);
  api.stream_create(stream.out(), library.engine, kInOrder);
  for (int64_t i = 0; i < slabs(); ++i) {
    auto& kind = kinds[size_t(kind_of(i))];
    OwnedDesc from(library);
    const Dims dims = {shape.k, kind.columns}, strides = {weight.stride[0], weight.stride[1]};
    api.memory_desc_create_with_strides(from.out(), 2, dims, onednn_dtype(shape.dtype), strides);
    OwnedPrimitiveDesc desc(library);
    OwnedPrimitive reorder(library);
    if (api.reorder_primitive_desc_create(desc.out(), from.get(), library.engine,
                                          kind.weights.get(), library.engine, nullptr) ||
        api.primitive_create(reorder.out(), desc.get()))
      return false;
    auto* first = static_cast<const std::byte*>(weight.data) +
                  i * slab * weight.stride[1] * dtype(shape.dtype).size;
    auto source = memory(library, from.get(), first);
    auto target = memory(library, kind.weights.get(), data.get() + size_t(i) * kinds[0].bytes);
    const Argument arguments[] = {{kFrom, source.get()}, {kTo, target.get()}};
    if (api.primitive_execute(reorder.get(), stream.get(), 2, arguments)) return false;
  }
  return true;
}

bool OneDnnWeight::Parts::prepare() {
  for (size_t k = 0; k < kinds.size(); ++k) {
    for (int64_t rows = 1; rows <= kPreparedRows; ++rows) {
      auto product = std::make_shared<Product>(library);
      const int64_t out_stride = is_i8() ? kPanelColumns : shape.n;
      if (make({rows, shape.k, out_stride, prepared_threads, int(k)}, nullptr, *product))
        return false;
      kinds[k].prepared[size_t(rows)] = std::move(product);
    }
  }
  return true;
}

std::shared_ptr<const Product> OneDnnWeight::Parts::find(const Key& key) {
  const int64_t dense = is_i8() ? kPanelColumns : shape.n;
  if (key.rows <= kPreparedRows && key.threads == prepared_threads && key.input_stride == shape.k &&
      key.out_stride == dense)
    return kinds[size_t(key.kind)].prepared[size_t(key.rows)];
  {
    std::lock_guard lock(matmul_mutex);
    for (auto& e : entries)
      if (e.key == key) return e.used = ++clock, e.product;
  }
  // Made without the lock; when two threads make the same one, the second is used once.
  auto product = std::make_shared<Product>(library);
  if (auto status = make(key, nullptr, *product)) {
    if (status == kOutOfMemory) throw std::bad_alloc();
    return nullptr;
  }
  std::lock_guard lock(matmul_mutex);
  if (int64_t(entries.size()) >= limit)
    entries.erase(std::min_element(entries.begin(), entries.end(),
                                   [](auto& a, auto& b) { return a.used < b.used; }));
  entries.push_back({key, ++clock, product});
  return product;
}

std::unique_ptr<Call> OneDnnWeight::Parts::borrow(const Product& product, const Kind& kind) const {
  {
    std::lock_guard lock(matmul_mutex);
    if (!product.idle.empty()) {
      auto call = std::move(product.idle.back());
      product.idle.pop_back();
      return call;
    }
  }
  auto call = std::make_unique<Call>(library);
  library.api.stream_create(call->stream.out(), library.engine, kInOrder);
  auto add = [&](OwnedMemory& into, int index, const MemoryDesc* desc) {
    into = memory(library, desc, nullptr);
    call->arguments[call->count++] = {index, into.get()};
  };
  add(call->input, kSource, product.input.get());
  add(call->weights, kWeights, kind.weights.get());
  add(call->out, kOut, product.out.get());
  if (!is_i8()) add(call->bias, kBias, kind.bias.get());
  if (product.scratch_bytes)
    add(call->scratch, kScratchpad,
        library.api.primitive_desc_query_md(product.desc.get(), kScratchpadDesc, 0));
  return call;
}

kvops_status OneDnnWeight::Parts::run(const char* op, int64_t slab_index, const Gemm& g,
                                      int threads) {
  auto& api = library.api;
  const int k = kind_of(slab_index);
  auto& kind = kinds[size_t(k)];
  const Threads limit_threads(library, threads);
  auto product = find({g.m, g.input_stride, g.out_stride, threads, k});
  if (!product) return fail(KVOPS_INTERNAL, op, "", "oneDNN has no primitive for this call");
  auto call = borrow(*product, kind);
  auto set = [&](const OwnedMemory& memory, const void* data) {
    if (memory.get()) api.memory_set_data_handle(memory.get(), const_cast<void*>(data));
  };
  set(call->input, g.input);
  set(call->weights, data.get() + size_t(slab_index) * kinds[0].bytes);
  set(call->out, g.out);
  set(call->bias, g.bias ? g.bias : zeros.get());
  if (product->scratch_bytes) set(call->scratch, scratch.of(product->scratch_bytes));
  const auto status = api.primitive_execute(product->primitive.get(), call->stream.get(),
                                            call->count, call->arguments);
  {
    std::lock_guard lock(matmul_mutex);
    product->idle.push_back(std::move(call));
  }
  if (!status) return KVOPS_OK;
  return fail(status == kOutOfMemory ? KVOPS_OUT_OF_MEMORY : KVOPS_INTERNAL, op, "",
              "oneDNN failed with status %d", status);
}

// ---- the interface ------------------------------------------------------------------------------

int64_t onednn_primitives_made() { return primitives_made; }

OneDnnWeight::OneDnnWeight(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
OneDnnWeight::~OneDnnWeight() = default;

std::unique_ptr<OneDnnWeight> OneDnnWeight::pack(const GemmShape& shape, const kvops_tensor& weight,
                                                 int64_t primitives) {
  auto& l = library();
  if (!l.engine) return nullptr;
  // Without VNNI, sums of pairs of products may saturate.
  const int isa = l.api.get_effective_cpu_isa();
  const bool exact = (isa & kAvx512Vnni) == kAvx512Vnni || (isa & kAvx2Vnni) == kAvx2Vnni;
  if (shape.dtype == KVOPS_I8 && !exact) return nullptr;
  auto parts = std::make_unique<Parts>(l, shape, primitives);
  parts->prepared_threads = parts->is_i8() ? 1 : usable_threads(l);
  const Threads threads(l, parts->prepared_threads);
  if (!parts->add_kind(std::min(parts->slab, shape.n))) return nullptr;
  if (shape.n > parts->slab && shape.n % parts->slab && !parts->add_kind(shape.n % parts->slab))
    return nullptr;
  // oneDNN wants ordinary strides.
  const int64_t rows = weight.stride[0], columns = weight.stride[1];
  const bool ordinary = (rows == 1 && columns >= shape.k) || (columns == 1 && rows >= shape.n);
  AlignedBytes copy;
  auto dense = weight;
  if (!ordinary) {
    copy = dense_copy(weight);
    dense.data = copy.get(), dense.stride[0] = shape.n, dense.stride[1] = 1;
  }
  if (!parts->fill(dense) || !parts->prepare()) return nullptr;
  if (!parts->is_i8()) {
    parts->zeros = AlignedBytes(size_t(shape.n * dtype(shape.dtype).size));
    std::fill_n(parts->zeros.get(), shape.n * dtype(shape.dtype).size, std::byte{0});
  }
  return std::unique_ptr<OneDnnWeight>(new OneDnnWeight(std::move(parts)));
}

// Rows that overlap or run backwards are multiplied one by one.
static kvops_status by_rows(const Gemm& g, int64_t columns, int64_t out_size,
                            FunctionRef<kvops_status(const Gemm&)> run) {
  Gemm one = g;
  one.input_stride = g.shape.k, one.out_stride = columns;
  if (g.m == 1) return run(one);
  if (g.input_stride >= g.shape.k && g.out_stride >= columns) return run(g);
  one.m = 1;
  for (int64_t r = 0; r < g.m; ++r) {
    one.input =
        static_cast<const std::byte*>(g.input) + r * g.input_stride * dtype(g.shape.dtype).size;
    one.out = static_cast<std::byte*>(g.out) + r * g.out_stride * out_size;
    if (auto s = run(one)) return s;
  }
  return KVOPS_OK;
}

kvops_status OneDnnWeight::multiply(const char* op, const Gemm& g) {
  auto run = [&](const Gemm& part) {
    return parts_->run(op, 0, part, usable_threads(parts_->library));
  };
  return by_rows(g, g.shape.n, dtype(g.shape.dtype).size, run);
}

kvops_status OneDnnWeight::multiply_i8(const char* op, const GemmI8& g) {
  auto run = [&](const Gemm& part) { return parts_->run(op, g.begin / kPanelColumns, part, 1); };
  const Gemm panel = {g.shape,        nullptr, g.m,    g.input,
                      g.input_stride, nullptr, g.sums, g.sums_stride};
  try {
    return by_rows(panel, kPanelColumns, sizeof(int32_t), run);
  } catch (const std::bad_alloc&) {  // on a thread that has nobody to catch it
    return fail(KVOPS_OUT_OF_MEMORY, op, "", "no memory for oneDNN");
  }
}

}  // namespace kvops::cpu
