// Gathered rows of a paged cache: the walk that all gathers share, and the kernel around it.
//
//   rows   | .. | b: .......|...............|..... | b+1: ....      pos = t - starts[b] + first
//   pages       |   page    |   page + 1    |                       of the request
//
// A warp takes groups that follow each other, of as many rows as they happen to be of, at most one
// for each lane. Each lane finds the request of its row and through the block table where the entry
// lies; then all of them move the groups, kUnroll loads of a lane on their way before its first
// store. Warps wait for none but their own loads. A Reader makes groups:
//
//   kFrom, kTo            bytes of a group, in an entry and in a row
//   start()               reads what all groups need
//   Raw read(from)        a group as it lies in the cache
//   write(to, raw), zero(to)
#pragma once
#include "core/integers.h"
#include "gpu/early.cuh"
#include "gpu/lanes.cuh"
#include "gpu/vec.cuh"

namespace kvops::gpu {

inline constexpr int kGatherThreads = 256;
// Groups that a lane loads at once; those that 32 lanes take.
inline constexpr int kGatherUnroll = 4, kGatherStep = 32 * kGatherUnroll;
// Entries of a table that is wanted in L2 before anybody knows which of them: 64 KiB.
inline constexpr int64_t kGatherSmallTable = 1 << 14;

// Where an entry lies; block -1: nowhere, and the row is left alone, -2: it becomes zeros.
struct PageSlot {
  int block;
  uint32_t at;
};
inline constexpr int kNobody = -1, kZeroed = -2;

struct GatherMap {
  const int32_t* starts;      // first row of each request
  const int32_t* seq_starts;  // position of that row in the request; nullptr: 0
  const int32_t* table;
  int64_t table_stride, batch, width, out_rows;
  uint32_t blocks;  // that an i32 can name
  Splitter block;
  int table_lines;              // of 128 bytes, of a small table
  bool with_end, zero_invalid;  // with_end: starts[batch] ends the last request, else out_rows
  int64_t* faults;

  // A small table comes into L2 while the requests do.
  __device__ void prefetch_table(int64_t warp) const {
    if (warp < table_lines && lane_id() == 0) prefetch(table + 32 * warp);
  }

  // The last request that begins at or before row t >= begin = starts[0]. Rows from `end` on are
  // nobody's.
  struct Request {
    int64_t b, end;
    int32_t begin, start, first;
  };
  // Of row t of each lane; `last` is the largest of them, and that of lane 0 the smallest. Few
  // requests are read at once, one by each lane, and most warps are within one.
  __device__ Request request(int64_t t, int64_t last) const {
    if (batch > kWarp) return request_of_many(t);
    bool mine = lane_id() < batch;
    int end = with_end ? starts[batch] : 0, start = mine ? starts[lane_id()] : 0;
    int first = mine && seq_starts ? seq_starts[lane_id()] : 0;
    auto begun = [&](int64_t row) { return ballot(mine && start <= row); };
    LaneMask all = begun(last);
    int b = all ? last_lane(all) : 0;
    if (shuffle(start, b) > shuffle(int(t < INT32_MAX ? t : INT32_MAX), 0)) {
      b = 0;
      for (int step = kWarp / 2; step; step /= 2) {
        bool before = shuffle(start, b + step) <= t;
        if (before && b + step < int(batch)) b += step;
      }
    }
    return {b, with_end && end < out_rows ? end : out_rows, shuffle(start, 0), shuffle(start, b),
            shuffle(first, b)};
  }
  __device__ Request request_of_many(int64_t t) const {
    int64_t low = 0, high = batch, end = with_end ? starts[batch] : out_rows;
    while (high - low > 1) {
      int64_t middle = (low + high) / 2;
      (starts[middle] <= t ? low : high) = middle;
    }
    return {low, end < out_rows ? end : out_rows, starts[0], starts[low],
            seq_starts ? seq_starts[low] : 0};
  }

  // Of row t + lane, if it is one of n; `counts`: by this lane, if it is the first row of a page
  // that is none.
  __device__ PageSlot place(int64_t first_row, int n, bool counts) const {
    int64_t t = first_row + lane_id();
    auto r = request(t, first_row + n - 1);
    if (lane_id() >= n || t >= r.end || t < r.begin) return {kNobody, 0};
    int64_t pos = t - r.start + r.first;
    auto [page, at] = page_of(pos);
    int id = page >= 0 && page < width ? table[r.b * table_stride + page] : -1;
    if (uint32_t(id) < blocks) return {id, uint32_t(at)};
    if (counts && (at == 0 || t == r.start || t == 0)) add_fault(faults);
    return {zero_invalid ? kZeroed : kNobody, 0};
  }
  __device__ Split page_of(int64_t pos) const {
    if (uint64_t(pos) > INT32_MAX) return page_far(pos, block.d);
    auto at = block(uint32_t(pos));
    return {at.quotient, at.remainder};
  }
  static __device__ __noinline__ Split page_far(int64_t pos, int64_t block) {
    return {pos < 0 ? -1 : pos / block, pos % block};
  }
};

// The places of a warp's rows, one in each lane.
struct Places {
  PageSlot mine;
  LaneMask read, zeroed;  // rows of either kind; others are left alone

