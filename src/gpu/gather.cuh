// Gathered rows of a paged cache: the walk that all gathers share, and the kernel around it.
//
//   rows   | .. | b: .......|...............|..... | b+1: ....      pos = t - starts[b] + first
//   pages       |   page    |   page + 1    |                       of the request
//
// A thread block takes some rows that follow each other. One thread of it per row finds the request
// by bisection, and through the block table where the entry lies; then all of them move groups of
// the rows, kUnroll loads of a thread on their way before its first store. A Reader makes groups:
//
//   start()                       reads what all groups need
//   Raw read(entry, g)            group g of an entry, as it lies in the cache
//   int64_t at(g)                 where it is in a row of the result, in bytes
//   write(to, raw), zero(to, g)   the group there
#pragma once
#include "gpu/slots.cuh"
#include "gpu/vec.cuh"

namespace kvops::gpu {

inline constexpr int kGatherThreads = 256;
// Rows of a thread block at most; groups of a thread that are loaded at once.
inline constexpr int kGatherRows = 256, kGatherUnroll = 4;
inline constexpr int kGatherStep = kGatherThreads * kGatherUnroll;

struct GatherMap {
  const int32_t* starts;      // first row of each request
  const int32_t* seq_starts;  // position of that row in the request; nullptr: 0
  const int32_t* table;
  int64_t table_stride, batch, width, blocks, out_rows;
  Splitter block;
  bool with_end, zero_invalid;  // with_end: starts[batch] ends the last request, else out_rows
  int64_t* faults;

  // Places that are none, as blocks and as offsets, which may be negative.
  static constexpr int64_t kNobody = INT64_MIN, kZeroed = INT64_MIN + 1;

  // Rows from here on are nobody's.
  __device__ int64_t rows() const {
    if (!with_end) return out_rows;
    int64_t end = starts[batch];
    return end < out_rows ? end : out_rows;
  }
  // The last request that begins at or before row t >= starts[0].
  __device__ int64_t owner(int64_t t) const {
    int64_t low = 0, high = batch;
    while (high - low > 1) {
      int64_t middle = (low + high) / 2;
      (starts[middle] <= t ? low : high) = middle;
    }
    return low;
  }
  // Of row t < rows(); `counts`: by this thread, if it is the first row of a page that is none.
  __device__ Place place(int64_t t, bool counts) const {
    if (t < starts[0]) return {kNobody, 0};
    int64_t b = owner(t), first = starts[b];
    int64_t pos = t - first + (seq_starts ? seq_starts[b] : 0);
    auto [page, at] = pos < 0 ? Split{-1, pos % block.d} : block(pos);
    int64_t id = page >= 0 && page < width ? table[b * table_stride + page] : -1;
    if (id >= 0 && id < blocks) return {id, at};
    if (counts && (at == 0 || t == first || t == 0)) add_fault(faults);
    return {zero_invalid ? kZeroed : kNobody, 0};
  }
};

// Parts of the slots of a cache that become groups of rows. Strides in bytes.
template <class Reader>
struct Plane {
  const uint8_t* from;
  int64_t block, slot;
  uint8_t* to;
  int64_t row;
  Reader reader;

  __device__ int64_t offset(const Place& place) const {
    return place.block < 0 ? place.block : place.block * block + place.at * slot;
  }
  __device__ typename Reader::Raw read(int64_t offset, int64_t g) const {
    return reader.read(from + offset, g);
  }
  __device__ uint8_t* target(int64_t t, int64_t g) const { return to + t * row + reader.at(g); }
};

// What a row is made of. read() and write() know a group of a row by one number.
template <class A>
struct OnePlane {
  static constexpr int kCount = 1;
  using Raw = typename A::Raw;
  Plane<A> a;
  Splitter groups;

  __device__ void start() { a.reader.start(); }
  __device__ int64_t offset(int, const Place& place) const { return a.offset(place); }
  __device__ Raw read(const int64_t (*offsets)[kGatherRows], int64_t r, int64_t g) const {
    return a.read(offsets[0][r], g);
  }
  __device__ void write(int64_t t, int64_t g, const Raw& raw) const {
    a.reader.write(a.target(t, g), raw);
  }
  __device__ void zero(int64_t t, int64_t g) const { a.reader.zero(a.target(t, g), g); }
};
// Two planes that the same entry is cut into: groups of the second one follow those of the first.
template <class A, class B>
struct TwoPlanes {
  static constexpr int kCount = 2;
  struct Raw {
    typename A::Raw a;
    typename B::Raw b;
  };
  Plane<A> a;
  Plane<B> b;
  int64_t first;  // groups of a
  Splitter groups;

