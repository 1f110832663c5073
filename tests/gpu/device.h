// Device memory for the tests of src/gpu, over kvcache_ops/device.h alone.
#pragma once
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kvcache_ops.h"

namespace test {

constexpr kvops_device kCpu = {KVOPS_CPU, 0}, kGpu = {KVOPS_CUDA, 0};

inline void need(kvops_status status) {
  if (status) throw std::runtime_error(kvops_last_error());
}

class Stream {
 public:
  Stream() { need(kvops_stream_create(kGpu, &handle_)); }
  ~Stream() { kvops_stream_destroy(kGpu, handle_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void* get() const { return handle_; }
  void wait() const { need(kvops_stream_synchronize(kGpu, handle_)); }

 private:
  void* handle_ = nullptr;
};

// A dense tensor with a copy on the host: h is what the CPU sees, d the device.
template <class T>
class Both {
 public:
  Both(kvops_dtype dtype, std::vector<int64_t> shape) : dtype_(dtype), shape_(shape) {
    int64_t n = 1;
    for (auto e : shape) n *= e;
    h.resize(size_t(n));
    need(kvops_malloc(kGpu, bytes(), &data_));
  }
  ~Both() { kvops_free(kGpu, data_); }
  Both(const Both&) = delete;
  Both& operator=(const Both&) = delete;

  int64_t bytes() const { return int64_t(h.size() * sizeof(T)); }
  void up(const Stream& s) {
    need(kvops_copy(kGpu, s.get(), data_, h.data(), bytes()));
    s.wait();
  }
  std::vector<T> down(const Stream& s) const {
    std::vector<T> copy(h.size());
    need(kvops_copy(kGpu, s.get(), copy.data(), data_, bytes()));
    s.wait();
    return copy;
  }
  kvops_tensor on_gpu(const Stream& s) const {
    return kvops_dense(data_, kGpu, s.get(), dtype_, int32_t(shape_.size()), shape_.data());
  }
  kvops_tensor on_cpu() {
    return kvops_dense(h.data(), kCpu, nullptr, dtype_, int32_t(shape_.size()), shape_.data());
  }

  std::vector<T> h;

 private:
  kvops_dtype dtype_;
  std::vector<int64_t> shape_;
  void* data_ = nullptr;
};

// Truncated to the dtype: what is wanted is a number, not this number.
inline uint32_t number_bits(kvops_dtype dtype, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (dtype == KVOPS_F32) return bits;
  if (dtype == KVOPS_BF16) return bits >> 16;
  int exponent = int(bits >> 23 & 255) - 127 + 15;
  if (exponent <= 0) return bits >> 16 & 0x8000;
  return (bits >> 16 & 0x8000) | uint32_t(exponent) << 10 | (bits >> 13 & 0x3FF);
}

}  // namespace test
