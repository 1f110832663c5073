// top_k_per_row: positions of the k largest logits of every row; docs/kernels/top_k_per_row.md.
//
// A block has a row, or a cluster of blocks, whose first one finishes it. By length: up to k, all
// positions; up to 16 logits a thread, the row is kept in registers; longer ones are read once:
// a sample guesses a floor, and what is not below it goes to a list that holds the top k if the
// guess was good. If not, or for a k beyond any list, the row itself is read in each step.
// Numerics: integer keys, exact; unordered results ascend, too.
#include <algorithm>
#include <cmath>

#include "gpu/cluster.cuh"
#include "gpu/top_k_per_row.h"
#include "gpu/top_k_rows.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr int kSample = 4096;  // logits of a row by which the floor is guessed

// Shared memory of the kernel besides the dynamic part.
constexpr int64_t kStatic = 2560;
static_assert(sizeof(TopKScratch) <= kStatic);

struct Rows {
  TopKRows ranges;
  const float* logits;
  int64_t stride, step;  // of a row, of a column
  int32_t* indices;
  int64_t out_stride, rows;
  int k, cluster;
  bool later;      // later positions win ties
  int candidates;  // room in the list
  int bits;        // of positions at a time
};

// Shared memory: bins, which become a bit per position, the list, counts of bits.
struct Room {
  uint32_t* bins;
  Candidate* list;
  int* before;
};
__device__ Room room_of(const Rows& rows, uint32_t* bins) {
  auto* list =
      reinterpret_cast<Candidate*>(bins + (rows.bits > 32 * kBins ? rows.bits / 32 : kBins));
  return {bins, list, reinterpret_cast<int*>(list + rows.candidates)};
}

template <int kThreads>
__device__ void short_row(const LogitRow& row, const Rows& rows, const Room& room, TopKScratch& s,
                          int32_t* out) {
  const Resident<kThreads> items(row);
  clear_bins(room.bins);
  __syncthreads();
  const Bound bound = items.bound(rows.k, rows.later, room.bins, s);
  const uint32_t taken = items.taken(bound, rows.later);
  // By way of the bins, so that it is written in whole lines.
  auto* staged = reinterpret_cast<int32_t*>(room.bins);
  const bool fits = rows.k <= kBins;
  items.write(taken, fits ? staged : out, s);
  __syncthreads();
  for (int i = int(threadIdx.x); fits && i < rows.k; i += kThreads) out[i] = staged[i];
}

// The sample: runs of four logits at equal distances.
template <int kThreads>
struct Sample {
  float x[kSample / kThreads];

  __device__ explicit Sample(const LogitRow& row) {
    constexpr int kRuns = kSample / 4;
    const int groups = row.groups() - 2;  // those inside the row
#pragma unroll
    for (int i = 0; i < kRuns / kThreads; ++i) {
      const int64_t run = int(threadIdx.x) + i * kThreads;
      row.read(1 + int(run * groups / kRuns), x + 4 * i);
    }
  }
  template <class F>
  __device__ void each(F&& f) const {
#pragma unroll
    for (int e = 0; e < kSample / kThreads; ++e) f(key_of(x[e]), 0);
  }
};

// Of which rank in the sample the floor should be, and which it may be at most for the list to have
// room: about 1.3 to 2 k logits are not below it if the row is like the sample; the margin is four
// standard deviations of the sample's count.
struct Aim {
  int rank, most;
};
__device__ Aim aim_of(const LogitRow& row, const Rows& rows) {
  const float expected = float(kSample) * float(rows.k) / float(row.count);
  const float room = float(kSample) * float(rows.candidates) / float(row.count);
  return {int(expected + 4 * sqrtf(expected)) + 4, int(room * 0.75f)};
}

// The least key that so many of the sample have or exceed; 0: -inf, or NaN.
template <int kThreads>
__device__ uint32_t guess(const Sample<kThreads>& sample, const Aim& aim, uint32_t* bins,
                          TopKScratch& s) {
  clear_bins(bins);
  __syncthreads();
  count_values(sample.x, bins);
  __syncthreads();
  Span a = value_span(find<kThreads>(bins, aim.rank, s), aim.rank);
  while (a.count - a.need > aim.most - aim.rank && a.low < a.high)
    a = narrow<kThreads>(sample, a, bins, s);
  return value_of(a.low) > kNone ? a.low : 0;
}