  __device__ explicit Places(const PageSlot& place)
      : mine(place), read(ballot(place.block >= 0)), zeroed(ballot(place.block == kZeroed)) {}
};

// Parts of the slots of a cache that become `groups` groups of a row. Strides in bytes.
template <class R>
struct Plane {
  using Reader = R;
  const uint8_t* from;
  int64_t block, slot;
  uint8_t* to;
  int64_t row;
  Splitter groups;
  Reader reader;

  __device__ int64_t offset(const PageSlot& place) const {
    return place.block * block + place.at * slot;
  }
};

// Groups of a warp, those of each lane kWarp apart. Lane i has the offset of the entry of row i.
template <class Plane>
struct Walk {
  int64_t offset;
  uint8_t* to;  // row 0
  uint32_t row, group, row_step, group_step;
  int left;  // groups from this lane's first one on

  // From group `skip` of row 0 on, n groups.
  __device__ Walk(const Plane& plane, const Places& places, int64_t t, uint32_t skip, int n)
      : offset(plane.offset(places.mine)), to(plane.to + t * plane.row), left(n - lane_id()) {
    auto first = plane.groups(skip + uint32_t(lane_id())), step = plane.groups(uint32_t(kWarp));
    row = first.quotient, group = first.remainder;
    row_step = step.quotient, group_step = step.remainder;
  }
  __device__ void advance(uint32_t groups) {
    left -= kWarp, row += row_step, group += group_step;
    if (group >= groups) group -= groups, ++row;
  }
};
template <class Plane, int kUnroll>
struct Chunk {
  using Reader = typename Plane::Reader;
  typename Reader::Raw raw[kUnroll];
  uint8_t* to[kUnroll];
  bool read[kUnroll], zeroed[kUnroll];

  __device__ void load(const Plane& plane, const Places& places, Walk<Plane>& walk) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      int lane = int(walk.row % kWarp);
      int64_t from = shuffle(walk.offset, lane) + int64_t(walk.group) * Reader::kFrom;
      read[i] = walk.left > 0 && (places.read >> lane & 1);
      zeroed[i] = walk.left > 0 && (places.zeroed >> lane & 1);
      if (read[i]) raw[i] = plane.reader.read(plane.from + from);
      to[i] = walk.to + walk.row * plane.row + int64_t(walk.group) * Reader::kTo;
      walk.advance(uint32_t(plane.groups.d));
    }
  }
  __device__ void store(const Plane& plane) const {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (read[i]) plane.reader.write(to[i], raw[i]);
      if (zeroed[i]) plane.reader.zero(to[i]);
    }
  }
};

// The groups of one warp, `step` of those of all rows.
template <class P>
__device__ void gather_step(const GatherMap& map, const P& of, int64_t warp, int step,
                            bool counts) {
  map.prefetch_table(warp);
  P plane = of;
  plane.reader.start();
  auto [t, group] = plane.groups(warp * step);
  auto skip = uint32_t(group);
  int rows = int(plane.groups(skip + uint32_t(step) - 1).quotient) + 1;
  Places places(map.place(t, rows, counts && (lane_id() || !skip)));
  Walk<P> walk(plane, places, t, skip, step);
  for (int done = 0; done < step; done += kWarp * kGatherUnroll) {
    Chunk<P, kGatherUnroll> chunk;
    chunk.load(plane, places, walk);
    chunk.store(plane);
  }
}

// On an H200 five blocks on a multiprocessor are faster than four.
template <class P>
__global__ void __launch_bounds__(kGatherThreads, 5)
    gather_kernel(const GatherMap map, const P plane, const int step_of_32) {
  await_queue();
  int64_t warp = int64_t(blockIdx.x) * (kGatherThreads / kWarp) + warp_id();
  gather_step(map, plane, warp, step_of_32 * (kWarp / 32), true);
}
struct Steps {
  int a, b;
};
// Rows of two planes. Thread blocks from `second_block` on have the second one.
template <class A, class B>
__global__ void __launch_bounds__(kGatherThreads, 5)
    gather_two_kernel(const GatherMap map, const A a, const B b, const int64_t second_block,
                      const Steps steps_of_32) {
  await_queue();
  bool second = blockIdx.x >= second_block;
  int64_t block = blockIdx.x - (second ? second_block : 0);
  int64_t warp = block * (kGatherThreads / kWarp) + warp_id();
  if (second)
    gather_step(map, b, warp, steps_of_32.b * (kWarp / 32), false);
  else
    gather_step(map, a, warp, steps_of_32.a * (kWarp / 32), true);
}

// Units of 1, 2, 4 or 16 bytes as they are.
template <class Unit>
struct CopyReader {
  using Raw = Unit;
  static constexpr int kFrom = sizeof(Unit), kTo = sizeof(Unit);

  __device__ void start() {}
  __device__ Raw read(const uint8_t* from) const { return *reinterpret_cast<const Unit*>(from); }
  __device__ void write(uint8_t* to, Raw raw) const { *reinterpret_cast<Unit*>(to) = raw; }
  __device__ void zero(uint8_t* to) const { *reinterpret_cast<Unit*>(to) = Unit{}; }
};

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

