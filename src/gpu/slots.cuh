// Where the tokens of a slot_mapping go. Negative slots are padding; those from the capacity on are
// skipped and counted, by one thread each.
#pragma once
#include "gpu/device.cuh"

namespace kvops::gpu {

// A place in a cache; block -1: not to be written.
struct Place {
  int64_t block, at;
};

struct SlotMap {
  const int64_t* slot;
  int64_t tokens, capacity;
  Splitter block;
  int64_t* faults;

  // Of token t < tokens; `counts`: by this thread, if it is a bad one.
  __device__ Place place(int64_t t, bool counts) const { return place_of(slot[t], counts); }
  __device__ Place place_of(int64_t s, bool counts) const {
    if (s >= 0 && s < capacity) {
      auto [quotient, remainder] = block(s);
      return {quotient, remainder};
    }
    if (s >= 0 && counts) add_fault(faults);
    return {-1, 0};
  }
};

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

inline gpu::SlotMap slot_map(const kvops_tensor& slots, int64_t blocks, int64_t block,
                             const kvops_tensor& faults) {
  return {static_cast<const int64_t*>(slots.data), slots.shape[0], blocks * block,
          gpu::Splitter(block > 0 ? block : 1), static_cast<int64_t*>(faults.data)};
}

}  // namespace kvops::KVOPS_GPU
