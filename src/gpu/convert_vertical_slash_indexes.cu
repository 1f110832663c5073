// convert_vertical_slash_indexes: columns and diagonals of a head -> key blocks and columns of each
// row block. Integers, exact.
//
// With u = E - hi, the ranges of a row block are a walk down the slashes from u = E: to u - M, a
// window that is not empty, as long as there is a slash in it, else to the next slash, where a new
// range begins. Only neighbours further apart than M can have an empty window between them: those
// gaps are the same for all row blocks of a head.
//
//   slashes   s  s s   s  s | gap |  s    s s  | gap |  s
//   walk      [ range: windows of M ] no   [ range     ] no
//
// A thread block has some row blocks of one head. Its threads list the gaps of a segment of the
// slashes; then each lane walks over them for a row block of its own. Ranges are kept in shared
// memory until some lane has kRanges of them; then each warp writes those of its row blocks one by
// one, and the verticals between them. Lists out of order: a thread takes the steps of the header.
#include "core/integers.h"
#include "gpu/convert_vertical_slash_indexes.cuh"
#include "kvcache_ops.h"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr int kLanes = 32, kWarps = 4, kThreads = kLanes * kWarps;
constexpr int kEach = 4, kSegment = kEach * kThreads;  // slashes
constexpr int kRanges = 32, kPitch = kLanes + 1;       // of a lane; an odd pitch: no bank conflicts
constexpr int kKept = 2048;                            // verticals in shared memory

// Half a wavefront may be a warp of 32: each half goes its own way.
__device__ inline int lane_of() { return int(threadIdx.x) % kLanes; }
#if defined(__HIP__)
__device__ inline uint32_t ballot(bool x) { return uint32_t(__ballot(x) >> (__lane_id() & 32)); }
__device__ inline uint32_t shuffle(uint32_t x, int lane) { return __shfl(x, lane, kLanes); }
__device__ inline uint32_t shuffle_up(uint32_t x) { return __shfl_up(x, 1, kLanes); }
__device__ inline void sync_lanes() {
  __threadfence_block();
  __builtin_amdgcn_wave_barrier();
}
#else
__device__ inline uint32_t ballot(bool x) { return __ballot_sync(0xFFFFFFFFu, x); }
__device__ inline uint32_t shuffle(uint32_t x, int lane) {
  return __shfl_sync(0xFFFFFFFFu, x, lane);
}
__device__ inline uint32_t shuffle_up(uint32_t x) { return __shfl_up_sync(0xFFFFFFFFu, x, 1); }
__device__ inline void sync_lanes() { __syncwarp(); }
#endif
// Sum over the lanes up to this one.
__device__ inline int sum_up(int x) {
  for (int step = 1; step < kLanes; step *= 2) {
    int other = int(shuffle(uint32_t(x), lane_of() - step));
    if (lane_of() >= step) x += other;
  }
  return x;
}
__device__ inline int from_lane(int x, int lane) { return int(shuffle(uint32_t(x), lane)); }
__device__ inline int lowest(uint32_t mask) { return int(__ffs(int(mask))) - 1; }

// The first of an ascending list that is not below `limit`, by one lane.
__device__ int first_from(const int32_t* list, int n, int64_t limit) {
  int low = 0;
  while (n > 0) {
    int half = n / 2;
    if (list[low + half] < limit)
      low += half + 1, n -= half + 1;
    else
      n = half;
  }
  return low;
}
// The first of a descending list that is below `limit`.
__device__ int64_t first_below(const int32_t* list, int64_t n, int64_t limit) {
  int64_t low = 0;
  while (n > 0) {
    int64_t half = n / 2;
    if (list[low + half] >= limit)
      low += half + 1, n -= half + 1;
    else
      n = half;
  }
  return low;
}

// Neighbours that are further apart than M.
struct Gap {
  int32_t above, below;
};
// Keys [low, high), cut to [0, keys]; low < 0: without blocks.
struct Range {
  int32_t low, high;
};

struct Shared {
  Gap gaps[kSegment];
  int counts[kEach][kWarps];
  Range ranges[kWarps][kRanges * kPitch];
  int32_t verticals[kKept];
};

