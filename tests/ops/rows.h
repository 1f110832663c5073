// Rows of floats for the tests of operators that work row by row: a matrix in a buffer of garbage,
// at any offset and with any row stride, that can say whether the garbage is still there.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "cpu/convert.h"
#include "ops/tensors.h"

namespace tests {

using kvops::cpu::from_float;
using kvops::cpu::to_float;

template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

template <class T>
class Matrix {
 public:
  int64_t rows, size, offset, stride;
  std::vector<T> data;

  Matrix(int64_t rows, int64_t size, int64_t offset = 0, int64_t stride = 0)
      : rows(rows),
        size(size),
        offset(offset),
        stride(stride ? stride : size),
        data(size_t(offset + rows * this->stride + 16), garbage()) {}

  static T garbage() { return from_float<T>(-333.0f); }
  T* row(int64_t r) { return data.data() + offset + r * stride; }
  const T* row(int64_t r) const { return data.data() + offset + r * stride; }
  kvops_tensor tensor() {
    return tests::tensor(row(0), kvops::dtype_of<T>, {rows, size}, {stride, 1});
  }
  kvops_tensor tensor(const Extents& shape) {
    return tests::tensor(row(0), kvops::dtype_of<T>, shape);
  }

  Matrix& randomize(unsigned seed, float spread = 1, float mean = 0) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(mean, spread);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < size; ++j) row(r)[j] = from_float<T>(normal(random));
    return *this;
  }
  // The same elements somewhere else.
  Matrix moved(int64_t to_offset, int64_t to_stride) const {
    Matrix m(rows, size, to_offset, to_stride);
    for (int64_t r = 0; r < rows; ++r) std::copy(row(r), row(r) + size, m.row(r));
    return m;
  }
  bool equals(const Matrix& m) const {
    return rows == m.rows && size == m.size && [&] {
      for (int64_t r = 0; r < rows; ++r)
        if (size && std::memcmp(row(r), m.row(r), size_t(size) * sizeof(T))) return false;
      return true;
    }();
  }
  // Nothing but the elements has been written.
  bool intact() const {
    for (int64_t i = 0; i < int64_t(data.size()); ++i) {
      const int64_t j = i - offset;
      const bool element = j >= 0 && j < rows * stride && j % stride < size;
      if (!element && !same(data[size_t(i)], garbage())) return false;
    }
    return true;
  }
};

// Memory of 64-byte lines, for results that are larger than the caches.
struct Lines {
  char* data;
  explicit Lines(int64_t bytes)
      : data(static_cast<char*>(std::aligned_alloc(64, size_t(bytes + 127) / 64 * 64))) {}
  Lines(const Lines&) = delete;
  ~Lines() { std::free(data); }
};

// One unit in the last place of a T near x.
template <class T>
double ulp(double x) {
  constexpr int kBits = sizeof(T) == 4 ? 24 : std::is_same_v<T, kvops::f16> ? 11 : 8;
  constexpr int kLeast = std::is_same_v<T, kvops::f16> ? -24 : sizeof(T) == 4 ? -149 : -133;
  int exponent = 0;
  std::frexp(x, &exponent);
  return std::ldexp(1.0, x == 0 ? kLeast : std::max(exponent - kBits, kLeast));
}
// The nearest T, as a double.
template <class T>
double nearest(double x) {
  if (!std::isfinite(x)) return x;
  const double unit = ulp<T>(x);
  return std::nearbyint(x / unit) * unit;
}

// What body() returns in a child process, which must end by itself.
template <class F>
bool true_in_child(F&& body) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(20);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace tests
