// Gathered records of one size: see gather.cuh. 32 lanes take kRecordRows whole rows; all of their
// loads are on their way before the first store. Every lane has the same parts of every record,
// which a Reader knows:
//
//   Raw read(entry)            what this lane reads of a record
//   write(row, raw), zero(row) what it writes
#pragma once
#include "gpu/gather.cuh"

namespace kvops::gpu {

// Rows that a lane loads at once; on an H200 four are no faster, and one is slower.
inline constexpr int kRecordRows = 2;

template <class Reader>
__global__ void __launch_bounds__(kGatherThreads)
    gather_records_kernel(const GatherMap map, const Plane<Reader> plane) {
  await_queue();
  int64_t warp = int64_t(blockIdx.x) * (kGatherThreads / kWarp) + warp_id();
  map.prefetch_table(warp);
  constexpr int kRows = kRecordRows, kAll = kRows * (kWarp / 32);
  int64_t t = warp * kAll;
  Places places(map.place(t, kAll, true));
  int64_t offset = plane.offset(places.mine);
  uint8_t* to = plane.to + t * plane.row;
  for (int first = 0; first < kAll; first += kRows) {
    typename Reader::Raw raw[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      int64_t from = shuffle(offset, first + i);
      if (places.read >> (first + i) & 1) raw[i] = plane.reader.read(plane.from + from);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      uint8_t* row = to + (first + i) * plane.row;
      if (places.read >> (first + i) & 1) plane.reader.write(row, raw[i]);
      if (places.zeroed >> (first + i) & 1) plane.reader.zero(row);
    }
  }
}

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

template <class Reader>
kvops_status gather_records(const char* op, const gpu::GatherMap& map, const kvops_tensor& on,
                            const GatherLayout& at) {
  constexpr int kRows = gpu::kRecordRows;
  Grid grid = {.x = ceil_div(map.out_rows, kRows * gpu::kGatherThreads / 32),
               .threads = gpu::kGatherThreads};
  return launch_early(op, gpu::gather_records_kernel<Reader>, grid, on, map,
                      plane_of(at, Reader{}, 1));
}

}  // namespace kvops::KVOPS_GPU
