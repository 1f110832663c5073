// Dot products of bf16 rows by the processor's own instruction: 16 tokens and up to 4 heads at a
// time, 8 elements of 4 tokens in a vector. Sums are those of f32, in one order for all layouts:
// elements 8p + 2i and 8p + 2i + 1 go to partial sum i, p ascending, the partial sums as
// (0 + 2) + (1 + 3).
//
// The instruction takes subnormal numbers as 0. takes_dots() keeps queries away from it for which
// that could show: a lost key is below 2^-126, so the logit is off by less than size * 2^-46.
#include "cpu/paged_rows-inl.h"
#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_PAGED_DOTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_PAGED_DOTS_INL_H_
#undef KVOPS_CPU_PAGED_DOTS_INL_H_
#else
#define KVOPS_CPU_PAGED_DOTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// n elements of q to `halves`; false if one of them is no bf16 number or must not be used.
inline bool takes_dots(const float* q, int64_t n, bf16* halves) {
  bool fine = true;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = float_bits(q[i]), m = bits & 0x7FFFFFFF;
    fine &= (m & 0xFFFF) == 0 && (m == 0 || (m >= 1u << 23 && m <= 207u << 23));  // 2^-126 to 2^80
    halves[i].bits = uint16_t(bits >> 16);
  }
  return fine;
}

#if HWY_TARGET == HWY_AVX3
#define KVOPS_BF16_DOTS __attribute__((target("avx512bf16"), noinline))

// logits[h * kTile + t] for H heads and n tokens; rows lie as L says. Writes whole sixteens.
template <int H, Lie L>
KVOPS_BF16_DOTS void dot_tile_bf16(const bf16* q, int64_t pitch, const bf16* const* rows,
                                   int64_t piece, int n, int64_t size, float* logits,
                                   Ahead& ahead) {
  const int64_t step = L == Lie::rows ? 8 : piece;
  const int turns = int(ceil_div(n, 16) * (size / 8));
  const int lines = ahead.num_rows * ahead.lines / turns + 1;
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int t = 0; t < n; t += 16) {
    const bf16* row[16];
    bool joined = L == Lie::pieces;
    for (int i = 0; i < 16; ++i) row[i] = rows[HWY_MIN(t + i, n - 1)];
    for (int i = 0; i < 16; ++i) joined &= row[i] - row[i / 4 * 4] == i % 4 * 8;
    __m512 sum[H][4];
    for (int h = 0; h < H; ++h)
      for (int j = 0; j < 4; ++j) sum[h][j] = _mm512_setzero_ps();
    for (int64_t p = 0, at = 0; p < size; p += 8, at += step) {
      __m512i k[4];
      for (int j = 0; j < 4; ++j) {
        if (joined) {
          k[j] = _mm512_loadu_si512(row[4 * j] + at);
        } else {
          auto part = [&](int i) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[4 * j + i] + at));
          };
          const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(1), 1);
          const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(part(2)), part(3), 1);
          k[j] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        }
      }
      for (int h = 0; h < H; ++h) {
        const __m512i x = _mm512_broadcast_i32x4(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + h * pitch + p)));
        for (int j = 0; j < 4; ++j)
          sum[h][j] = _mm512_dpbf16_ps(sum[h][j], (__m512bh)k[j], (__m512bh)x);
      }
      ahead.fetch(lines);
    }
    for (int h = 0; h < H; ++h) {
      auto halves = [&](int a, int b) {
        return _mm512_add_ps(_mm512_unpacklo_ps(sum[h][a], sum[h][b]),
                             _mm512_unpackhi_ps(sum[h][a], sum[h][b]));
      };
      const __m512d s01 = _mm512_castps_pd(halves(0, 1)), s23 = _mm512_castps_pd(halves(2, 3));
      const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(s01, s23)),
                                       _mm512_castpd_ps(_mm512_unpackhi_pd(s01, s23)));
      // Lane 4 l + j of `all` is token 4 j + l.
      _mm512_storeu_ps(logits + h * kTile + t, _mm512_permutexvar_ps(order, all));
    }
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
