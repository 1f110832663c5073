// Where the walk down the slashes of a head goes: what all row blocks of the head have in common.
//
// With u = E - hi, a row block's ranges are a walk from u = E down: to u - M, a window that is not
// empty, as long as there is a slash in it, else to the next slash, where a new range begins. Only
// between neighbours further apart than M, at a gap, can a window be empty.
//
//   slashes   s  s s   s  s | gap |  s    s s  | gap |  s
//   walk      [ range: windows of M ] no   [ range     ] no
//
// What follows the slash below a gap, once a range begins there, does not depend on the row block.
// So each gap leads to the next one, and those on the way from the first form the path. Its blocks
// are listed once, as keys less E, and its windows marked: a row block that begins a range on the
// path has from there on a copy of both.
#pragma once
#include "gpu/scan.cuh"

namespace kvops::gpu {

inline constexpr int kPathThreads = 1024, kPathWarps = kPathThreads / kWarp;
// What is kept in shared memory: most of an SM's of an H200, or of a CU's.
#if defined(__HIP__)
inline constexpr int kGaps = 1024, kTail = 2304, kMarks = 136 << 10;
#else
inline constexpr int kGaps = 4096, kTail = 8704, kMarks = 528 << 10;
#endif
inline constexpr int kOff = 0xFFFF;  // a gap that the path does not lead to

__device__ inline int bits_of(LaneMask mask) {
  if constexpr (sizeof mask == 8)
    return int(__popcll(mask));
  else
    return int(__popc(unsigned(mask)));
}
__device__ inline int lowest(LaneMask mask) {
  if constexpr (sizeof mask == 8)
    return int(__ffsll(static_cast<long long>(mask))) - 1;
  else
    return int(__ffs(int(mask))) - 1;
}
// Of this lane's place among those of the mask: how many are before it.
__device__ inline int rank_in(LaneMask mask) {
  return bits_of(mask & ((LaneMask(1) << lane_id()) - 1));
}

// The first i from 0 to n that `holds`, as all after it do, found by all lanes of a warp.
template <class Holds>
__device__ inline int first_where(int n, Holds holds) {
  int low = 0;
  while (n > 0) {
    const int step = int((unsigned(n) + kWarp - 1) / kWarp), end = (lane_id() + 1) * step;
    const LaneMask mask = ballot(holds(low + (end < n ? end : n) - 1));
    if (!mask) return low + n;
    const int before = lowest(mask) * step, left = n - before;
    low += before, n = (left < step ? left : step) - 1;
  }
  return low;
}

// Neighbours in a list of slashes, in order: all of them, or those further apart than M.
struct Neighbours {
  const int32_t *above, *below;
  const uint16_t* place;  // in the path's list of the block that begins at `below`; or nullptr
  int count;
};

struct Path {
  int gaps, size;                                   // how many; blocks of the list
  int low, end;                                     // where the walk cannot come to, where it ends
  int32_t above[kGaps], below[kGaps], ends[kGaps];  // ends: of the range that begins at `below`
  int32_t blocks[kGaps + 1];                        // of that range, then to the end
  uint16_t next[kGaps + 1];                         // on the way, then the place
  uint8_t marked[kGaps];
  int32_t tail[kTail];  // the path's blocks: a key less E
  uint32_t
      windows[kMarks / 32];  // bit E - 1 - key - low > 0: the key is in a window; bit 0 is set, too
  WarpScratch scratch;
};

// Where the walk that began a range at `top` stands once it is not above the slash `above`.
__device__ inline int down_to(int top, int above, const Splitter& m) {
  if (top <= above) return top;
  const int rest = int(m(uint32_t(top) - uint32_t(above)).remainder);
  return rest ? above - (int(m.d) - rest) : above;
}

// The gaps of a list, by all threads; more than kGaps: how many only.
__device__ inline void list_gaps(Path& path, const int32_t* slash, int n, const Splitter& m) {
  const int warp = warp_id(), each = (n / kPathWarps / kWarp + 1) * kWarp;
  const int begin = warp * each, end = begin + each < n - 1 ? begin + each : n - 1;
  const auto wide = [&](int i) { return i < end && int64_t(slash[i]) - slash[i + 1] > m.d; };
  constexpr int kBatch = 4;  // loads under way
  int own = 0;
  for (int i = begin + lane_id(); i - lane_id() < end; i += kBatch * kWarp) {
    bool is_gap[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) is_gap[k] = wide(i + k * kWarp);
#pragma unroll
    for (int k = 0; k < kBatch; ++k) own += bits_of(ballot(is_gap[k]));
  }
  int at = sum_below(own, path.scratch);
  if (warp == kPathWarps - 1 && lane_id() == 0) path.gaps = at + own;
  __syncthreads();
  if (path.gaps > kGaps) return;
  for (int i = begin; i < end; i += kWarp) {
    const int mine = i + lane_id();
    const LaneMask mask = ballot(wide(mine));
    const int to = at + rank_in(mask);
    if (mask >> lane_id() & 1) path.above[to] = slash[mine], path.below[to] = slash[mine + 1];
    at += bits_of(mask);
  }
  __syncthreads();
}

// Where each gap from `root` on leads, and how many blocks that are, by all threads.
__device__ inline void link_gaps(Path& path, int root, int last, const Splitter& m,
                                 const Splitter& n) {
  const int gaps = path.gaps, size = int(m.d), low = last - size;
  for (int g = int(threadIdx.x); g < gaps; g += kPathThreads) {
    path.next[g] = uint16_t(kOff);
    if (g < root) continue;
    const int top = path.below[g];
    int next = g + 1, at = last;
    while (true) {
      at = down_to(top, next < gaps ? path.above[next] : last, m);
      if (next == gaps || at - path.below[next] > size) break;
      ++next;
    }
    path.next[g] = uint16_t(next), path.ends[g] = at, path.marked[g] = g == root;
    path.blocks[g] = int(n(uint32_t(top - at) + uint32_t(size) - 1).quotient) + 1;
  }
  if (threadIdx.x == 0) path.low = low, path.next[gaps] = uint16_t(gaps), path.blocks[gaps] = 0;
  const int words = (path.below[root] + size - low) / 32 + 1;
  for (int i = int(threadIdx.x); i < words; i += kPathThreads) path.windows[i] = i == 0;
  __syncthreads();
}

// Marks the gaps that the root leads to, and adds up the blocks from each gap to the end: twice as
// far in each step.
__device__ inline void follow(Path& path, int root) {
  constexpr int kEach = kGaps / kPathThreads;
  const int gaps = path.gaps, first = root + int(threadIdx.x);
  bool more = true;
  while (more) {
    int next[kEach], further[kEach], blocks[kEach];
    bool marked[kEach];
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int g = first + k * kPathThreads;
      next[k] = further[k] = gaps, blocks[k] = 0, marked[k] = false;
      if (g >= gaps) continue;
      next[k] = path.next[g], marked[k] = path.marked[g];
      further[k] = path.next[next[k]], blocks[k] = path.blocks[g] + path.blocks[next[k]];
    }
    __syncthreads();
    more = false;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int g = first + k * kPathThreads;
      if (g >= gaps) continue;
      path.next[g] = uint16_t(further[k]), path.blocks[g] = blocks[k];
      if (marked[k] && next[k] < gaps) path.marked[next[k]] = 1;
      more |= further[k] < gaps;
    }
    more = __syncthreads_or(more);
  }
}

