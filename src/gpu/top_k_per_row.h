// What the two row-wise top-k operators share on a GPU.
#pragma once
#include "core/top_k.h"
#include "gpu/launch.h"

namespace kvops::KVOPS_GPU {

struct TopK {
  const char* op;
  const kvops_tensor &logits, &indices, &workspace;
  int64_t order;
  TopKRows ranges;
};

// indices[r] of every row r.
kvops_status top_k_per_row(const TopK& job);
int64_t top_k_per_row_bytes(const kvops_tensor& logits, const kvops_tensor& indices, int64_t order);

// Puts the positions in every row of `indices` in descending order of their
// logits, equal ones by descending position.
kvops_status sort_top_k(const TopK& job);

}  // namespace kvops::KVOPS_GPU
