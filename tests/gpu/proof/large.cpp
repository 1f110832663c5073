// A cache of more than 2^31 elements: a small call, and the same one on the last blocks of such a
// cache, all of them past 2^31. The results are the same bytes, and no other byte of it changes.
#include <algorithm>
#include <cstring>
#include <memory>
#include <set>

#include "indices.h"
#include "proof.h"

namespace proof {
namespace {

constexpr int kPattern = 0x5A;
constexpr int64_t kChunk = 256 << 20;

// Memory of kvops_malloc() or kvops_malloc_pinned().
struct Buffer {
  void* data = nullptr;
  bool pinned;
  explicit Buffer(int64_t bytes, bool host = false) : pinned(host) {
    test::need((pinned ? kvops_malloc_pinned : kvops_malloc)(test::kGpu, bytes, &data));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { (pinned ? kvops_free_pinned : kvops_free)(test::kGpu, data); }
  char* at(int64_t byte) const { return static_cast<char*>(data) + byte; }
};

// Tensor `index` of a call: `block` bytes for each of its blocks.
struct Cache {
  size_t index;
  int64_t block, element;
  std::unique_ptr<Buffer> memory = nullptr;
};

// Caches hold `blocks` blocks; those behind addresses, `num_blocks`.
int64_t num_blocks(const Shapes& shapes) {
  double blocks = 0;
  return shapes.number("blocks", &blocks) || shapes.number("num_blocks", &blocks) ? int64_t(blocks)
                                                                                  : 0;
}

std::vector<Cache> caches_of(const std::vector<Tensor>& tensors, const Shapes& shapes) {
  std::vector<Cache> caches;
  const int64_t blocks = num_blocks(shapes);
  for (size_t i = 0; blocks && i < tensors.size(); ++i) {
    auto& t = tensors[i];
    double size = 1;
    const bool behind = t.arg == &harness::kBehind && shapes.number("bytes(cache_dtype)", &size);
    if (!behind) size = double(kvops_dtype_size(t.dtype));
    if (behind || !std::strncmp(t.arg->shape, "blocks ", 7))
      caches.push_back({i, int64_t(t.elements.size()) / blocks, int64_t(size)});
  }
  return caches;
}

// Indices of blocks and slots, `more` blocks further on.
void shift_indices(const kvops_op_info& op, const Shapes& shapes, int64_t more,
                   std::vector<Tensor>& tensors) {
  for (auto& rule : index_rules(op)) {
    double bound = 0;
    if (rule.bound.find("blocks") == std::string::npos || !shapes.number(rule.bound, &bound))
      continue;
    const int64_t shift = int64_t(bound) / num_blocks(shapes) * more;
    for (auto& t : tensors)
      for (int64_t i = 0; rule.argument == t.arg->name && i < harness::count(t.shape); ++i)
        if (get(t, i) >= 0 && get(t, i) < INT64_MAX - shift) set(t, i, get(t, i) + shift);
  }
}

class Large {
 public:
  Large(const kvops_op_info& op, const ShapeCase& c)
      : op_(op),
        shapes_(op, c),
        small_(op, c, test::kGpu, stream_.get()),
        large_(op, c, test::kGpu, stream_.get()) {}

  std::string run(uint64_t seed) {
    auto tensors = harness::draw(op_, shapes_, seed);
    caches_ = caches_of(tensors, shapes_);
    int64_t block = INT64_MAX;
    for (auto& cache : caches_) block = std::min(block, cache.block / cache.element);
    more_ = (int64_t(1) << 31) / block + 1;
    auto error = small_.prepare(tensors);
    shift_indices(op_, shapes_, more_, tensors);
    if (error.empty()) error = large_.prepare(std::move(tensors));
    if (error.empty()) error = enlarge();
    if (error.empty()) error = failed(small_.call());
    if (error.empty()) error = failed(large_.call());
    std::vector<Bytes> want, got;
    if (error.empty()) error = small_.read(&want);
    if (error.empty()) error = large_.read(&got);
    return error.empty() ? compare(got, want) : error;
  }

 private:
  std::string enlarge();
  std::string compare(const std::vector<Bytes>& got, const std::vector<Bytes>& want);
  std::string untouched(const Cache& cache);

