// convert_vertical_slash_indexes: columns and diagonals of a head -> key blocks and columns of each
// row block. Integers, exact.
//
// A thread block finds the path of a head (slash_path.cuh); then each of its warps takes one row
// block after the other. It goes down the gaps until its walk is on the path, as a rule within
// three ranges, and writes the blocks of each range and the verticals before it. The rest is a copy
// of the path's blocks, shifted, and the verticals that are in no window of it. Lists out of order,
// or with offsets near 2^31: a thread takes the steps of the header.
#include <algorithm>

#include "core/integers.h"
#include "gpu/convert_vertical_slash_indexes.cuh"
#include "gpu/slash_path.cuh"
#include "kvcache_ops.h"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr int kKept = kPathThreads * 4;  // verticals in shared memory

struct Shared {
  Path path;
  int32_t verticals[kKept];
};

// The lists of a head in order, and the way down its slashes.
struct Head {
  const VerticalSlash& job;
  const Path& path;
  const int32_t *vertical, *slash;
  int verticals, slashes, keys, queries, first, last;  // the first slash and the last one
  Neighbours gaps;

  __device__ int m() const { return int(job.m.d); }
};

// A row block, by a warp.
struct Row {
  const Head& head;
  int32_t *blocks, *columns;  // where the next one goes
  int q, bound;               // its first query row; the keys that its last row sees
  int vertical = 0;           // the next one

  __device__ void put_column(bool is_one, int v) {
    const LaneMask mask = ballot(is_one);
    if (is_one) columns[rank_in(mask)] = v;
    columns += bits_of(mask);
  }
  // How many verticals from the next one on are below a key.
  __device__ int below(int key) const {
    const int32_t* list = head.vertical + vertical;
    return first_where(head.verticals - vertical, [&](int i) { return list[i] >= key; });
  }
  // The verticals below `low` are columns; those below `high` are not.
  __device__ void pass(int low, int high) {
    int passed;
    LaneMask before;
    do {
      const int i = vertical + lane_id(), v = i < head.verticals ? head.vertical[i] : INT32_MAX;
      before = ballot(v < low);
      put_column(v < low, v);
      passed = bits_of(ballot(v < high));
      vertical += passed;
    } while (bits_of(before) == kWarp);
    if (passed == kWarp) vertical += below(high);
  }
  // A range is complete.
  __device__ void close(int low, int high) {
    const int end = high < head.keys ? high : head.keys, step = int(head.job.n.d);
    if (low >= 0 && low < end) {
      const int n = int(head.job.n(uint32_t(end - low - 1)).quotient) + 1;
      for (int i = lane_id(); i < n; i += kWarp) blocks[i] = low + i * step;
      blocks += n;
    }
    pass(low, high);
  }

  __device__ void run() {
    if (head.slashes && head.last < bound) {
      walk();
    } else if (head.slashes && head.last == bound) {
      close(0, head.m());
    } else {
      const int none = head.job.causal ? bound : head.keys;
      close(none, head.slashes ? int(smaller(none + head.job.n.d, INT32_MAX)) : none);
    }
    if (!head.job.causal) pass(head.keys, head.keys);  // all verticals that follow
  }
  __device__ void walk() {
    const Neighbours& gaps = head.gaps;
    const int m = head.m();
    int g = first_where(gaps.count, [&](int i) { return gaps.above[i] < bound; });
    // A slash below the bound by more than M, as the first one there, is below a gap.
    const int first = g ? gaps.below[g - 1] : head.first;
    int top = first < bound - m ? first : bound - m;
    const int least = head.job.causal ? head.last : least_from(q, top);
    while (true) {
      int at = top, below = top;
      LaneMask ends = 0;
      for (; !ends && g < gaps.count; g += kWarp) {
        const int i = g + lane_id();
        const bool present = i < gaps.count;
        below = present ? gaps.below[i] : top;
        at = down_to(top, present ? gaps.above[i] : top, head.job.m);
        ends = ballot(below >= least && at - below > m);
      }
      if (!ends) return close(bound - top - m, bound - down_to(top, least, head.job.m));
      const int lane = lowest(ends);
      close(bound - top - m, bound - shuffle(at, lane));
      top = shuffle(below, lane), g += lane + 1 - kWarp;
      if (gaps.place && gaps.place[g - 1] != kOff) return join(gaps.place[g - 1], least);
    }
  }
  // The least slash from q on; `top` if none of them is below the bound.
  __device__ int least_from(int query, int top) const {
    const int past = first_where(head.slashes, [&](int i) { return head.slash[i] < query; });
    return past && head.slash[past - 1] < bound ? head.slash[past - 1] : top;
  }

