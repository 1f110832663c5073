// The slice of the line that a team of thread blocks takes, and the way of its units through a
// kernel:
//
//   kernel.attend(unit, tokens)  leaves the states of the team's warps in shared memory
//   kernel.warps(), kernel.state(w), kernel.running()
//
// The blocks of a team share the columns of a unit. A unit is finished at once where it is whole;
// else its parts go to slots, and whoever finds a column in all of them adds it up: of two blocks
// that write first and read then, one at least finds what the other wrote.
#pragma once
#include "gpu/cluster.cuh"
#include "gpu/paged_attention_slots.cuh"

namespace kvops::gpu {

inline constexpr int kWarpShift = kWarp == 64 ? 6 : 5;

struct LineScratch {
  int64_t sum[kPagedThreads / 32], seq, base;  // sum: of a warp's sequences
};

// ---- teams -------------------------------------------------------------------------------------

__device__ inline uint32_t team_of(const Attention& a) { return blockIdx.x >> a.team_shift; }
__device__ inline uint32_t rank_of(const Attention& a) {
  return blockIdx.x - (team_of(a) << a.team_shift);
}

// All threads of the team; what one wrote before, to shared memory, all see afterwards.
__device__ inline void meet([[maybe_unused]] const Attention& a) {
#if KVOPS_HAS_CLUSTERS
  if (a.team_shift) return cluster_barrier();
#endif
  __syncthreads();
}
// The same, after having read what others wrote.
__device__ inline void leave([[maybe_unused]] const Attention& a) {
#if KVOPS_HAS_CLUSTERS
  if (a.team_shift) return cluster_leave();
#endif
  __syncthreads();
}

// ---- slices ------------------------------------------------------------------------------------

// Parts of a unit, about: adding up more takes one block longer than their tokens take the others.
inline constexpr int64_t kMostParts = 40;
// Units of up to so many steps are not cut: a second step takes less time than adding up does.
inline constexpr int64_t kWholeSteps = 2;
// What parts of two units cost a slice instead of one part, in steps.
inline constexpr int64_t kItemSteps = 12;

// Steps [begin, end) of `total`, slice `index` of `count` of line `lane`; the sequence of the first
// one begins at `base` and has `units` units in the line.
struct Slice {
  int64_t begin, end, total, count, index, lane, units, seq, base;
};

__device__ inline int64_t begin_of(const Slice& s, int64_t i) {
  return split(i * s.total, s.count).quotient;
}
__device__ inline int64_t owner_of(const Slice& s, int64_t step) {
  return split((step + 1) * s.count - 1, s.total).quotient;
}

// steps: of one unit of every sequence.
__device__ inline Slice slice_of(const Attention& a, int64_t steps) {
  Split at = {team_of(a), 0};
  int64_t count = gridDim.x >> a.team_shift;
  if (a.lanes > 1) at = split(at.quotient, a.lanes), count = split(count, a.lanes).quotient;
  const int64_t units = a.lanes > 1 ? 1 : a.units(), total = steps * units, all = a.seqs * units;
  int64_t most = total;
  if (a.cut == Cut::steps) {
    if (total <= kWholeSteps * all) most = all;
    if (most > kMostParts * all) most = kMostParts * all;
  }
  if (count > most) count = most ? most : 1;
  // Slices that end with units, where the others would end less than kItemSteps earlier.
  if (all && count > all) {
    const int64_t even = count - split(count, all).remainder;
    if (total * (count - even) <= kItemSteps * count * even) count = even;
  }
  Slice s = {0, 0, total, count, at.quotient, at.remainder, units, 0, 0};
  if (s.index < count) s.begin = begin_of(s, s.index), s.end = begin_of(s, s.index + 1);
  return s;
}

__device__ inline int64_t shuffle_up_long(int64_t x, int lanes) {
  auto high = uint32_t(shuffle_up(int(x >> 32), lanes)), low = uint32_t(shuffle_up(int(x), lanes));
  return int64_t(uint64_t(high) << 32 | low);
}

// Of as many sequences as a warp has lanes: each warp on its own.
__device__ inline Slice find_short_slice(const Attention& a) {
  const int lane = int(threadIdx.x) % kWarp;
  const int own = lane < a.seqs ? int(steps_of(a, span_of(a, lane)).count) : 0;
  int upto = own;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    int before = shuffle_up(upto, d);
    if (lane >= d) upto += before;
  }
  Slice slice = slice_of(a, shuffle(upto, kWarp - 1));
  const auto past = ballot(upto * slice.units <= slice.begin);  // ends before the slice begins
  const int seq = int(__popcll(past));
  slice.seq = seq, slice.base = seq ? shuffle(upto, seq - 1) * slice.units : 0;
  return slice;
}

