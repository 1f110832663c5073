// Matrix product, AMX tiles: bf16 (tdpbf16ps) and s8 (tdpbssd). A kernel makes 16 or 32 rows of 32
// columns: up to four tiles of sums, two of the input, two of the panel; 16 steps are one tile.
//
// tdpbf16ps adds the even and the odd products of a tile's 32 k separately, each in order, then
// both to the sum, in f32 to nearest even; subnormal inputs and results count as zero.
#include <immintrin.h>

#include <array>
#include <cstring>
#include <utility>

#include "cpu/gemm_kernels.h"

namespace kvops::cpu {
namespace {

constexpr int kRows = 32;
// Long blocks: rows are copied faster in long pieces, and sums go through memory less often.
constexpr int64_t kSteps = 1024, kPitch = gemm_pitch(kSteps);
constexpr int64_t kTileRow = 64, kSumsRow = kGemmPanel * 4;  // bytes

#define KVOPS_TILES __attribute__((target("amx-tile,amx-bf16,amx-int8")))
#define KVOPS_INLINE KVOPS_TILES inline __attribute__((always_inline))

// All eight tiles are 16 rows of 64 bytes. Constant memory: the intrinsic tells the compiler of its
// first bytes only, so that stores into a local one would vanish.
struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Config kConfig;
KVOPS_TILES void begin() { _tile_loadconfig(&kConfig); }
KVOPS_TILES void end() { _tile_release(); }

// Tiles: sums 0 1 (rows 0..15), 2 3 (16..31); input 4, 5; panel 6, 7.
template <bool two>
KVOPS_INLINE void load_sums(const char* c, bool zero) {
  if (zero) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  _tile_loadd(0, c, kSumsRow);
  _tile_loadd(1, c + kTileRow, kSumsRow);
  if (two) {
    _tile_loadd(2, c + 16 * kSumsRow, kSumsRow);
    _tile_loadd(3, c + 16 * kSumsRow + kTileRow, kSumsRow);
  }
}
template <bool two>
KVOPS_INLINE void store_sums(char* c) {
  _tile_stored(0, c, kSumsRow);
  _tile_stored(1, c + kTileRow, kSumsRow);
  if (two) {
    _tile_stored(2, c + 16 * kSumsRow, kSumsRow);
    _tile_stored(3, c + 16 * kSumsRow + kTileRow, kSumsRow);
  }
}

template <kvops_dtype t, bool two>
KVOPS_TILES void kernel(const GemmBlock& block) {
  const char *x = block.rows, *p = block.panel, *next = block.next;
  load_sums<two>(block.tile, block.start != nullptr);
  for (int64_t s = 0; s < block.steps; s += kGemmTileSteps) {
    for (int64_t l = 0; l < block.lines; ++l, next += 64) _mm_prefetch(next, _MM_HINT_T1);
    _tile_loadd(4, x, kPitch);
    _tile_loadd(6, p, kSumsRow);
    _tile_loadd(7, p + kTileRow, kSumsRow);
    if (two) _tile_loadd(5, x + 16 * kPitch, kPitch);
    if constexpr (t == KVOPS_BF16) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (two) _tile_dpbf16ps(2, 5, 6);
      if (two) _tile_dpbf16ps(3, 5, 7);
    } else {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      if (two) _tile_dpbssd(2, 5, 6);
      if (two) _tile_dpbssd(3, 5, 7);
    }
    x += kTileRow, p += kGemmTileSteps * kSumsRow;
  }
  store_sums<two>(block.tile);
}

void convert(const void* row, int64_t bytes, void* to) {
  auto* y = static_cast<char*>(to);
  std::memcpy(y, row, size_t(bytes));
  const int64_t whole = (bytes + kTileRow - 1) / kTileRow * kTileRow;
  std::memset(y + bytes, 0, size_t(whole - bytes));
}
template <kvops_dtype t>
void convert(const void* row, int64_t k, void* to) {
  convert(row, k * (t == KVOPS_BF16 ? 2 : 1), to);
}

template <kvops_dtype t, int... R>
constexpr auto table(std::integer_sequence<int, R...>) {
  return std::array<GemmKernel, sizeof...(R)>{&kernel<t, (R >= 16)>...};
}

template <kvops_dtype t>
const GemmKernels* kernels() {
  static constexpr auto kTable = table<t>(std::make_integer_sequence<int, kRows>());
  static constexpr GemmKernels k = {.most_rows = kRows,
                                    .whole_tiles = true,
                                    .offset = false,
                                    .steps = kSteps,
                                    .pitch = kPitch,
                                    .convert = &convert<t>,
                                    .kernels = kTable.data(),
                                    .few_rows = kRows,
                                    .pair_rows = 0,
                                    .pairs = nullptr,
                                    .begin = &begin,
                                    .end = &end};
  return &k;
}

}  // namespace

const GemmKernels* gemm_amx_kernels(kvops_dtype dtype) {
  return dtype == KVOPS_BF16 ? kernels<KVOPS_BF16>()
         : dtype == KVOPS_I8 ? kernels<KVOPS_I8>()
                             : nullptr;
}

}  // namespace kvops::cpu