  __device__ void start() {}
  __device__ int64_t offset(int i, const Place& place) const {
    return i ? b.offset(place) : a.offset(place);
  }
  __device__ Raw read(const int64_t (*offsets)[kGatherRows], int64_t r, int64_t g) const {
    Raw raw;
    if (g < first)
      raw.a = a.read(offsets[0][r], g);
    else
      raw.b = b.read(offsets[1][r], g - first);
    return raw;
  }
  __device__ void write(int64_t t, int64_t g, const Raw& raw) const {
    if (g < first)
      a.reader.write(a.target(t, g), raw.a);
    else
      b.reader.write(b.target(t, g - first), raw.b);
  }
  __device__ void zero(int64_t t, int64_t g) const {
    if (g < first)
      a.reader.zero(a.target(t, g), g);
    else
      b.reader.zero(b.target(t, g - first), g - first);
  }
};

// Rows [t, t + n), whose entries lie at the offsets, by all blocks of one column of the grid.
template <class Planes>
__device__ void move(Planes planes, const int64_t (*offsets)[kGatherRows], int64_t t, int n) {
  planes.start();
  int64_t items = n * planes.groups.d;
  for (int64_t base = int64_t(blockIdx.y) * kGatherStep + int(threadIdx.x); base < items;
       base += int64_t(gridDim.y) * kGatherStep) {
    typename Planes::Raw raw[kGatherUnroll];
    int row[kGatherUnroll];
    int64_t group[kGatherUnroll];
#pragma unroll
    for (int i = 0; i < kGatherUnroll; ++i) {
      int64_t item = base + i * kGatherThreads;
      row[i] = -1;
      if (item >= items) continue;
      auto [r, g] = planes.groups(item);
      int64_t offset = offsets[0][r];
      if (offset == GatherMap::kNobody) continue;
      row[i] = int(r), group[i] = g;
      if (offset == GatherMap::kZeroed)
        planes.zero(t + r, g), row[i] = -1;
      else
        raw[i] = planes.read(offsets, r, g);
    }
#pragma unroll
    for (int i = 0; i < kGatherUnroll; ++i)
      if (row[i] >= 0) planes.write(t + row[i], group[i], raw[i]);
  }
}

template <class Planes>
__global__ void __launch_bounds__(kGatherThreads)
    gather_kernel(KVOPS_IN_PLACE GatherMap map, int rows_per_block, KVOPS_IN_PLACE Planes planes) {
  __shared__ int64_t offsets[Planes::kCount][kGatherRows];
  int64_t t = int64_t(blockIdx.x) * rows_per_block, rest = map.rows() - t;
  if (rest <= 0) return;
  int n = rest < rows_per_block ? int(rest) : rows_per_block;
  if (int(threadIdx.x) < n) {
    Place place = map.place(t + int(threadIdx.x), !blockIdx.y);
    for (int i = 0; i < Planes::kCount; ++i) offsets[i][threadIdx.x] = planes.offset(i, place);
  }
  __syncthreads();
  move(planes, offsets, t, n);
}

// Units of 1, 2, 4 or 16 bytes as they are.
template <class Unit>
struct CopyReader {
  using Raw = Unit;

  __device__ void start() {}
  __device__ Raw read(const uint8_t* entry, int64_t g) const {
    return reinterpret_cast<const Unit*>(entry)[g];
  }
  __device__ int64_t at(int64_t g) const { return g * int64_t(sizeof(Unit)); }
  __device__ void write(uint8_t* to, Raw raw) const { *reinterpret_cast<Unit*>(to) = raw; }
  __device__ void zero(uint8_t* to, int64_t) const { *reinterpret_cast<Unit*>(to) = Unit{}; }
};

}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

// Args: those of a gather. starts: [batch + 1] with the end of the last request, or without.
template <class Args>
gpu::GatherMap gather_map(const Args& a, const kvops_tensor& starts, bool with_end,
                          int64_t out_rows) {
  int64_t block = a.kv_cache.shape[1];
  auto table = view<const int32_t, 2>(a.block_table);
  return {static_cast<const int32_t*>(starts.data),
          static_cast<const int32_t*>(a.seq_starts.data),
          table.data,
          table.stride[0],
          table.shape[0],
          table.shape[1],
          block ? a.kv_cache.shape[0] : 0,
          with_end && out_rows > INT32_MAX ? INT32_MAX : out_rows,
          gpu::Splitter(block ? block : 1),
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
gpu::Plane<Reader> plane_of(const GatherLayout& at, const Reader& reader) {
  return {at.from, at.block, at.slot, at.to, at.row, reader};
}

// One launch. As many rows for a block as give each thread kGatherUnroll groups,
// fewer when that leaves multiprocessors without work; blocks of the grid's second dimension share
// rows that are longer.
template <class Planes>
kvops_status gather(const char* op, const gpu::GatherMap& map, const kvops_tensor& on,
                    const Planes& planes) {
  int64_t groups = planes.groups.d, rows = gpu::kGatherStep / groups;
  int64_t shared = map.out_rows / (4 * compute_units(on));
  if (rows > shared) rows = shared;
  if (rows > gpu::kGatherRows) rows = gpu::kGatherRows;
  if (rows < 1) rows = 1;
  int64_t parts = (groups + gpu::kGatherStep - 1) / gpu::kGatherStep;
  Grid grid = {.x = (map.out_rows + rows - 1) / rows,
               .y = parts < 65535 ? parts : 65535,
               .threads = gpu::kGatherThreads};
  return launch(op, gpu::gather_kernel<Planes>, grid, on, map, int(rows), planes);
}
template <class Reader>
kvops_status gather_one(const char* op, const gpu::GatherMap& map, const kvops_tensor& on,
                        const GatherLayout& at, const Reader& reader, int64_t groups) {
  return gather(op, map, on, gpu::OnePlane<Reader>{plane_of(at, reader), gpu::Splitter(groups)});
}

// Rows that are copies of entries, or of a part of each; defined in cp_gather_cache.cu.
kvops_status gather_copies(const char* op, const gpu::GatherMap& map, const kvops_tensor& on,
                           const GatherLayout& at);

}  // namespace kvops::KVOPS_GPU
