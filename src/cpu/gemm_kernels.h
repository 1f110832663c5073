// What the kernels of a matrix product share with the loops around them (cpu/gemm.cpp).
//
//   packed weight   panels of 32 columns, one after the other; a panel is steps
//                   f32, f16 [k][32]     bf16 [k / 2][32][2]     i8 [k / 4][32][4]
//                   bf16 and i8: zeros up to a multiple of 16 steps, which is an AMX tile
//                   i8: after all panels 32 sums for each, -128 times the columns' sums
//   block of input  some steps of some rows, converted, each row `pitch` bytes from the next
//   tile            32 f32 or i32 sums of each row, adjacent
#pragma once
#include <cstdint>

#include "cpu/gemm.h"

namespace kvops::cpu {

inline constexpr int64_t kGemmPanel = 32, kGemmTileSteps = 16;

constexpr int64_t gemm_per_step(kvops_dtype t) {
  return t == KVOPS_I8 ? 4 : t == KVOPS_BF16 ? 2 : 1;
}
constexpr int64_t gemm_steps(kvops_dtype t, int64_t k) {
  const int64_t per = gemm_per_step(t), round = per == 1 ? 1 : kGemmTileSteps;
  return ((k + per - 1) / per + round - 1) / round * round;
}
constexpr int64_t gemm_step_bytes(kvops_dtype t) { return kGemmPanel * (t == KVOPS_F16 ? 2 : 4); }
// Bytes of a row of a k block: a word of 4 for each step, and a line, so that the rows of a block
// do not all fall into the same sets of the cache.
constexpr int64_t gemm_pitch(int64_t steps) { return steps * 4 + 64; }

// tile (+)= rows . panel, of one k block.
struct GemmBlock {
  const char* rows;
  const char* panel;
  int64_t steps;
  char* tile;
  const void* start;  // 32 sums to begin every row with; null: the tile's own
  const char* next;   // what the next calls want from memory: fetched ahead, `lines` of 64 bytes
  int64_t lines;      // for every 16 steps
  int64_t pair;       // pair kernels: bytes to the next panel, whose tile follows after the rows of
                      // this one, and whose start is the next 32 sums
};
using GemmKernel = void (*)(const GemmBlock&);

struct GemmKernels {
  int most_rows;         // of one kernel
  bool whole_tiles;      // kernels write a multiple of 16 rows
  bool offset;           // i8: 128 has been added to the input
  int64_t steps, pitch;  // of a block: most steps, bytes from row to row
  // k elements of one row -> its words of one block, zeros up to the last step.
  void (*convert)(const void* row, int64_t k, void* to);
  const GemmKernel* kernels;  // [rows - 1]
  int few_rows;               // up to so many rows, nothing is fetched ahead
  int pair_rows;              // up to so many rows two panels at once: more chains, two streams
  const GemmKernel* pairs;    // [rows - 1]
  void (*begin)();            // on a thread, before and after its kernels; or null
  void (*end)();
};

// Of a dtype; null where the file has none for it. The caller asks cpu/features.h first.
const GemmKernels* gemm_simd_kernels(kvops_dtype dtype);
const GemmKernels* gemm_dot_kernels(kvops_dtype dtype);
const GemmKernels* gemm_amx_kernels(kvops_dtype dtype);

// Which of them, for tests: at most this one, as far as machine, instruction set and dtype go.
enum class GemmPath { simd, dot, amx };
void limit_gemm_path(GemmPath most);

// Sums of a tile -> elements of a row of `out`, with bias or null, one rounding; i8: the sums.
struct GemmResult {
  int64_t rows, cols;
  const char* tile;
  const char* bias;  // of the first column
  char* out;         // of the first row and column
  int64_t stride;    // bytes
};
void gemm_finish(kvops_dtype dtype, const GemmResult& r);

// `cols` columns from `weight` on -> one panel, and where `start` is given its 32 sums.
struct GemmWeight {
  int64_t k, cols;
  const void* weight;
  int64_t k_stride, n_stride;
};
void gemm_pack_panel(kvops_dtype dtype, const GemmWeight& w, void* panel, int32_t* start);

}  // namespace kvops::cpu
