// Our own matrix products with packed weights, out = input . weight + bias: what onednn_mm and
// onednn_scaled_mm run on where oneDNN is absent, lacks the type, or is not wanted.
//
// A weight [k, n] is packed once into gemm_packed_bytes() of memory aligned to 64: the same bytes
// on every machine. gemm() sums in f32 with one rounding at the end and uses parallel_for; bits
// depend neither on threads nor on the other rows. gemm_i8() is exact and runs on the caller's
// thread. Both need up to 1 MiB of memory on each thread, which it keeps; false: there was none.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kvcache_ops/types.h"

namespace kvops::cpu {

struct GemmShape {
  int64_t k, n;
  kvops_dtype dtype;  // of weight, input, bias and out: f32 bf16 f16; i8: gemm_i8()
};

inline constexpr int64_t kGemmAlignment = 64;

int64_t gemm_packed_bytes(const GemmShape& shape);

// weight: [k, n] of shape's dtype, any strides.
void gemm_pack(const GemmShape& shape, const kvops_tensor& weight, std::byte* packed);

struct Gemm {
  GemmShape shape;
  const std::byte* packed;
  int64_t m;
  const void* input;     // m rows of k elements
  int64_t input_stride;  // elements from row to row; 0 and negative ones are as good as any
  const void* bias;      // n elements, or NULL
  void* out;             // m rows of n elements
  int64_t out_stride;
};
[[nodiscard]] bool gemm(const Gemm& g);

// Panels of gemm_i8() begin at multiples of this many columns.
inline constexpr int64_t kGemmColumns = 64;

// sums[r][c - begin] = sum_k input[r][k] * weight[k][c] for columns c of [begin, end).
struct GemmI8 {
  GemmShape shape;
  const std::byte* packed;
  int64_t m;
  const int8_t* input;
  int64_t input_stride;
  int64_t begin, end;  // begin: a multiple of kGemmColumns; end: another, or n
  int32_t* sums;
  int64_t sums_stride;
};
[[nodiscard]] bool gemm_i8(const GemmI8& g);

}  // namespace kvops::cpu