  // The path, from a place in its list on.
  __device__ void join(int place, int least) {
    const Path& path = head.path;
    const int32_t* tail = path.tail + place;
    const int low = bound + tail[0];
    int n = path.size - place, end = bound - path.end;
    if (!head.job.causal) {  // blocks are windows
      n = first_where(n, [&](int i) { return tail[i] >= -least; });
      end = bound + tail[n - 1] + head.m();
    }
    if (bound + tail[n - 1] >= head.keys)
      n = first_where(n, [&](int i) { return bound + tail[i] >= head.keys; });
    copy(tail, n);
    blocks += n;
    pass(low, low);
    pass_path(end);
  }
  // Blocks of the path: first those up to where a line of memory begins.
  __device__ void copy(const int32_t* tail, int n) const {
    const int line = int(-reinterpret_cast<uintptr_t>(blocks) / sizeof *blocks % kWarp);
    int i = lane_id();
    if (i < line && i < n) blocks[i] = bound + tail[i];
    for (i += line; i - lane_id() + kCopied * kWarp <= n; i += kCopied * kWarp)
      copy_some<true>(tail + i, blocks + i, 0);
    copy_some<false>(tail + i, blocks + i, n - i);
  }
  static constexpr int kCopied = 8;  // loads under way
  template <bool kAll>
  __device__ void copy_some(const int32_t* from, int32_t* to, int left) const {
    int key[kCopied];
#pragma unroll
    for (int k = 0; k < kCopied; ++k)
      if (kAll || k * kWarp < left) key[k] = bound + from[k * kWarp];
#pragma unroll
    for (int k = 0; k < kCopied; ++k)
      if (kAll || k * kWarp < left) to[k * kWarp] = key[k];
  }
  // The verticals below `high` are columns if they are in no window of the path.
  __device__ void pass_path(int high) {
    constexpr int kBatch = 4;
    const int past = vertical + below(high);
    const auto top = uint32_t(bound - 1 - head.path.low);
    for (; vertical < past; vertical += kBatch * kWarp) {
      int v[kBatch];
      bool is_one[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int i = vertical + k * kWarp + lane_id();
        v[k] = head.vertical[i < past ? i : vertical];
        const uint32_t bit = i < past ? top - uint32_t(v[k]) : 0;  // which is never clear
        is_one[k] = !(head.path.windows[bit / 32] >> bit % 32 & 1);
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k) put_column(is_one[k], v[k]);
    }
    vertical = past;
  }
};

__device__ int64_t clamped(const int32_t* counts, int64_t head, int64_t all) {
  return counts ? smaller(larger(counts[head], 0), all) : all;
}

// Every `chunks`-th row block of a head, the last ones first, which are the longest.
struct Own {
  int64_t b, h, chunk, chunks, rows;
};

// The lists of a head, by all threads of a block. Of lists in order the verticals that are no keys
// are left out; `plain`: the slashes, and their distances to any bound, have 31 bits, too.
__device__ Lists lists_of(const VerticalSlash& job, const Own& own, bool& plain) {
  Lists l = {job.verticals.at(own.b, own.h),
             job.slashes.at(own.b, own.h),
             clamped(job.vertical_counts, own.h, job.verticals.shape[2]),
             clamped(job.slash_counts, own.h, job.slashes.shape[2]),
             job.kv_lengths[own.b],
             job.q_lengths[own.b]};
  const int64_t bound = l.keys + (job.causal ? 0 : l.queries) + job.m.d, n = l.slashes;
  const int64_t high = larger(bound, n ? l.slash[0] : 0) + job.m.d;
  const int64_t low = smaller(0, n ? l.slash[n - 1] : 0);
  bool disorder = larger(l.verticals, n) > 1 << 30 || high - low > INT32_MAX;
  for (int64_t i = int(threadIdx.x); i < l.verticals; i += kPathThreads) {
    if (i) disorder |= l.vertical[i - 1] > l.vertical[i];
    if (!own.chunk && l.queries > 0 && l.vertical[i] >= l.keys) add_fault(job.faults);
  }
#pragma unroll 4
  for (int64_t i = int(threadIdx.x) + 1; i < n; i += kPathThreads)
    disorder |= l.slash[i - 1] < l.slash[i];
  plain = !__syncthreads_or(disorder);
  return l;
}