// Appends the logits that are not below the floor to the list; counts also those without room.
__device__ void append(const Batch& b, int first, int stride, float floor, int room,
                       Candidate* list, TopKScratch& s) {
  uint32_t passed = 0;
#pragma unroll
  for (int e = 0; e < kBatch; ++e) passed |= uint32_t(!(b.x[e] < floor)) << e;
  const int own = int(__popc(passed)), upto = warp_scan(own);
  int base = 0;
  if (lane_id() == kWarp - 1 && upto) base = atomicAdd(&s.candidates, upto);
  int slot = shuffle(base, kWarp - 1) + upto - own;
  if (!passed) return;
#pragma unroll
  for (int e = 0; e < kBatch; ++e) {
    if (!(passed >> e & 1)) continue;
    if (slot < room) list[slot] = {b.x[e], first + e / 4 * stride + e % 4};
    ++slot;
  }
}

// Code for devices without clusters leaves a row to the first block.
__device__ int parts_of(const Rows& rows) { return KVOPS_HAS_CLUSTERS ? rows.cluster : 1; }

#if KVOPS_HAS_CLUSTERS
// The candidates of all blocks of the cluster, in the first one's list; how many there are.
template <int kThreads>
__device__ int join(const Rows& rows, const Room& room, TopKScratch& s) {
  constexpr int kAhead = 4;
  cluster_barrier();
  int all = 0;
  if (cluster_rank() == 0) {
    const int t = int(threadIdx.x), each = kThreads / rows.cluster, peer = t / each;
    if (t < rows.cluster) s.peers[t] = *of_peer(&s.candidates, t);
    __syncthreads();
    int before = 0;
    for (int p = 0; p < rows.cluster; ++p) {
      before += p < peer ? s.peers[p] : 0;
      all += s.peers[p];
    }
    const auto* list = of_peer(room.list, peer);
    const int count = peer && all <= rows.candidates ? s.peers[peer] : 0;
    for (int base = t % each; base < count; base += kAhead * each) {
      Candidate c[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        if (base + j * each < count) c[j] = list[base + j * each];
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        if (base + j * each < count) room.list[before + base + j * each] = c[j];
    }
  }
  cluster_barrier();
  return all;
}
#endif

// What is not below the guessed floor, in this block's list; rank: of the block in its cluster.
template <int kThreads>
__device__ int collect(const LogitRow& row, int rank, const Rows& rows, const Room& room,
                       TopKScratch& s, uint32_t& floor) {
  constexpr int kStep = kBatch / 4 * kThreads;
  const int parts = parts_of(rows), part = (row.groups() + parts - 1) / parts;
  int group = rank * part + int(threadIdx.x);
  const int end = rank + 1 < parts ? (rank + 1) * part : row.groups();
  const Aim aim = aim_of(row, rows);
  floor = 0;
  if (aim.rank >= aim.most) return 0;
  if (!threadIdx.x) s.candidates = 0;
  const Sample<kThreads> sample(row);
  Batch b(row, group, kThreads, end);  // is on its way during the guess
  floor = guess<kThreads>(sample, aim, room.bins, s);
  if (!floor) return 0;
  for (;;) {
    append(b, row.first(group), 4 * kThreads, value_of(floor), rows.candidates, room.list, s);
    group += kStep;
    if (group - int(threadIdx.x) >= end) break;
    b = Batch(row, group, kThreads, end);
  }
#if KVOPS_HAS_CLUSTERS
  if (rows.cluster > 1) return join<kThreads>(rows, room, s);
#endif
  __syncthreads();
  return s.candidates;
}

// Candidates are so close above the floor that 4096 keys a bin are best; more than 4096 bins of
// them from the floor are all in the last one.
template <int kThreads>
__device__ Span listed_span(const Listed<kThreads>& items, uint32_t low, int k, uint32_t* bins,
                            TopKScratch& s) {
  constexpr int kShift = 12;
  items.each([&](uint32_t key, int) {
    const uint32_t bin = (key - low) >> kShift;
    atomicAdd(bins + (bin < kBins ? bin : kBins - 1), 1u);
  });
  __syncthreads();
  const Found f = find<kThreads>(bins, k, s);
  const uint32_t from = low + (uint32_t(f.bin) << kShift);
  const uint32_t to = from + ((1u << kShift) - 1);
  return {from, f.bin + 1 < kBins && to > from ? to : 0xFFFFFFFFu, k - f.above, f.count};
}

template <int kThreads>
__device__ void listed_row(const LogitRow& row, int count, uint32_t floor, const Rows& rows,
                           const Room& room, TopKScratch& s, int32_t* out) {
  const Listed<kThreads> items = {room.list, count};
  // As a float, -0 is not below a floor of +0.
  const uint32_t low = floor == 0x80000000u ? floor - 1 : floor;
  const Span a = listed_span(items, low, rows.k, room.bins, s);
  // The bins are 0, and so the first bits.
  for (int i = kBins + int(threadIdx.x); i < groups_of(row.count) * 4; i += kThreads)
    room.bins[i] = 0;
  auto mark = [&](int position) { atomicOr(room.bins + position / 32, 1u << position % 32); };
  if (a.count <= kFew) {
    if (row.count > 32 * kBins) __syncthreads();
    items.each([&](uint32_t key, int position) {
      if (key > a.high) mark(position);
      if (a.has(key)) s.few[atomicAdd(&s.few_count, 1)] = item_of(key, position, rows.later);
    });
    __syncthreads();
    if (int(threadIdx.x) < a.count) {
      const Item own = s.few[threadIdx.x];
      const auto tie = uint32_t(own);
      if (rank_of(own, a.count, s).above < a.need) mark(int(rows.later ? tie : ~tie));
    }
  } else {
    const Bound bound = bound_of<kThreads>(items, a, rows.later, room.bins, s);
    __syncthreads();
    items.each([&](uint32_t key, int position) {
      if (bound.takes(key, position, rows.later)) mark(position);
    });
  }
  __syncthreads();
  write_marked(items, room.bins, row.count, room.before, out, s);
}

template <int kThreads>
__device__ void streamed_row(const LogitRow& row, const Rows& rows, const Room& room,
                             TopKScratch& s, int32_t* out) {
  clear_bins(room.bins);
  __syncthreads();
  const Streamed<kThreads> items = {row};
  const Bound bound =
      bound_of<kThreads>(items, {0, 0xFFFFFFFFu, rows.k, row.count}, rows.later, room.bins, s);
  for (int begin = 0; begin < row.count; begin += rows.bits) {
    const int n = row.count - begin < rows.bits ? row.count - begin : rows.bits;
    for (int i = int(threadIdx.x); i < groups_of(n) * kBitGroup; i += kThreads) {
      const uint32_t key = i < n ? key_of(row.data[(begin + i) * row.step]) : 0;
      const LaneMask taken = ballot(i < n && bound.takes(key, begin + i, rows.later));
      if (lane_id() % 32 == 0) room.bins[i / 32] = uint32_t(taken >> lane_id());
    }
    __syncthreads();
    out += write_bits<kThreads>(room.bins, begin, n, out, s);
    __syncthreads();
  }
}

template <int kThreads, bool kLong>
__global__ void __launch_bounds__(kThreads, kMaxThreads / kThreads)
    top_k_kernel(KVOPS_IN_PLACE Rows rows) {
  extern __shared__ Words4 shared[];
  __shared__ TopKScratch s;
  const Room room = room_of(rows, reinterpret_cast<uint32_t*>(shared));
  const unsigned cluster = kLong ? unsigned(rows.cluster) : 1;
  const int rank = cluster > 1 ? int(blockIdx.x % cluster) : 0;
  for (int64_t i = blockIdx.x / cluster; i < rows.rows; i += gridDim.x / cluster) {
    const int64_t r = rows.rows - 1 - i;  // causal rows: the longest first
    const auto range = rows.ranges.range(r);
    int32_t* out = rows.indices + r * rows.out_stride;
    LogitRow row(rows.logits + r * rows.stride + range.first * rows.step, rows.step,
                 int(range.count));
    if (row.count <= rows.k) {
      for (int j = int(threadIdx.x); !rank && j < rows.k; j += kThreads)
        out[j] = j < row.count ? j : -1;
      continue;
    }
    const bool whole = row.count <= Resident<kThreads>::kMost;
    if (rank && (whole || parts_of(rows) == 1)) continue;
    if (whole || !kLong) {
      row.fit(kThreads * kBatch / 4);
      short_row<kThreads>(row, rows, room, s, out);
    } else {
      uint32_t floor;
      const int count = collect<kThreads>(row, rank, rows, room, s, floor);
      if (rank) continue;
      if (count >= rows.k && count <= rows.candidates && row.count <= rows.bits)
        listed_row<kThreads>(row, count, floor, rows, room, s, out);
      else
        streamed_row<kThreads>(row, rows, room, s, out);
    }
    __syncthreads();
  }
}

// Shared memory for rows of so many columns, in a block that may have so many bytes: bits of a row
// that is as long as can be, a list of what a guess lets pass, each if there is room.
int64_t plan(int64_t columns, int64_t bytes, Rows& rows) {
  // A group of bits has 16 bytes and a count of 4.
  constexpr int64_t kBinBytes = kBins * 4, kLeast = kBinBytes / 4 * 5;
  const double expected = double(kSample) * rows.k / double(columns);
  const double guessed = (expected + 4 * std::sqrt(expected) + 4) * double(columns) / kSample;
  int64_t list = int64_t(std::max({2.5 * rows.k, 1.5 * guessed, 2048.0})) * 8 / 16 * 16;
  if (list > bytes - kLeast) list = (bytes - kLeast) / 32 * 16;
  int64_t groups = (columns + kBitGroup - 1) / kBitGroup;
  groups = std::min(groups, (bytes - list) / (kBitGroup / 8 + 4));
  rows.candidates = int(list / 8), rows.bits = int(groups * kBitGroup);
  return list + std::max(groups * (kBitGroup / 8), kBinBytes) + groups * 4;
}

// Blocks of a row: where the rows alone leave SMs idle, and each part is worth a block. Two share a
// TPC; of more, only three quarters of the SMs are sure to be filled at a time, since not every GPC
// has a multiple of eight.
int cluster_of(int64_t rows, int64_t columns, const kvops_tensor& on) {
  constexpr int64_t kPart = 16384;
  const int64_t units = compute_units(on);
  int blocks = 1;
  while (2 * blocks <= max_cluster(on) && columns >= 2 * blocks * kPart &&
         2 * blocks * rows <= (blocks > 1 ? units * 3 / 4 : units))
    blocks *= 2;
  return blocks;
}

}  // namespace