// Every thread adds up some sequences; sums of sums by doubling.
__device__ inline Slice find_slice(const Attention& a, LineScratch& scratch) {
  if (a.seqs == 1) return slice_of(a, steps_of(a, span_of(a, 0)).count);
  if (a.seqs <= kWarp && a.cut == Cut::steps) return find_short_slice(a);
  const int threads = int(blockDim.x), i = int(threadIdx.x), lane = i % kWarp;
  int64_t each = (a.seqs + threads - 1) / threads, from = i * each, to = from + each, sum = 0;
  if (from > a.seqs) from = a.seqs;
  if (to > a.seqs) to = a.seqs;
  for (int64_t s = from; s < to; ++s) sum += steps_of(a, span_of(a, s)).count;
  int64_t upto = sum, all = 0;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    int64_t before = shuffle_up_long(upto, d);
    if (lane >= d) upto += before;
  }
  if (lane == kWarp - 1) scratch.sum[i / kWarp] = upto;
  __syncthreads();
  for (int w = 0; w < threads / kWarp; ++w) {
    if (w < i / kWarp) upto += scratch.sum[w];
    all += scratch.sum[w];
  }
  Slice slice = slice_of(a, all);
  int64_t at = (upto - sum) * slice.units;
  if (slice.begin >= at && slice.begin < upto * slice.units) {
    for (int64_t s = from; s < to; ++s) {
      int64_t steps = steps_of(a, span_of(a, s)).count * slice.units;
      if (slice.begin < at + steps) {
        scratch.seq = s, scratch.base = at;
        break;
      }
      at += steps;
    }
  }
  __syncthreads();
  slice.seq = scratch.seq, slice.base = scratch.base;
  return slice;
}

// ---- adding up ---------------------------------------------------------------------------------

// Four sums of a head, of which several lanes of a warp take states in turn. Not `live`: there is
// no such column, the lanes go along.
struct Column {
  int h;
  int64_t d;
  bool live;
  uint32_t lane, lanes;  // the lane's place among those of the column, a power of two
  int across;            // columns of a warp
};

// f(column) for those of the unit, which are dealt to the blocks of the team.
template <class F>
__device__ inline void each_column(const Attention& a, const Unit& u, F&& f) {
  const uint32_t quarters = uint32_t(a.size / 4), total = quarters * uint32_t(u.heads);
  const uint32_t own = (total + (1u << a.team_shift) - 1) >> a.team_shift;
  const uint32_t first = own * rank_of(a);
  int shift = 0;
  while (shift < 3 && own << (shift + 1) <= blockDim.x) ++shift;
  const uint32_t across = uint32_t(kWarp) >> shift, lane = threadIdx.x % uint32_t(kWarp);
  for (uint32_t base = 0; base < own; base += blockDim.x >> shift) {
    const uint32_t mine = base + threadIdx.x / uint32_t(kWarp) * across + (lane & (across - 1));
    const bool live = mine < own && first + mine < total;
    auto at = a.quarters(live ? first + mine : 0u);
    f(Column{int(at.quotient), at.remainder * 4, live, lane >> (kWarpShift - shift), 1u << shift,
             int(across)});
  }
}

