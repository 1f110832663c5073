// Row-wise top-k before any vector does: what the workspace holds.
//
//   workspace   counts[64]   i64: candidates in each slice
//               keys         i32 [slices][stride]
//               positions    i32 [slices][stride]
//
// A slice is what one thread needs for one row, or for one piece of a long one. Twice k candidates
// and some: each time that it fills up, at least half of them are dropped, so that the work of
// dropping stays in proportion to the row.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/top_k.h"

namespace kvops::cpu {

struct TopKPlan {
  static constexpr int64_t kBlock = 1024;        // logits looked at between two checks for room
  static constexpr int64_t kPiece = 32768;       // logits of a row that are worth a thread
  static constexpr int64_t kSlices = 64;         // at most; dozens of threads find work
  static constexpr int64_t kBytes = 64ll << 20;  // of all slices, unless one alone needs more
  static constexpr int64_t kSlack = 64;          // a vector's store may reach past the last one

  int64_t capacity = 0, stride = 0, slices = 0;
  int64_t pieces = 1;  // of a row, at most

  TopKPlan(int64_t rows, int64_t columns, int64_t k) {
    if (!rows || !columns) return;
    capacity = std::min(columns, 2 * k + 4 * kBlock);
    stride = (std::max(capacity, 2 * std::min(k, columns)) + 15) / 16 * 16 + kSlack;
    pieces = std::clamp<int64_t>(columns / kPiece, 1, 16);
    const int64_t room = std::max<int64_t>(1, kBytes / (8 * stride));
    slices = std::min({kSlices, std::min(rows, kSlices) * pieces, room});
    pieces = std::min(pieces, slices);
  }
  int64_t bytes() const { return slices ? 8 * kSlices + slices * stride * 8 : 0; }
};

struct TopK {
  TensorView<const float, 2> logits;
  TensorView<int32_t, 2> indices;
  const void* workspace;
  int64_t order;
  TopKRows ranges;

  int64_t rows() const { return indices.shape[0]; }
  int64_t columns() const { return logits.shape[1]; }
  int64_t k() const { return indices.shape[1]; }
  TopKPlan plan() const { return {rows(), columns(), k()}; }

  TopKRows::Range range(int64_t r) const { return ranges.range(r); }
};

// For every byte, the numbers of its bits: those that are set, then the others, each in order.
struct SetBitsFirst {
  alignas(64) uint8_t lane[256][8];
  constexpr SetBitsFirst() : lane() {
    for (int byte = 0; byte < 256; ++byte)
      for (int set = 1, at = 0; set >= 0; --set)
        for (int bit = 0; bit < 8; ++bit)
          if ((byte >> bit & 1) == set) lane[byte][at++] = uint8_t(bit);
  }
};
inline constexpr SetBitsFirst kSetBitsFirst;

// indices[r] of every row r.
kvops_status top_k_per_row(const TopK& job);

}  // namespace kvops::cpu