// Lists the blocks of the marked gaps and marks their windows, a gap a team of lanes.
__device__ inline void list_blocks(Path& path, int root, const Splitter& m, const Splitter& n) {
  constexpr int kTeam = 8, kTeams = kPathThreads / kTeam;
  const int size = int(m.d), all = path.blocks[root], lane = int(threadIdx.x) % kTeam;
  for (int g = root + int(threadIdx.x) / kTeam; g < path.gaps; g += kTeams) {
    const int place = all - path.blocks[g], high = path.below[g] + size, end = path.ends[g];
    if (lane == 0) path.next[g] = uint16_t(path.marked[g] ? place : kOff);
    if (!path.marked[g]) continue;
    const int blocks = int(n(uint32_t(high - end) - 1).quotient) + 1;
    for (int i = lane; i < blocks; i += kTeam) path.tail[place + i] = i * int(n.d) - high;
    const int from = end - path.low, to = high - path.low - 1;
    for (int w = from / 32 + lane; w <= to / 32; w += kTeam) {
      uint32_t bits = ~0u;
      if (w == from / 32) bits &= ~0u << from % 32;
      if (w == to / 32) bits &= ~0u >> (31 - to % 32);
      atomicOr(&path.windows[w], bits);
    }
    if (place + blocks == all && lane == 0) path.end = end, path.size = all;
  }
  __syncthreads();
}

// By all threads: of the path as much, counted from its end, as there is room for. `joins`: a row
// block may go on with it.
__device__ inline Neighbours find_path(Path& path, const int32_t* slash, int n, bool joins,
                                       const Splitter& m, const Splitter& block) {
  list_gaps(path, slash, n, m);
  const int gaps = path.gaps;
  if (gaps > kGaps) return {slash, slash + 1, nullptr, n - 1};
  if (!joins || !gaps) return {path.above, path.below, nullptr, gaps};
  const int last = slash[n - 1];
  const int64_t most = kTail * m.d, room = (most < kMarks ? most : kMarks) - 2 * m.d;
  const int root = first_where(gaps, [&](int g) { return path.below[g] - last <= room; });
  if (root == gaps) return {path.above, path.below, nullptr, gaps};
  link_gaps(path, root, last, m, block);
  follow(path, root);
  list_blocks(path, root, m, block);
  return {path.above, path.below, path.next, gaps};
}

}  // namespace kvops::gpu