// f(mask) for the lanes of the column that are to be brought together.
template <class F>
__device__ inline void each_mask(const Column& c, F&& f) {
  for (int mask = c.across; mask < kWarp; mask *= 2) f(mask);
}

// The sum of read(load(k, there)), k < count, kAhead of them on their way before the first use; in
// the first lane. The lanes of a warp stay together: shuffles of some of them are slow.
template <int kAhead, class Load, class Read, class Stop>
__device__ inline Partial sum_of(const Column& c, int count, Load&& load, Read&& read,
                                 Stop&& stop) {
  Partial sum = nothing();
  for (int first = 0; first < count && !stop(); first += kAhead * int(c.lanes)) {
    decltype(load(0, true)) raw[kAhead];
    Partial p[kAhead];
    const int k = first + int(c.lane);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = k + i * int(c.lanes);
      raw[i] = load(at < count ? at : 0, at < count);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) p[i] = read(raw[i], k + i * int(c.lanes) < count);
    add_all(sum, p);
  }
  each_mask(c, [&](int mask) {
    Partial other[1] = {{shuffle_xor(sum.top, mask), shuffle_xor(sum.sum, mask), {}}};
#pragma unroll
    for (int i = 0; i < 4; ++i) other->x[i] = shuffle_xor(sum.x[i], mask);
    add_all(sum, other);
  });
  return sum;
}

// The same one after the other, as a sum that runs on is; in all lanes.
template <int kAhead, class Load, class Read, class Stop>
__device__ inline Partial sum_in_order(int count, Load&& load, Read&& read, Stop&& stop) {
  Partial sum = nothing();
  for (int k = 0; k < count && !stop(); k += kAhead) {
    decltype(load(0, true)) raw[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) raw[i] = load(k + i < count ? k + i : 0, k + i < count);
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (k + i == 0)
        sum = read(raw[i], true);
      else if (k + i < count)
        add(sum, read(raw[i], true));
  }
  return sum;
}

// Adds up slots at(0), at(1) ... of the unit, column by column where all parts are there, and
// finishes it. Called after the block's own part was written: of two blocks, the one that writes
// later finds both.
template <class At>
__device__ inline void join(const Attention& a, const Unit& u, int count, At&& at) {
  __syncthreads();
  __threadfence();
  each_column(a, u, [&](const Column& c) {
    float missing = 0;
    auto load = [&](int k, bool there) { return load_column(a, at(k), c.h, c.d, there && c.live); };
    auto read = [&](const RawColumn& raw, bool there) {
      Partial p;
      const bool found = read_column(a, raw, p);
      if (there && !found && c.live) missing = 1;
      return there ? p : nothing();
    };
    // Most blocks find that a part is not there yet: no column of the warp is finished by them.
    auto stop = [&] { return !ballot(c.live && missing == 0); };
    Partial sum = a.invariant ? sum_in_order<8>(count, load, read, stop)
                              : sum_of<8>(c, count, load, read, stop);
    each_mask(c, [&](int mask) { missing += shuffle_xor(missing, mask); });
    if (missing > 0 || !c.live) return;
    if (!c.lane) finish(a, u, c.h, c.d, sum);
    for (int k = int(c.lane); k < count; k += int(c.lanes)) clear_column(a, at(k), c.h, c.d);
  });
}

// Steps [from, to) of the unit's, which begins at `line`.
struct Item {
  Unit unit;
  Pieces steps;
  uint32_t size;  // tokens of a step
  int64_t from, to, line;
};

// What becomes of a state: the result, a slot of the workspace, or a part of the sum that runs on.
enum class Fate { result, slot, sum };

