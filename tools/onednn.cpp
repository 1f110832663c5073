// See onednn.h.
#include "onednn.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cases/memory.h"
#include "cpu/onednn_api.h"
#include "kvcache_ops/onednn.h"

namespace kvops {
namespace {

namespace dnnl = cpu::dnnl;

// m x k with k x n.
struct Product {
  int64_t m = 0, k = 0, n = 0;
  kvops_dtype input = 0, out = 0;
  double adds() const { return double(m) * double(k) * double(n); }
};

template <class F>
bool look_up(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  return function != nullptr;
}

// The library that kvops has opened, by its path; NULL: none.
const dnnl::Library* library() {
  static const dnnl::Library* opened = []() -> const dnnl::Library* {
    const std::string text = kvops_onednn_library();
    const auto space = text.find(' ');
    if (text.starts_with("none") || space == std::string::npos) return nullptr;
    void* handle = dlopen(text.c_str() + space + 1, RTLD_LOCAL | RTLD_NOW);
    static dnnl::Library l;
    if (!handle) return nullptr;
#define KVOPS_LOOK_UP(result, name, parameters) \
  if (!look_up(handle, "dnnl_" #name, l.api.name)) return nullptr;
    KVOPS_ONEDNN_API(KVOPS_LOOK_UP)
#undef KVOPS_LOOK_UP
    look_up(handle, "omp_set_num_threads", l.set_threads);
    return l.api.engine_create(&l.engine, dnnl::kCpuEngine, 0) ? nullptr : &l;
  }();
  return opened;
}

const kvops_tensor* find(const cases::Layout& layout, const char* name) {
  for (auto& t : layout.tensors)
    if (std::strcmp(t.info->name, name) == 0) return &t.shape;
  return nullptr;
}
int64_t integer(const cases::Layout& layout, const char* name) {
  int64_t value = 0;
  for (size_t i = 0; i < layout.op->num_args; ++i)
    if (auto* a = layout.op->args[i]; std::strcmp(a->name, name) == 0)
      std::memcpy(&value, layout.args.data() + a->offset, sizeof value);
  return value;
}

// Multiply-adds of prefill with full lengths; 0: decoding, a window, or no bf16.
double attention_adds(const cases::Layout& layout) {
  auto *query = find(layout, "query"), *table = find(layout, "block_table"),
       *cache = find(layout, "key_cache");
  if (!query || !table || !cache || query->dtype != KVOPS_BF16) return 0;
  const auto keys = double(table->shape[1] * cache->shape[2]);
  const auto queries = double(query->shape[0]) / double(std::max<int64_t>(1, table->shape[0]));
  constexpr double kFew = 64;  // rows of a matrix: a unit of the plan has no more
  if (queries < kFew || integer(layout, "window_left") > 0) return 0;
  const double seen = integer(layout, "causal") ? keys - (queries - 1) / 2 : keys;
  return 2 * double(query->shape[0] * query->shape[1] * query->shape[2]) * seen;
}

Product product_of(const cases::Layout& layout) {
  const std::string op = layout.op->name;
  if (op == "cpu_attention_with_kv_cache") return {512, 4096, 4096, KVOPS_BF16, KVOPS_BF16};
  if (op != "onednn_mm" && op != "onednn_scaled_mm") return {};
  auto *input = find(layout, "input"), *out = find(layout, "out");
  if (!input || !out) return {};
  return {input->shape[0], input->shape[1], out->shape[1], input->dtype,
          input->dtype == KVOPS_I8 ? kvops_dtype{KVOPS_I32} : out->dtype};
}

}  // namespace

struct OneDnn::Parts {
  const dnnl::Library& l;
  int threads;
  dnnl::OwnedDesc input{l}, any{l}, out{l};
  dnnl::OwnedAttributes attributes{l};
  dnnl::OwnedPrimitiveDesc desc{l};
  dnnl::OwnedPrimitive primitive{l};
  dnnl::OwnedStream stream{l};
  std::vector<cases::Buffer> buffers = {};
  dnnl::OwnedMemory x{l}, y{l}, scratch{l};
  std::vector<dnnl::OwnedMemory> weights = {};

  // Of `bytes`, filled with `value`; NULL: there is no memory.
  void* buffer(int64_t bytes, int value) {
    buffers.emplace_back();
    if (!buffers.back().allocate({KVOPS_CPU, 0}, bytes + 64, false).empty()) return nullptr;
    return std::memset(buffers.back().data(), value, size_t(bytes));
  }

  bool describe(const Product& p) {
    const int from = dnnl::onednn_dtype(p.input), to = dnnl::onednn_dtype(p.out);
    const dnnl::Dims dims = {p.k, p.n};
    input = dnnl::matrix(l, p.m, p.k, p.k, from), out = dnnl::matrix(l, p.m, p.n, p.n, to);
    const char* kernel = nullptr;
    return !l.api.memory_desc_create_with_tag(any.out(), 2, dims, from, dnnl::kAnyLayout) &&
           !l.api.primitive_attr_create(attributes.out()) &&
           !l.api.primitive_attr_set_scratchpad_mode(attributes.get(), dnnl::kUserScratchpad) &&
           !l.api.matmul_primitive_desc_create(desc.out(), l.engine, input.get(), any.get(),
                                               nullptr, out.get(), attributes.get()) &&
           !l.api.primitive_desc_query(desc.get(), dnnl::kImplementation, 0, &kernel) &&
           std::strncmp(kernel, "ref", 3) != 0 &&
           !l.api.primitive_create(primitive.out(), desc.get()) &&
           !l.api.stream_create(stream.out(), l.engine, dnnl::kInOrder);
  }

  // Small numbers in every dtype: the bytes 0x3B. What is packed takes no part in the time, so
  // weights need no order.
  bool allocate(const Product& p, int64_t span) {
    constexpr int kByte = 0x3B;
    auto* layout = l.api.primitive_desc_query_md(desc.get(), dnnl::kWeightsDesc, 0);
    auto* extra = l.api.primitive_desc_query_md(desc.get(), dnnl::kScratchpadDesc, 0);
    const auto bytes = int64_t(l.api.memory_desc_get_size(layout));
    const int64_t count = std::clamp<int64_t>(span / std::max<int64_t>(bytes, 1) + 1, 1, 64);
    for (int64_t i = 0; i < count; ++i) {
      void* data = buffer(bytes, kByte);
      if (!data) return false;
      weights.push_back(dnnl::memory(l, layout, data));
    }
    void* in = buffer(p.m * p.k * kvops_dtype_size(p.input), kByte);
    void* result = buffer(p.m * p.n * kvops_dtype_size(p.out), 0);
    void* temporary = buffer(int64_t(l.api.memory_desc_get_size(extra)), 0);
    if (!in || !result || !temporary) return false;
    x = dnnl::memory(l, input.get(), in), y = dnnl::memory(l, out.get(), result);
    scratch = dnnl::memory(l, extra, temporary);
    return true;
  }
};

OneDnn::OneDnn() = default;
OneDnn::~OneDnn() = default;

std::unique_ptr<OneDnn> OneDnn::beside(const cases::Layout& layout, int64_t span, int threads) {
  const auto product = product_of(layout);
  if (product.adds() <= 0 || !library()) return nullptr;
  std::unique_ptr<OneDnn> rival(new OneDnn);
  if (std::strcmp(layout.op->name, "cpu_attention_with_kv_cache") == 0)
    rival->share_ = attention_adds(layout) / product.adds();
  if (rival->share_ <= 0) return nullptr;
  rival->parts_.reset(new Parts{*library(), threads});
  auto& parts = *rival->parts_;
  if (!parts.describe(product) || !parts.allocate(product, span)) return nullptr;
  return rival;
}

bool OneDnn::run(size_t i) {
  auto& p = *parts_;
  if (p.l.set_threads) p.l.set_threads(p.threads);
  const dnnl::Argument arguments[] = {{dnnl::kSource, p.x.get()},
                                      {dnnl::kWeights, p.weights[i % p.weights.size()].get()},
                                      {dnnl::kOut, p.y.get()},
                                      {dnnl::kScratchpad, p.scratch.get()}};
  return !p.l.api.primitive_execute(p.primitive.get(), p.stream.get(), 4, arguments);
}

}  // namespace kvops