// Gaps between slashes base, base + 1, ... of a segment, in order, by all threads; how many.
__device__ int list_gaps(Shared& shared, const Lists& l, int64_t base, int64_t m) {
  Gap gap[kEach];
  uint32_t wide[kEach];
  int warp = int(threadIdx.x) / kLanes;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    int64_t at = base + i * kThreads + int(threadIdx.x);
    bool valid = at + 1 < l.slashes;
    gap[i] = {valid ? l.slash[at] : 0, valid ? l.slash[at + 1] : 0};
    wide[i] = ballot(int64_t(gap[i].above) - gap[i].below > m);
  }
  __syncthreads();  // the gaps before these are no longer looked at
  for (int i = 0; i < kEach; ++i)
    if (lane_of() == 0) shared.counts[i][warp] = int(__popc(wide[i]));
  __syncthreads();
  int all = 0;
  for (int i = 0; i < kEach; ++i)
    for (int w = 0; w < kWarps; ++w) {
      uint32_t before = wide[i] & ((1u << lane_of()) - 1);
      if (w == warp && wide[i] >> lane_of() & 1) shared.gaps[all + int(__popc(before))] = gap[i];
      all += shared.counts[i][w];
    }
  __syncthreads();
  return all;
}

// A warp and its row blocks, one of each lane.
struct Rows {
  const VerticalSlash& job;
  const Lists& l;
  Range* ranges;  // number i of lane j at i * kPitch + j
  Block block;    // this lane's
  int64_t least = 0;
  int32_t top = 0, end = 0;  // where this range begins, on the way down; where the last one ended
  int count = 0;
  bool walking = false;

  __device__ void put(int64_t low, int64_t high) {
    int64_t keys = l.keys;
    ranges[count++ * kPitch + lane_of()] = {low < 0 ? -1 : int32_t(smaller(low, keys)),
                                            int32_t(smaller(larger(high, 0), keys))};
  }
  __device__ void put_windows(int64_t windows) {
    int64_t low = block.bound - top - job.m.d;
    put(low, low + (windows + 1) * job.m.d);
  }
  // Windows from `top` until a slash is not below them.
  __device__ int64_t windows_to(int64_t slash) const {
    int64_t above = top - slash;
    return above > 0 ? job.m(above + job.m.d - 1).quotient : 0;
  }
  __device__ void start(bool live) {
    if (!live) return;
    int64_t i = first_below(l.slash, l.slashes, block.bound);
    if (i < l.slashes) {
      int64_t past = job.causal ? l.slashes : first_below(l.slash, l.slashes, block.q);
      least = past ? l.slash[past - 1] : kNone;
      top = int32_t(smaller(l.slash[i], block.bound - job.m.d));
      walking = true;
    } else if (l.slashes && l.slash[i - 1] == block.bound) {
      put(0, job.m.d);
    } else {
      int64_t none = job.causal ? block.bound : l.keys;
      put(none, l.slashes ? none + job.n.d : none);
    }
  }
  __device__ void step(Gap gap) {
    if (walking && gap.above < block.bound) {
      if (!job.causal && gap.below < block.q) {
        stop();
      } else {
        int64_t windows = windows_to(gap.above);
        if (gap.below < top - (windows + 1) * job.m.d) {
          put_windows(windows);
          top = gap.below;
        }
      }
    }
    if (ballot(count == kRanges)) flush();
  }
  __device__ void stop() {
    put_windows(least == kNone ? 0 : windows_to(least));
    walking = false;
  }
  __device__ void finish(bool live) {
    if (walking) stop();
    flush();
    if (!job.causal) {  // all verticals that follow, too
      if (live) put(l.keys, l.keys);
      flush();
    }
  }