kvops_status top_k_per_row(const TopK& job) {
  const auto logits = view<const float, 2>(job.logits);
  const auto out = view<int32_t, 2>(job.indices);
  const int64_t columns = logits.shape[1], units = compute_units(job.indices);
  Rows rows = {};
  rows.ranges = job.ranges;
  rows.logits = logits.data;
  rows.stride = logits.stride[0], rows.step = columns == 1 ? 1 : logits.stride[1];
  rows.indices = out.data, rows.out_stride = out.stride[0], rows.rows = out.shape[0];
  rows.k = int(out.shape[1]);
  rows.later = job.order == KVOPS_TOP_K_BY_VALUE;
  rows.cluster = cluster_of(rows.rows, columns, job.indices);
  const int64_t most = INT32_MAX / rows.cluster;
  Grid grid = {.x = (rows.rows < most ? rows.rows : most) * rows.cluster, .threads = 512};
  kvops_status status;
  if (columns <= Resident<512>::kMost) {
    rows.bits = 32 * kBins;
    grid.shared = kBins * 4;
    status = launch(job.op, top_k_kernel<512, false>, grid, job.indices, rows);
  } else {
    grid.cluster = rows.cluster;
    grid.shared = plan(columns, shared_memory(job.indices) - kStatic, rows);
    if (rows.rows * rows.cluster <= units) {
      grid.threads = 1024;
      status = launch(job.op, top_k_kernel<1024, true>, grid, job.indices, rows);
    } else {
      status = launch(job.op, top_k_kernel<512, true>, grid, job.indices, rows);
    }
  }
  return status || !rows.later ? status : sort_top_k(job);
}

}  // namespace kvops::KVOPS_GPU
