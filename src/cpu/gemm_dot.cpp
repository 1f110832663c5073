// Matrix product, AVX-512 dot products: bf16 in pairs of k (vdpbf16ps), s8 in fours (vpdpbusd).
// A kernel holds up to 14 rows of 32 columns of sums in registers; a step is one word of the input,
// broadcast, times a line of the panel twice.
//
// vdpbf16ps rounds after each of a pair's two products, in f32 to nearest even; subnormal inputs
// and results count as zero. vpdpbusd wants one operand unsigned: the input is stored plus 128, and
// the sums start at -128 times the columns' sums; all modulo 2^32, so exact.
#include <immintrin.h>

#include <array>
#include <cstring>
#include <utility>

#include "cpu/gemm_kernels.h"

namespace kvops::cpu {
namespace {

constexpr int kRows = 14, kPairRows = 4;
// A panel's block, 24 KiB, and the rows' 12 KiB fit the first cache.
constexpr int64_t kSteps = 192, kPitch = gemm_pitch(kSteps);

#define KVOPS_DOT __attribute__((target("avx512f,avx512bw,avx512bf16,avx512vnni")))
#define KVOPS_INLINE KVOPS_DOT inline __attribute__((always_inline))

// Members, because GCC keeps members in registers and may spill arrays.
template <int R>
struct Sums {
  __m512i a, b;
  Sums<R - 1> rest;
};
template <>
struct Sums<0> {};

template <int R>
KVOPS_INLINE void load_sums(Sums<R>& sums, const int32_t* p, int64_t pitch) {
  if constexpr (R > 0) {
    sums.a = _mm512_loadu_si512(p), sums.b = _mm512_loadu_si512(p + 16);
    load_sums(sums.rest, p + pitch, pitch);
  }
}
template <int R>
KVOPS_INLINE void store_sums(const Sums<R>& sums, int32_t* p) {
  if constexpr (R > 0) {
    _mm512_storeu_si512(p, sums.a), _mm512_storeu_si512(p + 16, sums.b);
    store_sums(sums.rest, p + kGemmPanel);
  }
}

template <kvops_dtype t>
KVOPS_INLINE __m512i dot(__m512i sum, __m512i x, __m512i w) {
  if constexpr (t == KVOPS_BF16)
    return _mm512_castps_si512(
        _mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)x, (__m512bh)w));
  else
    return _mm512_dpbusd_epi32(sum, x, w);
}
template <kvops_dtype t, int R>
KVOPS_INLINE void add_rows(Sums<R>& sums, const char* x, __m512i a, __m512i b) {
  if constexpr (R > 0) {
    int32_t word;
    std::memcpy(&word, x, 4);
    const auto row = _mm512_set1_epi32(word);
    sums.a = dot<t>(sums.a, row, a), sums.b = dot<t>(sums.b, row, b);
    add_rows<t>(sums.rest, x + kPitch, a, b);
  }
}

// The next line but one of every row.
template <int R>
KVOPS_INLINE void fetch_rows(const char* x) {
  if constexpr (R > 0) {
    _mm_prefetch(x + 128, _MM_HINT_T0);
    fetch_rows<R - 1>(x + kPitch);
  }
}

template <int R>
KVOPS_INLINE void begin_sums(Sums<R>& sums, const int32_t* start, const int32_t* tile) {
  if (start)
    load_sums(sums, start, 0);
  else
    load_sums(sums, tile, kGemmPanel);
}

template <kvops_dtype t, int R>
KVOPS_DOT void kernel(const GemmBlock& block) {
  const char *x = block.rows, *next = block.next;
  const auto* p = reinterpret_cast<const int32_t*>(block.panel);
  auto* tile = reinterpret_cast<int32_t*>(block.tile);
  Sums<R> sums;
  begin_sums(sums, static_cast<const int32_t*>(block.start), tile);
  for (int64_t i = 0; i < block.steps; i += kGemmTileSteps) {
    for (int64_t l = 0; l < block.lines; ++l, next += 64) _mm_prefetch(next, _MM_HINT_T1);
    fetch_rows<R>(x);
    for (int64_t s = 0; s < kGemmTileSteps; ++s, x += 4, p += kGemmPanel)
      add_rows<t>(sums, x, _mm512_loadu_si512(p), _mm512_loadu_si512(p + 16));
  }
  store_sums(sums, tile);
}

template <kvops_dtype t, int R>
KVOPS_DOT void pair(const GemmBlock& block) {
  const char* x = block.rows;
  const auto* p = reinterpret_cast<const int32_t*>(block.panel);
  const auto* q = reinterpret_cast<const int32_t*>(block.panel + block.pair);
  const auto* start = static_cast<const int32_t*>(block.start);
  auto* tile = reinterpret_cast<int32_t*>(block.tile);
  Sums<R> a, b;
  begin_sums(a, start, tile);
  begin_sums(b, start ? start + kGemmPanel : nullptr, tile + R * kGemmPanel);
  for (int64_t s = 0; s < block.steps; ++s, x += 4, p += kGemmPanel, q += kGemmPanel) {
    add_rows<t>(a, x, _mm512_loadu_si512(p), _mm512_loadu_si512(p + 16));
    add_rows<t>(b, x, _mm512_loadu_si512(q), _mm512_loadu_si512(q + 16));
  }
  store_sums(a, tile), store_sums(b, tile + R * kGemmPanel);
}

// 64 bytes at a time: a tile of 16 steps is filled up with zeros.
template <kvops_dtype t>
KVOPS_DOT void convert(const void* row, int64_t k, void* to) {
  const auto* x = static_cast<const char*>(row);
  auto* y = static_cast<char*>(to);
  const int64_t bytes = k * (t == KVOPS_BF16 ? 2 : 1);
  for (int64_t i = 0; i < bytes; i += 64) {
    const auto mask = bytes - i >= 64 ? ~0ULL : (1ULL << (bytes - i)) - 1;
    auto v = _mm512_maskz_loadu_epi8(mask, x + i);
    if (t == KVOPS_I8) v = _mm512_xor_si512(v, _mm512_set1_epi8(-128));
    _mm512_storeu_si512(y + i, v);
  }
}

template <kvops_dtype t, int... R>
constexpr auto table(std::integer_sequence<int, R...>) {
  return std::array<GemmKernel, sizeof...(R)>{&kernel<t, R + 1>...};
}
template <kvops_dtype t, int... R>
constexpr auto pair_table(std::integer_sequence<int, R...>) {
  return std::array<GemmKernel, sizeof...(R)>{&pair<t, R + 1>...};
}

template <kvops_dtype t>
const GemmKernels* kernels() {
  static constexpr auto kTable = table<t>(std::make_integer_sequence<int, kRows>());
  static constexpr auto kPairs = pair_table<t>(std::make_integer_sequence<int, kPairRows>());
  static constexpr GemmKernels k = {.most_rows = kRows,
                                    .whole_tiles = false,
                                    .offset = t == KVOPS_I8,
                                    .steps = kSteps,
                                    .pitch = kPitch,
                                    .convert = &convert<t>,
                                    .kernels = kTable.data(),
                                    .few_rows = kPairRows,
                                    .pair_rows = kPairRows,
                                    .pairs = kPairs.data(),
                                    .begin = nullptr,
                                    .end = nullptr};
  return &k;
}

}  // namespace

const GemmKernels* gemm_dot_kernels(kvops_dtype dtype) {
  return dtype == KVOPS_BF16 ? kernels<KVOPS_BF16>()
         : dtype == KVOPS_I8 ? kernels<KVOPS_I8>()
                             : nullptr;
}

}  // namespace kvops::cpu