  const kvops_op_info& op_;
  Shapes shapes_;
  test::Stream stream_;
  Work small_, large_;
  std::vector<Cache> caches_;
  int64_t more_ = 0;  // blocks before those of the small call
};

// The large call's caches, their last blocks those of the small one; its tensors and addresses.
std::string Large::enlarge() {
  auto* args = static_cast<char*>(large_.args());
  const int64_t blocks = num_blocks(shapes_) + more_;
  std::vector<int64_t> addresses;
  for (auto& cache : caches_) {
    auto& t = large_.tensor(cache.index);
    cache.memory = std::make_unique<Buffer>(blocks * cache.block);
    auto* end = cache.memory->at(more_ * cache.block);
    test::need(
        kvops_fill(test::kGpu, stream_.get(), cache.memory->data, kPattern, more_ * cache.block));
    test::need(
        kvops_copy(test::kGpu, stream_.get(), end, t.elements.data(), int64_t(t.elements.size())));
    addresses.push_back(int64_t(reinterpret_cast<intptr_t>(cache.memory->data)));
    if (t.arg == &harness::kBehind) continue;
    auto* tensor = reinterpret_cast<kvops_tensor*>(args + t.arg->offset);
    tensor->data = cache.memory->data, tensor->shape[0] = blocks;
  }
  for (size_t i = 0; i < large_.size(); ++i)
    if (std::strstr(large_.tensor(i).arg->name, "_ptrs"))
      test::need(kvops_copy(test::kGpu, stream_.get(), large_.place_of(i).tensor.data,
                            addresses.data(), 8 * int64_t(addresses.size())));
  for (size_t i = 0; i < op_.num_args; ++i)
    if (!std::strcmp(op_.args[i]->name, "num_blocks"))
      std::memcpy(args + op_.args[i]->offset, &blocks, sizeof blocks);
  return failed(kvops_stream_synchronize(test::kGpu, stream_.get()));
}

std::string Large::compare(const std::vector<Bytes>& got, const std::vector<Bytes>& want) {
  std::set<size_t> large;
  for (auto& cache : caches_) {
    large.insert(cache.index);
    const auto expected = small_.elements(cache.index, want[cache.index]);
    Bytes end(expected.size());
    test::need(kvops_copy(test::kGpu, stream_.get(), end.data(),
                          cache.memory->at(more_ * cache.block), int64_t(end.size())));
    stream_.wait();
    const std::string name = small_.tensor(cache.index).arg->name;
    if (end != expected) return name + ": its last blocks are not those of a small cache";
    auto error = untouched(cache);
    if (!error.empty()) return name + ": " + error;
  }
  for (size_t i = 0; i < small_.size(); ++i)
    if (small_.tensor(i).arg->flags & KVOPS_ARG_WRITTEN && !large.count(i) &&
        small_.elements(i, want[i]) != large_.elements(i, got[i]))
      return std::string(small_.tensor(i).arg->name) + ": is not that of a small cache";
  return "";
}

std::string Large::untouched(const Cache& cache) {
  Buffer chunk(kChunk, true);
  const auto* bytes = static_cast<const uint8_t*>(chunk.data);
  for (int64_t at = 0, end = more_ * cache.block; at < end; at += kChunk) {
    const int64_t n = std::min(kChunk, end - at);
    test::need(kvops_copy(test::kGpu, stream_.get(), chunk.data, cache.memory->at(at), n));
    stream_.wait();
    if (bytes[0] != kPattern || std::memcmp(bytes, bytes + 1, size_t(n - 1)))
      return "a stray write before byte " + std::to_string(at + n);
  }
  return "";
}

}  // namespace

// One case for caches of 16-bit elements, one for those of bytes.
std::string prove_large(const Options& o, const kvops_op_info& op, int* cases) {
  kvops_device_info info = {};
  info.struct_size = sizeof info;
  test::need(kvops_get_device_info(test::kGpu, &info));
  if (info.memory_bytes < int64_t(64) << 30) return kNothing;  // up to 12 layers of 4 GiB
  std::set<int64_t> done;
  for (auto& c : sample(o, op, 40, 300'000)) {
    Shapes shapes(op, c);
    const auto caches = caches_of(harness::draw(op, shapes, o.seed), shapes);
    if (caches.empty()) return kNothing;
    const int64_t size = caches[0].element;
    // Blocks of one element would have numbers that an i32 does not hold.
    if (size > 2 || caches[0].block < 2 * size || !done.insert(size).second) continue;
    ++*cases;
    auto error = Large(op, c).run(o.seed + uint64_t(*cases));
    if (!error.empty()) return c.name + " " + c.text + ": " + error;
  }
  return "";
}

}  // namespace proof