  // Writes the ranges of all lanes, a row block after the other.
  __device__ void flush() {
    sync_lanes();
    for (uint32_t rest = ballot(count > 0); rest; rest &= rest - 1) {
      int row = lowest(rest), n = from_lane(count, row);
      Range range = lane_of() < n ? ranges[lane_of() * kPitch + row] : Range{0, 0};
      int blocks = write_blocks(row, n, range), columns = 0;
      if (l.verticals) columns = write_columns(row, n, range);
      int last = from_lane(range.high, n - 1);
      if (lane_of() == row) {
        block.num_blocks += blocks, block.num_columns += columns;
        end = last;
      }
    }
    count = 0;
    sync_lanes();
  }
  __device__ int32_t* of_row(int32_t* mine, int row, int64_t found) const {
    auto bits = reinterpret_cast<uint64_t>(mine + found);
    uint32_t low = shuffle(uint32_t(bits), row), high = shuffle(uint32_t(bits >> 32), row);
    return reinterpret_cast<int32_t*>(uint64_t(high) << 32 | low);
  }
  __device__ int write_blocks(int row, int n, Range range) const {
    int own = 0;
    if (range.low >= 0 && range.low < range.high)
      own = int(job.n(int64_t(range.high) - range.low + job.n.d - 1).quotient);
    int sum = sum_up(own), all = from_lane(sum, kLanes - 1), step = int(job.n.d);
    int32_t* to = of_row(block.blocks, row, block.num_blocks);
    if (all > 8 * n) {
      for (int i = 0; i < n; ++i) {
        int low = from_lane(range.low, i), blocks = from_lane(own, i);
        int32_t* first = to + (from_lane(sum, i) - blocks);
        for (int x = lane_of(); x < blocks; x += kLanes) first[x] = low + x * step;
      }
    } else {  // short ones: each lane finds whose block it writes
      for (int base = 0; base < all; base += kLanes) {
        int at = base + lane_of(), i = 0;
        for (int half = kLanes / 2; half; half /= 2)
          if (from_lane(sum, i + half - 1) <= at) i += half;
        int low = from_lane(range.low, i), before = from_lane(sum - own, i);
        if (at < all) to[at] = low + (at - before) * step;
      }
    }
    return all;
  }
  // The verticals before each range. A lane copies its own if they are few, else all lanes do.
  __device__ int write_columns(int row, int n, Range range) const {
    constexpr int kFew = 8;
    int from = int(shuffle_up(uint32_t(range.high))), before = from_lane(end, row);
    if (lane_of() == 0) from = before;
    bool has = lane_of() < n && from < range.low;
    int count_all = int(l.verticals);
    int first = has ? first_from(l.vertical, count_all, from) : 0;
    int own = has ? first_from(l.vertical + first, count_all - first, range.low) : 0;
    int sum = sum_up(own), all = from_lane(sum, kLanes - 1);
    int32_t* to = of_row(block.columns, row, block.num_columns);
    for (uint32_t many = ballot(own > kFew); many; many &= many - 1) {
      int lane = lowest(many), size = from_lane(own, lane);
      int32_t* target = to + (from_lane(sum, lane) - size);
      const int32_t* source = l.vertical + from_lane(first, lane);
      for (int i = lane_of(); i < size; i += kLanes) target[i] = source[i];
    }
    for (int i = 0; own <= kFew && i < own; ++i) to[sum - own + i] = l.vertical[first + i];
    return all;
  }
};

__device__ int64_t clamped(const int32_t* counts, int64_t head, int64_t all) {
  return counts ? smaller(larger(counts[head], 0), all) : all;
}

// Row blocks [begin, end) of a head.
struct Job {
  int64_t b, h, begin, end;
  int rows_per_warp;
};

// How the rows of all lists are spread over thread blocks.
struct Spread {
  Splitter chunks, heads;  // thread blocks of a head; heads of the batch
  int rows_per_warp;
};

// The lists of a head, by all threads of a block; `first`: it is the one that counts faults.
__device__ Lists lists_of(const VerticalSlash& job, int64_t b, int64_t h, bool first,
                          bool& sorted) {
  Lists l = {job.verticals.at(b, h),
             job.slashes.at(b, h),
             clamped(job.vertical_counts, h, job.verticals.shape[2]),
             clamped(job.slash_counts, h, job.slashes.shape[2]),
             job.kv_lengths[b],
             job.q_lengths[b]};
  bool disorder = l.verticals > INT32_MAX;
  for (int64_t i = int(threadIdx.x); i < l.verticals; i += kThreads) {
    if (i) disorder |= l.vertical[i - 1] > l.vertical[i];
    if (first && l.queries > 0 && l.vertical[i] >= l.keys) add_fault(job.faults);
  }
  for (int64_t i = int(threadIdx.x) + 1; i < l.slashes; i += kThreads)
    disorder |= l.slash[i - 1] < l.slash[i];
  sorted = !__syncthreads_or(disorder);
  if (sorted) {
    int all = int(l.verticals), begin = first_from(l.vertical, all, 0);
    l.verticals = larger(0, first_from(l.vertical, all, l.keys) - begin);
    l.vertical += begin;
  }
  return l;
}