// Args: those of a gather. starts: [batch + 1] with the end of the last request, or without.
template <class Args>
gpu::GatherMap gather_map(const Args& a, const kvops_tensor& starts, bool with_end,
                          int64_t out_rows) {
  int64_t block = a.kv_cache.shape[1], blocks = block ? a.kv_cache.shape[0] : 0;
  auto table = view<const int32_t, 2>(a.block_table);
  int64_t last = table.shape[0] ? (table.shape[0] - 1) * table.stride[0] + table.shape[1] : 0;
  constexpr int64_t kNames = int64_t(INT32_MAX) + 1;
  bool prefetched = table.stride[0] >= 0 && last <= gpu::kGatherSmallTable;
  return {static_cast<const int32_t*>(starts.data),
          static_cast<const int32_t*>(a.seq_starts.data),
          table.data,
          table.stride[0],
          table.shape[0],
          table.shape[1],
          with_end && out_rows > INT32_MAX ? INT32_MAX : out_rows,
          uint32_t(blocks < kNames ? blocks : kNames),
          gpu::Splitter(block ? block : 1),
          prefetched ? int((last + 31) / 32) : 0,
          with_end,
          a.zero_invalid != 0,
          static_cast<int64_t*>(a.faults.data)};
}

// Bytes of a row of a result, whose dimensions after the first are dense.
inline int64_t row_bytes(const kvops_tensor& out) {
  int64_t bytes = dtype(out.dtype).size;
  for (int i = 1; i < out.rank; ++i) bytes *= out.shape[i];
  return bytes;
}

// Where entries of a cache [blocks, block, ...] and rows [rows, ...] lie. What is empty may
// have any strides, and is not read.
struct GatherLayout {
  const uint8_t* from;
  int64_t block, slot;  // strides in bytes
  uint8_t* to;
  int64_t row, bytes;  // stride of rows; of what is moved in one

  // Do all rows begin at multiples of so many bytes, and all entries?
  bool rows_at(int64_t n) const { return is_multiple(to, n) && row % n == 0; }
  bool entries_at(int64_t n) const {
    return is_multiple(from, n) && block % n == 0 && slot % n == 0;
  }
};
inline GatherLayout gather_layout(const kvops_tensor& cache, const kvops_tensor& out) {
  int64_t size = dtype(cache.dtype).size, to = dtype(out.dtype).size;
  auto stride = [&](int i) {
    return is_empty(cache) || cache.shape[i] == 1 ? 0 : cache.stride[i] * size;
  };
  return {static_cast<const uint8_t*>(cache.data),
          stride(0),
          stride(1),
          static_cast<uint8_t*>(out.data),
          out.shape[0] > 1 ? out.stride[0] * to : 0,
          row_bytes(out)};
}

template <class Reader>
gpu::Plane<Reader> plane_of(const GatherLayout& at, const Reader& reader, int64_t groups) {
  return {at.from, at.block, at.slot, at.to, at.row, gpu::Splitter(groups), reader};
}

// Groups of 32 lanes, of 32 rows at most. Where multiprocessors have plenty of warps even so (16 on
// an H200), twice what a lane loads at once; less where some would have hardly any.
inline int gather_step(const gpu::GatherMap& map, const kvops_tensor& on, int64_t groups) {
  int64_t step = groups < 4 ? 32 * groups : gpu::kGatherStep, all = map.out_rows * groups;
  if (groups >= 8 && all >= 16 * compute_units(on) * 2 * step) return int(2 * step);
  while (step > 32 && all < 8 * compute_units(on) * step) step /= 2;
  return int(step);
}
// Thread blocks of so many groups.
inline int64_t gather_blocks(const gpu::GatherMap& map, int64_t groups, int step) {
  return ceil_div(map.out_rows * groups, step * (gpu::kGatherThreads / 32));
}

// Of a row in one launch: 31 bits count them and what follows them in a step.
inline constexpr int64_t kMostGroups = 1 << 30;

// One launch, but of rows with more groups than that.
template <class Reader>
kvops_status gather_one(const char* op, gpu::GatherMap map, const kvops_tensor& on, GatherLayout at,
                        const Reader& reader, int64_t groups) {
  for (; groups > 0;
       groups -= kMostGroups, at.from += kMostGroups * Reader::kFrom, map.faults = nullptr) {
    int64_t n = groups < kMostGroups ? groups : kMostGroups;
    int step = gather_step(map, on, n);
    Grid grid = {.x = gather_blocks(map, n, step), .threads = gpu::kGatherThreads};
    if (auto status = launch_early(op, gpu::gather_kernel<gpu::Plane<Reader>>, grid, on, map,
                                   plane_of(at, reader, n), step))
      return status;
    at.to += kMostGroups * Reader::kTo;
  }
  return KVOPS_OK;
}

// Rows that are copies of entries, or of a part of each; defined in cp_gather_cache.cu.
kvops_status gather_copies(const char* op, const gpu::GatherMap& map, const kvops_tensor& on,
                           const GatherLayout& at);

}  // namespace kvops::KVOPS_GPU
