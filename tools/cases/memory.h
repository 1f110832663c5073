// Memory and data for calls: N(0,1) values, slots and blocks that no two tokens share, full
// lengths, rotations. Several sets of the same call, so that a benchmark need not find its data in
// the cache; what an index chooses from (a KV cache) is shared, and every set touches other rows.
#pragma once
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cases/layout.h"
#include "handles.h"

namespace kvops::cases {

// Memory of kvops_malloc() or kvops_malloc_pinned().
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  // "" or why there is no memory. pinned: CPU memory that `device` reaches.
  std::string allocate(kvops_device device, int64_t bytes, bool pinned);
  void* data() const { return data_; }

 private:
  kvops_device device_{};
  void* data_ = nullptr;
  bool pinned_ = false;
};

class Memory {
 public:
  // Allocates and fills `sets` calls; "" or what went wrong.
  std::string fill(const Layout& layout, kvops_device device, int sets);
  // The stream of all calls; they have none before.
  void use_stream(void* stream);

  // The struct of set i, ready for kvops_call().
  const void* call(size_t set) const { return calls_[set].data(); }
  size_t sets() const { return calls_.size(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::string fill_tensor(const Tensor& tensor, size_t set, void*& data);
  std::string upload(void* data, const std::vector<std::byte>& pattern, int64_t bytes);
  std::vector<int64_t> indices(const Tensor& tensor, size_t set);
  std::vector<int64_t> sorted(const Tensor& tensor, int64_t count);
  std::string addresses(const Tensor& tensor, std::vector<int64_t>& values);
  std::string cache_addresses(std::vector<int64_t>& values);
  const std::vector<std::byte>& pattern(const Tensor& tensor);

  const Layout* layout_ = nullptr;
  kvops_device device_{};
  std::mt19937_64 random_{20};
  std::vector<std::vector<std::byte>> calls_;
  std::vector<Buffer> buffers_;
  std::map<std::string, std::vector<std::byte>> patterns_;  // by dtype, or by argument
  std::map<int64_t, std::vector<int64_t>> orders_;  // by bound: a random order of [0, bound)
  std::vector<int64_t> caches_;                     // addresses of what all sets share
  harness::Handles handles_;
  int64_t bytes_ = 0;
};

}  // namespace kvops::cases