__device__ void convert_in_order(const VerticalSlash& job, Shared& shared, const Lists& l,
                                 const Own& own) {
  const auto from = [&](int64_t limit) {
    return first_where(int(l.verticals), [&](int i) { return l.vertical[i] >= limit; });
  };
  const int unseen = from(0), verticals = int(larger(0, from(l.keys) - unseen));
  const int n = int(l.slashes);
  Head head = {job,
               shared.path,
               l.vertical + unseen,
               l.slash,
               verticals,
               n,
               int(l.keys),
               int(l.queries),
               n ? l.slash[0] : 0,
               n ? l.slash[n - 1] : 0,
               {}};
  if (verticals <= kKept) {
    for (int i = int(threadIdx.x); i < verticals; i += kPathThreads)
      shared.verticals[i] = head.vertical[i];
    head.vertical = shared.verticals;
  }
  if (n)
    head.gaps = find_path(shared.path, l.slash, n, job.causal || job.m.d == job.n.d, job.m, job.n);
  __syncthreads();
  for (int64_t i = warp_id() * own.chunks + own.chunk; i < own.rows; i += kPathWarps * own.chunks) {
    const int64_t r = own.rows - 1 - i;
    const Block block = block_of(job, l, own.b, own.h, r);
    Row row = {head, block.blocks, block.columns, int(block.q), int(block.bound)};
    if (block.q < l.queries && l.keys > 0) row.run();
    if (lane_id()) continue;
    job.block_count(own.b, own.h, r) = int32_t(row.blocks - block.blocks);
    job.column_count(own.b, own.h, r) = int32_t(row.columns - block.columns);
  }
}

__global__ void __launch_bounds__(kPathThreads)
    vertical_slash_kernel(KVOPS_IN_PLACE VerticalSlash job, KVOPS_IN_PLACE Splitter chunks,
                          KVOPS_IN_PLACE Splitter heads) {
  extern __shared__ Shared shared[];
  const Split list = chunks(int64_t(blockIdx.x)), head = heads(list.quotient);
  const Own own = {head.quotient, head.remainder, list.remainder, chunks.d,
                   job.block_count.shape[2]};
  bool plain;
  const Lists l = lists_of(job, own, plain);
  if (plain) return convert_in_order(job, *shared, l, own);
  for (int64_t i = int(threadIdx.x) * own.chunks + own.chunk; i < own.rows;
       i += kPathThreads * own.chunks) {
    const int64_t r = own.rows - 1 - i;
    Block block = block_of(job, l, own.b, own.h, r);
    if (block.q < l.queries && l.keys > 0) Steps{job, l, block}.run();
    job.block_count(own.b, own.h, r) = int32_t(block.num_blocks);
    job.column_count(own.b, own.h, r) = int32_t(block.num_columns);
  }
}

}  // namespace

// As many thread blocks for a head as all can be on the device at once, of which each takes the
// time to find the path, but no more than have half their warps busy.
kvops_status convert_vertical_slash(const char* op, const VerticalSlash& job,
                                    const kvops_tensor& on) {
  const int64_t lists = job.batch() * job.heads(), busy = ceil_div(job.rows(), kPathWarps / 2);
  const int64_t all = compute_units(on) / std::max<int64_t>(1, lists);
  const int64_t chunks = std::max<int64_t>(1, std::min(all, busy));
  const Grid grid = {.x = lists * chunks, .threads = kPathThreads, .shared = sizeof(Shared)};
  return launch(op, vertical_slash_kernel, grid, on, job, Splitter(chunks), Splitter(job.heads()));
}

kvops_status convert_vertical_slash_indexes(const kvops_convert_vertical_slash_indexes_args& a) {
  return convert_vertical_slash("convert_vertical_slash_indexes", VerticalSlash(a), a.block_count);
}

}  // namespace kvops::KVOPS_GPU
