// convert_vertical_slash_indexes: columns and diagonals of a head -> key blocks and columns of each
// row block. Integers, exact.
//
// A thread block has some row blocks of one head. Of lists in order, each of its warps has row
// blocks that follow each other. With u = E - hi a row block's ranges are a walk down the slashes
// that starts at u = E: f(u) = min(u - M, the first slash below u), one window of M keys a step, a
// new range where it is the slash. So the walk from any u is the same for all row blocks, and the
// one of a row block mostly runs into that of the row block before it after a window or two:
//
//   slashes   s   s s    s s   s            s  s    s ...
//   walk      [ range: windows of M ]       [ range ]      a node: first u, windows after it
//
// Nodes are a linked list in shared memory. Where a warp's pool is too small, and for a new walk,
// 32 slashes at a time are put into windows; a ballot finds the first gap. Between ranges a lane
// each looks for verticals. Lists out of order: a thread takes the steps of the header.
#include "gpu/convert_vertical_slash_indexes.cuh"
#include "kvcache_ops.h"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr int kLanes = 32, kWarps = 4, kThreads = kLanes * kWarps;
constexpr int kNodes = 800, kKept = 2048;  // nodes of a warp; verticals in shared memory

// ---- lists in order: a warp ---------------------------------------------------------------------

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

// The first of a descending list that is below `limit`, by all lanes.
__device__ int64_t first_below(const int32_t* list, int64_t n, int64_t limit) {
  int64_t low = 0, end = n;
  while (n > 0) {
    int64_t step = (n + kLanes - 1) / kLanes, at = low + lane_of() * step;
    int count = int(__popc(ballot(at < low + n && list[at] >= limit)));
    if (!count) break;
    low += (count - 1) * step + 1;
    n = smaller(step - 1, end - low);
  }
  return low;
}
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

// Windows of M slashes below `top` that follow each other and are not empty, counted from slash i
// on, up to `enough` of them; `next`: the slash after the gap, or `end`.
struct Run {
  uint32_t windows;
  int64_t next;
};
__device__ Run run_below(const VerticalSlash& job, const int32_t* slash, int64_t i, int64_t end,
                         int32_t top, uint32_t enough) {
  uint32_t windows = 0;
  for (; i < end && windows < enough; i += kLanes) {
    bool valid = i + lane_of() < end;
    int32_t s = valid ? slash[i + lane_of()] : 0;
    uint32_t mine = windows;  // 0: at `top` or above
    if (valid && s < top) mine = uint32_t(job.m(int64_t(top) - 1 - s).quotient) + 1;
    uint32_t before = shuffle_up(mine);
    if (lane_of() == 0) before = windows;
    uint32_t gaps = ballot(valid && mine - before > 1);
    if (gaps) {
      int lane = int(__ffs(int(gaps))) - 1;
      return {shuffle(before, lane), i + lane};
    }
    windows = shuffle(mine, int(smaller(kLanes, end - i)) - 1);
  }
  return {windows, smaller(i, end)};
}

// The ranges of a walk; of one warp.
struct Nodes {
  int32_t top[kNodes];
  uint32_t windows[kNodes];
  int16_t next[kNodes];  // -1: none
};

// Writes ranges in ascending order, then the verticals between them.
struct Writer {
  const VerticalSlash& job;
  const Lists& l;
  Block& block;
  int64_t end = 0;           // of the last range
  int64_t from = 0, to = 0;  // a gap, of this lane
  int gaps = 0;