// Of all warps: part r of `count`.
template <class Kernel>
__device__ inline void settle(const Attention& a, const Unit& u, const Kernel& kernel, Fate fate,
                              int64_t to, int64_t r, int64_t count) {
  meet(a);
  // Two sets of tops and sums: some threads still read what others replace.
  State before = kernel.running(r % 2), after = kernel.running(1 - r % 2);
  each_column(a, u, [&](const Column& c) {
    Partial p = sum_of<4>(
        c, kernel.warps(), [&](int w, bool) { return kernel.state(w).get(c.h, c.d); },
        [](const Partial& x, bool there) { return there ? x : nothing(); }, [] { return false; });
    if (!c.live || c.lane) return;
    if (fate == Fate::slot) return put_column(a, to, c.h, c.d, p);
    if (fate == Fate::sum && r) {
      Partial sum = before.get(c.h, c.d);
      add(sum, p);
      p = sum;
    }
    if (fate == Fate::sum && r + 1 < count) return after.put(c.h, c.d, p);
    finish(a, u, c.h, c.d, p);
  });
}

template <class Kernel>
__device__ inline void run_item(const Attention& a, const Slice& slice, const Item& item,
                                Kernel& kernel) {
  const Unit& u = item.unit;
  const int64_t count = item.steps.count, own = u.index * a.ranges;
  const bool split = item.to - item.from < count, whole = a.cut == Cut::whole;
  const bool ranges = a.cut == Cut::ranges && count > 1;
  // Parts with a state of their own: those of `size` tokens, or all tokens of the item.
  const Pieces all = whole ? pieces_of(u.span, item.size) : item.steps;
  const bool folds = whole && a.invariant, each = ranges || folds;
  const int64_t first = whole ? all.first : item.steps.first + item.from;
  const int64_t tokens = whole ? all.count : item.to - item.from, parts = each ? tokens : 1;
  for (int64_t r = 0; r < parts; ++r) {
    kernel.attend(u, part_of(u.span, item.size, uint32_t(first + r), uint32_t(each ? 1 : tokens)));
    Fate fate = folds ? Fate::sum : ranges || split ? Fate::slot : Fate::result;
    int64_t to = ranges ? own + item.from + r : 2 * int64_t(team_of(a)) + (item.from == 0);
    settle(a, u, kernel, fate, to, r, parts);
    if (r + 1 < parts) leave(a);
  }
  if (ranges) join(a, u, int(count), [&](int k) { return own + k; });
  if (split && !ranges) {
    // Of slices first to last: the end of the first one, the beginnings of the others.
    const int64_t first = owner_of(slice, item.line), last = owner_of(slice, item.line + count - 1);
    join(a, u, int(last - first + 1),
         [&](int k) { return 2 * ((first + k) * a.lanes + slice.lane) + (k == 0); });
  }
  leave(a);
}

template <class Kernel>
__device__ inline void run_line(const Attention& a, LineScratch& scratch, Kernel& kernel) {
  const Slice slice = find_slice(a, scratch);
  if (slice.index >= slice.count) return;
  int64_t seq = slice.seq, base = slice.base;
  for (int64_t at = slice.begin; at < slice.end && seq < a.seqs;) {
    Span span = span_of(a, seq);
    Pieces steps = steps_of(a, span);
    Split place = {0, at - base};
    if (place.remainder >= steps.count) place = split(place.remainder, steps.count);
    auto [u, from] = place;
    if (u >= slice.units) {
      base += slice.units * steps.count, ++seq;
      continue;
    }
    int64_t left = slice.end - at, to = steps.count - from <= left ? steps.count : from + left;
    uint32_t size = a.cut == Cut::steps ? 1u << a.grain_shift : range_size(span);
    Item item = {unit_of(a, seq, u + slice.lane, span), steps, size, from, to, at - from};
    if (item.unit.counts && !from && !threadIdx.x && !rank_of(a) && a.lengths[seq] > a.limit)
      add_fault(a.faults);
    run_item(a, slice, item, kernel);
    at += to - from;
  }
}

}  // namespace kvops::gpu
