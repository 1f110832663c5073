// gemm: out = input . weight + bias over packed weights; see gemm.h.
// Packing: the weight as [k][n], dense. A thread takes some rows; sums of a few columns stay on the
// stack while all of k passes. Sums in f32 from k = 0 on, bias last, one rounding.
#include "cpu/gemm.h"

#include <algorithm>

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/convert.h"
#include "cpu/parallel.h"

namespace kvops::cpu {
namespace {

constexpr int64_t kBlock = 256;  // columns summed at a time: 1 KiB of sums

using GemmTypes = DtypeList<float, f16, bf16, int8_t>;

template <class T>
void pack(const kvops_tensor& weight, std::byte* packed) {
  const auto w = view<const T, 2>(weight);
  auto* out = reinterpret_cast<T*>(packed);
  for (int64_t i = 0; i < w.shape[0]; ++i)
    for (int64_t j = 0; j < w.shape[1]; ++j) out[i * w.shape[1] + j] = w(i, j);
}

template <class T>
void multiply_row(const Gemm& g, int64_t row) {
  const auto* x = static_cast<const T*>(g.input) + row * g.input_stride;
  const auto* weight = reinterpret_cast<const T*>(g.packed);
  const auto* bias = static_cast<const T*>(g.bias);
  auto* y = static_cast<T*>(g.out) + row * g.out_stride;
  for (int64_t begin = 0; begin < g.shape.n; begin += kBlock) {
    const int64_t count = std::min(kBlock, g.shape.n - begin);
    float sums[kBlock] = {};
    for (int64_t i = 0; i < g.shape.k; ++i) {
      const T* w = weight + i * g.shape.n + begin;
      const float xi = to_float(x[i]);
      for (int64_t j = 0; j < count; ++j) sums[j] += xi * to_float(w[j]);
    }
    for (int64_t j = 0; j < count; ++j)
      y[begin + j] = from_float<T>(bias ? sums[j] + to_float(bias[begin + j]) : sums[j]);
  }
}

}  // namespace

int64_t gemm_packed_bytes(const GemmShape& shape) {
  return shape.k * shape.n * dtype(shape.dtype).size;
}

void gemm_pack(const GemmShape& shape, const kvops_tensor& weight, std::byte* packed) {
  dispatch("gemm", "weight", shape.dtype, GemmTypes{}, [&]<class T>() {
    pack<T>(weight, packed);
    return kvops_status{KVOPS_OK};
  });
}

void gemm(const Gemm& g) {
  dispatch("gemm", "input", g.shape.dtype, Floats{}, [&]<class T>() {
    parallel_for(g.m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) multiply_row<T>(g, r);
    });
    return kvops_status{KVOPS_OK};
  });
}

void gemm_i8(const GemmI8& g) {
  const auto* weight = reinterpret_cast<const int8_t*>(g.packed);
  for (int64_t r = 0; r < g.m; ++r) {
    const int8_t* x = g.input + r * g.input_stride;
    int32_t* sums = g.sums + r * g.sums_stride;
    std::fill_n(sums, g.end - g.begin, 0);
    for (int64_t i = 0; i < g.shape.k; ++i) {
      const int8_t* w = weight + i * g.shape.n + g.begin;
      for (int64_t j = 0; j < g.end - g.begin; ++j) sums[j] += x[i] * w[j];
    }
  }
}

}  // namespace kvops::cpu