  __device__ void range(int64_t low, int64_t high) {
    int64_t last = smaller(high, l.keys);
    if (low >= 0 && low < last) {
      int64_t count = job.n(last - low + job.n.d - 1).quotient;
      int32_t* to_block = block.blocks + block.num_blocks;
      for (int64_t x = lane_of(); x < count; x += kLanes) to_block[x] = int32_t(low + x * job.n.d);
      block.num_blocks += count;
    }
    if (lane_of() == gaps) from = end, to = low;
    end = high;
    if (++gaps == kLanes) columns();
  }
  // Those in the gaps of all lanes. A lane copies its own if they are few, else all lanes do.
  __device__ void columns() {
    if (!l.verticals) {
      gaps = 0;
      return;
    }
    bool has = lane_of() < gaps && from < to;
    int n = int(l.verticals);
    int first = has ? first_from(l.vertical, n, from) : 0;
    int count = has ? first_from(l.vertical + first, n - first, to) : 0, before = count;
    for (int step = 1; step < kLanes; step *= 2) {
      int other = int(shuffle(uint32_t(before), lane_of() - step));
      if (lane_of() >= step) before += other;
    }
    int all = int(shuffle(uint32_t(before), kLanes - 1));
    int32_t* to_column = block.columns + block.num_columns;
    for (uint32_t many = ballot(count > kFew); many; many &= many - 1) {
      int lane = int(__ffs(int(many))) - 1;
      copy(to_column, int(shuffle(uint32_t(before - count), lane)),
           int(shuffle(uint32_t(first), lane)), int(shuffle(uint32_t(count), lane)));
    }
    for (int i = 0; count <= kFew && i < count; ++i)
      to_column[before - count + i] = l.vertical[first + i];
    block.num_columns += all;
    gaps = 0;
  }
  __device__ void copy(int32_t* to_column, int at, int first, int count) const {
    for (int i = lane_of(); i < count; i += kLanes) to_column[at + i] = l.vertical[first + i];
  }
  __device__ void finish() {
    if (!job.causal) {  // all that follow, too
      if (lane_of() == gaps) from = end, to = kNone;
      ++gaps;
    }
    if (gaps) columns();
  }
  static constexpr int kFew = 8;
};

struct Walk {
  const VerticalSlash& job;
  const Lists& l;
  Nodes& nodes;
  int head = -1, used = 0;
  bool kept = true;  // nodes are: the walk of every row block so far fits

  // Appends the node after `last`; false: no room.
  __device__ bool append(int& last, int32_t top, uint32_t windows) {
    if (used == kNodes) return false;
    if (lane_of() == 0) {
      nodes.top[used] = top, nodes.windows[used] = windows, nodes.next[used] = -1;
      if (last >= 0) nodes.next[last] = int16_t(used);
    }
    if (last < 0) head = used;
    last = used++;
    sync_lanes();
    return true;
  }
  // Node `old` begins at `top` now, and follows `last`.
  __device__ void join(int last, int old, int32_t top) {
    int64_t more = job.m(larger(0, int64_t(top) - nodes.top[old])).quotient;
    int64_t fewer = job.m(larger(0, int64_t(nodes.top[old]) - top)).quotient;
    sync_lanes();
    if (lane_of() == 0) {
      nodes.top[old] = top;
      nodes.windows[old] = uint32_t(nodes.windows[old] + more - fewer);
      if (last >= 0) nodes.next[last] = int16_t(old);
    }
    if (last < 0) head = old;
    sync_lanes();
  }
  __device__ int64_t end_of(int node) const {
    return int64_t(nodes.top[node]) - int64_t(nodes.windows[node]) * job.m.d;
  }
  // The walk from `top`, slash i the next one, into the nodes, the old ones of which it may run
  // into; false: they do not suffice.
  __device__ bool build(int32_t top, int64_t i, int64_t end) {
    int old = head, last = -1;
    while (true) {
      while (old >= 0 && end_of(old) > top) old = nodes.next[old];
      uint32_t enough = UINT32_MAX;
      if (old >= 0) {
        int64_t above = int64_t(top) - nodes.top[old];
        auto [windows, rest] = job.m(above < 0 ? -above : above);
        if (rest == 0) {
          if (above <= 0) return join(last, old, top), true;
          enough = uint32_t(windows);
        }
      }
      Run run = run_below(job, l.slash, i, end, top, enough);
      if (run.windows >= enough) return join(last, old, top), true;
      if (!append(last, top, run.windows)) return false;
      if (run.next >= end) return true;
      i = run.next, top = l.slash[i];
    }
  }
};

// A row block of which some slash is usable: slash i is the first one; those from `end` on are not.
__device__ void follow(Walk& walk, Writer& writer, int64_t i, int64_t end) {
  const VerticalSlash& job = walk.job;
  const int32_t* slash = walk.l.slash;
  int64_t bound = writer.block.bound;
  auto top = int32_t(smaller(slash[i], bound - job.m.d));
  auto write = [&](int32_t u, uint32_t windows) {
    writer.range(bound - u - job.m.d, bound - u + int64_t(windows) * job.m.d);
  };
  if (walk.kept && !walk.build(top, i, end)) {
    walk.head = -1, walk.used = 0;  // the pool is full of old nodes: a new walk
    walk.kept = walk.build(top, i, end);
  }
  if (!walk.kept) {
    while (true) {
      Run run = run_below(job, slash, i, end, top, UINT32_MAX);
      write(top, run.windows);
      if (run.next >= end) return;
      i = run.next, top = slash[i];
    }
  }
  // Nodes of a row block before this one may go on below q.
  int64_t least = job.causal ? INT64_MIN : end > 0 ? slash[end - 1] : kNone;
  for (int node = walk.head; node >= 0; node = walk.nodes.next[node]) {
    int64_t u = walk.nodes.top[node], windows = walk.nodes.windows[node];
    if (!job.causal) {
      if (node != walk.head && u < writer.block.q) return;
      int64_t above = larger(0, u - least);
      windows = u <= least ? 0 : smaller(windows, job.m(above + job.m.d - 1).quotient);
    }
    write(int32_t(u), uint32_t(windows));
  }
}

