// What the Catch2 tests of operators share: tensors over memory of the test, buffers with guards,
// and memory that is reserved but not there.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kvcache_ops.h"

namespace tests {

using Extents = std::vector<int64_t>;

// Dense unless strides are given.
inline kvops_tensor tensor(void* data, kvops_dtype dtype, const Extents& shape,
                           const Extents& stride = {}) {
  kvops_tensor t =
      kvops_dense(data, {KVOPS_CPU, 0}, nullptr, dtype, int32_t(shape.size()), shape.data());
  for (size_t i = 0; i < stride.size(); ++i) t.stride[i] = stride[i];
  return t;
}
template <class T>
kvops_tensor tensor(const std::vector<T>& v, kvops_dtype dtype, const Extents& shape,
                    const Extents& stride = {}) {
  return tensor(const_cast<T*>(v.data()), dtype, shape, stride);
}
inline kvops_tensor slots(const std::vector<int64_t>& v) {
  return tensor(v, KVOPS_I64, {int64_t(v.size())});
}

template <class Args>
Args make() {
  Args a = {};
  a.struct_size = sizeof a;
  return a;
}

#define CHECK_OK(call)        \
  do {                        \
    kvops_clear_error();      \
    kvops_status s_ = (call); \
    INFO(kvops_last_error()); \
    REQUIRE(s_ == KVOPS_OK);  \
  } while (false)

template <class T>
std::vector<T> random_bits(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> v(n);
  for (auto& x : v) x = T(random());
  return v;
}

// bf16 bits of normally distributed values.
inline std::vector<uint16_t> random_bf16(size_t n, unsigned seed, float spread = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<uint16_t> v(n);
  for (auto& x : v) {
    float f = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    x = uint16_t(bits >> 16);
  }
  return v;
}
inline float from_bf16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}

// Runs body once per instruction set that this machine has.
template <class F>
void on_every_isa(F&& body) {
  for (const char* isa : {"scalar", "sse4", "avx2", "avx3"}) {
    if (kvops_set_option("cpu_isa", isa)) continue;
    INFO(isa);
    body();
  }
  kvops_set_option("cpu_isa", "");
}

// Address space without memory: pages come into being when they are touched.
struct Sparse {
  char* data;
  size_t bytes;
  explicit Sparse(size_t least) {
    const auto page = size_t(getpagesize());
    bytes = (least + page - 1) / page * page;
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(p != MAP_FAILED);
    data = static_cast<char*>(p);
    madvise(data, bytes, MADV_NOHUGEPAGE);
  }
  Sparse(const Sparse&) = delete;
  ~Sparse() { munmap(data, bytes); }

  template <class T>
  T& at(int64_t element) {
    return *reinterpret_cast<T*>(data + element * int64_t(sizeof(T)));
  }
  size_t pages() const {  // that have been touched
    std::vector<unsigned char> resident(bytes / size_t(getpagesize()));
    REQUIRE(mincore(data, bytes, resident.data()) == 0);
    size_t count = 0;
    for (auto r : resident) count += r & 1;
    return count;
  }
};

}  // namespace tests