__device__ void convert_in_order(const VerticalSlash& job, Shared& shared, Lists l,
                                 const Job& own) {
  if (l.verticals <= kKept) {
    for (int i = int(threadIdx.x); i < l.verticals; i += kThreads)
      shared.verticals[i] = l.vertical[i];
    l.vertical = shared.verticals;
    __syncthreads();
  }
  int warp = int(threadIdx.x) / kLanes;
  int64_t r = own.begin + warp * own.rows_per_warp + lane_of();
  bool present = lane_of() < own.rows_per_warp && r < own.end;
  Rows rows = {job, l, shared.ranges[warp],
               block_of(job, l, own.b, own.h, present ? r : own.begin)};
  bool live = present && rows.block.q < l.queries && l.keys > 0;
  rows.start(live);
  int64_t bound = block_of(job, l, own.b, own.h, own.end - 1).bound;  // of all row blocks
  for (int64_t i = first_below(l.slash, l.slashes, bound); i < l.slashes; i += kSegment) {
    int gaps = list_gaps(shared, l, i, job.m.d);
    for (int g = 0; g < gaps; ++g) rows.step(shared.gaps[g]);
  }
  rows.finish(live);
  if (!present) return;
  job.block_count(own.b, own.h, r) = int32_t(rows.block.num_blocks);
  job.column_count(own.b, own.h, r) = int32_t(rows.block.num_columns);
}

__global__ void __launch_bounds__(kThreads)
    vertical_slash_kernel(KVOPS_IN_PLACE VerticalSlash job, KVOPS_IN_PLACE Spread spread) {
  __shared__ Shared shared;
  Split list = spread.chunks(int64_t(blockIdx.x)), head = spread.heads(list.quotient);
  int64_t per_block = int64_t(kWarps) * spread.rows_per_warp, begin = list.remainder * per_block;
  Job own = {head.quotient, head.remainder, begin,
             smaller(job.block_count.shape[2], begin + per_block), spread.rows_per_warp};
  bool sorted;
  Lists l = lists_of(job, own.b, own.h, begin == 0, sorted);
  if (sorted) return convert_in_order(job, shared, l, own);
  for (int64_t r = begin + int(threadIdx.x); r < own.end; r += kThreads) {
    Block block = block_of(job, l, own.b, own.h, r);
    if (block.q < l.queries && l.keys > 0) Steps{job, l, block}.run();
    job.block_count(own.b, own.h, r) = int32_t(block.num_blocks);
    job.column_count(own.b, own.h, r) = int32_t(block.num_columns);
  }
}

}  // namespace

// H200: as many row blocks for a warp as leave 16 warps to a multiprocessor, up to half its lanes.
kvops_status convert_vertical_slash(const char* op, const VerticalSlash& job,
                                    const kvops_tensor& on) {
  int64_t lists = job.batch() * job.heads(), each = lists * job.rows() / (16 * compute_units(on));
  int rows_per_warp = each < 1 ? 1 : each > kLanes / 2 ? kLanes / 2 : int(each);
  int64_t chunks = ceil_div(job.rows(), kWarps * rows_per_warp);
  Spread spread = {Splitter(chunks), Splitter(job.heads()), rows_per_warp};
  Grid grid = {.x = lists * chunks, .threads = kThreads};
  return launch(op, vertical_slash_kernel, grid, on, job, spread);
}

kvops_status convert_vertical_slash_indexes(const kvops_convert_vertical_slash_indexes_args& a) {
  return convert_vertical_slash("convert_vertical_slash_indexes", VerticalSlash(a), a.block_count);
}

}  // namespace kvops::KVOPS_GPU