__device__ void convert_row(Walk& walk, Block& block) {
  const VerticalSlash& job = walk.job;
  const Lists& l = walk.l;
  Writer writer = {job, l, block};
  int64_t i = first_below(l.slash, l.slashes, block.bound);
  int64_t none = job.causal ? block.bound : l.keys;
  if (i < l.slashes) {
    int64_t end = job.causal ? l.slashes : first_below(l.slash, l.slashes, block.q);
    follow(walk, writer, i, end);
  } else if (l.slashes && l.slash[i - 1] == block.bound) {
    writer.range(0, job.m.d);
  } else {
    writer.range(none, l.slashes ? none + job.n.d : none);
  }
  writer.finish();
}

// ---- both ---------------------------------------------------------------------------------------

__device__ int64_t clamped(const int32_t* counts, int64_t head, int64_t all) {
  return counts ? smaller(larger(counts[head], 0), all) : all;
}

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

__global__ void __launch_bounds__(kThreads)
    vertical_slash_kernel(KVOPS_IN_PLACE VerticalSlash job) {
  __shared__ Nodes nodes[kWarps];
  __shared__ int32_t kept[kKept];
  Split list = job.chunks(int64_t(blockIdx.x)), head = job.heads(list.quotient);
  int64_t chunk = list.remainder, b = head.quotient, h = head.remainder;
  bool sorted;
  Lists l = lists_of(job, b, h, chunk == 0, sorted);
  int64_t rows = job.block_count.shape[2], begin = chunk * kWarps * job.rows_per_warp;
  int64_t end = smaller(rows, begin + kWarps * job.rows_per_warp);
  auto store_counts = [&](int64_t r, const Block& block) {
    job.block_count(b, h, r) = int32_t(block.num_blocks);
    job.column_count(b, h, r) = int32_t(block.num_columns);
  };
  if (!sorted) {
    for (int64_t r = begin + int(threadIdx.x); r < end; r += kThreads) {
      Block block = block_of(job, l, b, h, r);
      if (block.q < l.queries && l.keys > 0) Steps{job, l, block}.run();
      store_counts(r, block);
    }
    return;
  }
  if (l.verticals <= kKept) {
    for (int i = int(threadIdx.x); i < l.verticals; i += kThreads) kept[i] = l.vertical[i];
    l.vertical = kept;
    __syncthreads();
  }
  int warp = int(threadIdx.x) / kLanes;
  Walk walk = {job, l, nodes[warp]};
  begin += warp * job.rows_per_warp;
  end = smaller(end, begin + job.rows_per_warp);
  for (int64_t r = begin; r < end; ++r) {
    Block block = block_of(job, l, b, h, r);
    if (block.q < l.queries && l.keys > 0) convert_row(walk, block);
    if (lane_of() == 0) store_counts(r, block);
  }
}

}  // namespace

// H200: as many row blocks for a warp as leave 16 warps to each multiprocessor; beyond 32 of them
// the first walk is little beside the others.
kvops_status convert_vertical_slash(const char* op, VerticalSlash job, const kvops_tensor& on) {
  int64_t lists = job.block_count.shape[0] * job.heads.d, rows = job.block_count.shape[2];
  int64_t each = lists * rows / (16 * compute_units(on));
  job.rows_per_warp = each < 1 ? 1 : each > 32 ? 32 : int(each);
  int64_t per_block = kWarps * job.rows_per_warp;
  job.chunks = Splitter((rows + per_block - 1) / per_block);
  Grid grid = {.x = lists * job.chunks.d, .threads = kThreads};
  return launch(op, vertical_slash_kernel, grid, on, job);
}

kvops_status convert_vertical_slash_indexes(const kvops_convert_vertical_slash_indexes_args& a) {
  return convert_vertical_slash("convert_vertical_slash_indexes", VerticalSlash(a), a.block_count);
}

}  // namespace kvops::KVOPS_GPU
