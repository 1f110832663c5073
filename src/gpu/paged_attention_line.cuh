// The slice of the line that a thread block takes, and the way of its units through a kernel:
//
//   kernel.attend(unit, tokens)  leaves the states of the block's warps in shared memory
//   kernel.warps(), kernel.state(w), kernel.running()
//
// A unit is finished at once where it is whole; else its parts go to slots, and whoever finds all
// flags of the unit set adds them up. A flag is set by the stamp of the call, a number that no
// other call has, and cleared by the block that adds up: the workspace may hold anything before.
#pragma once
#include "gpu/paged_attention.cuh"

namespace kvops::gpu {

struct LineScratch {
  int64_t sum[kPagedThreads], seq, base;
};

// Parts of a unit, about: adding up more takes one block longer than their tokens take the others.
inline constexpr int64_t kMostParts = 40;

// Steps [begin, end) of `total`, slice `index` of `count` of line `lane`; the sequence of the first
// one begins at `base` and has `units` units in the line.
struct Slice {
  int64_t begin, end, total, count, index, lane, units, seq, base;
};

__device__ inline int64_t begin_of(const Slice& s, int64_t i) { return i * s.total / s.count; }
__device__ inline int64_t owner_of(const Slice& s, int64_t step) {
  return ((step + 1) * s.count - 1) / s.total;
}

// steps: of one unit of every sequence.
__device__ inline Slice slice_of(const Attention& a, int64_t steps) {
  auto at = split(blockIdx.x, a.lanes);
  const int64_t units = a.lanes > 1 ? 1 : a.units(), total = steps * units;
  int64_t most = total, count = gridDim.x / a.lanes;
  if (a.cut == Cut::steps) {
    most = total / a.least_steps;
    int64_t parts = kMostParts * a.seqs * units;
    if (most > parts) most = parts;
  }
  if (count > most) count = most ? most : 1;
  Slice s = {0, 0, total, count, at.quotient, at.remainder, units, 0, 0};
  if (s.index < count) s.begin = begin_of(s, s.index), s.end = begin_of(s, s.index + 1);
  return s;
}

// Every thread adds up some sequences; sums of sums by doubling.
__device__ inline Slice find_slice(const Attention& a, LineScratch& scratch) {
  if (a.seqs == 1) return slice_of(a, steps_of(a, span_of(a, 0)).count);
  const int threads = int(blockDim.x), i = int(threadIdx.x);
  int64_t each = (a.seqs + threads - 1) / threads, from = i * each, to = from + each, sum = 0;
  if (from > a.seqs) from = a.seqs;
  if (to > a.seqs) to = a.seqs;
  for (int64_t s = from; s < to; ++s) sum += steps_of(a, span_of(a, s)).count;
  int64_t upto = sum;
  for (int d = 1; d < threads; d *= 2) {
    scratch.sum[i] = upto;
    __syncthreads();
    if (i >= d) upto += scratch.sum[i - d];
    __syncthreads();
  }
  scratch.sum[i] = upto;
  __syncthreads();
  Slice slice = slice_of(a, scratch.sum[threads - 1]);
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

// The state of the block: those of its warps, added up in their order.
template <class Kernel>
__device__ inline Partial merged(const Kernel& kernel, int h, int64_t d) {
  Partial p = kernel.state(0).get(h, d);
  for (int w = 1; w < kernel.warps(); ++w) add(p, kernel.state(w).get(h, d));
  return p;
}

// The parts of a unit that several blocks share: those of slices first to first + count - 1. The
// first one is the end of its slice, the others are beginnings.
struct Parts {
  int64_t first, count, lanes, lane;
  __device__ int64_t flag(int64_t k) const { return 2 * ((first + k) * lanes + lane) + (k == 0); }
};

__device__ inline bool last_of(const Attention& a, const Parts& parts, int64_t mine) {
  auto* flags = reinterpret_cast<unsigned long long*>(a.flags);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicExch(flags + parts.flag(mine), a.stamp);
    __threadfence();
  }
  __syncthreads();
  bool all = true;
  for (int64_t k = threadIdx.x; k < parts.count; k += blockDim.x)
    all = all && atomicAdd(flags + parts.flag(k), 0ull) == a.stamp;
  __threadfence();
  return __syncthreads_and(all);
}

// Adds up slots at(0), at(1) ... of the unit and finishes it. Many loads before the first use.
template <class At>
__device__ inline void add_up(const Attention& a, const Unit& u, int64_t count, At&& at) {
  constexpr int kAhead = 8;
  each_column(a, u, [&](int h, int64_t d) {
    Partial sum = nothing();
    for (int64_t k = 0; k < count; k += kAhead) {
      Partial p[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        p[i] = k + i < count ? get_shared(slot(a, at(k + i)), h, d) : nothing();
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (k + i == 0)
          sum = p[i];
        else if (k + i < count)
          add(sum, p[i]);
    }
    finish(a, u, h, d, sum);
  });
}

// The same for many parts at once: first the weights of all parts, a warp a head, then their sums
// without one waiting for the other. Other last bits than add_up()'s.
inline constexpr int kMostWeights = 4096;
template <class At>
__device__ inline void add_up_at_once(const Attention& a, const Unit& u, int count, float* weights,
                                      At&& at) {
  const int lane = int(threadIdx.x) % kWarp, warps = int(blockDim.x) / kWarp;
  float* sums = weights + u.heads * count;
  for (int h = int(threadIdx.x) / kWarp; h < u.heads; h += warps) {
    float top = nothing().top, sum = 0;
    for (int k = lane; k < count; k += kWarp) top = fmaxf(top, load_shared(slot(a, at(k)).top + h));
    top = warp_max(top);
    for (int k = lane; k < count; k += kWarp) {
      State part = slot(a, at(k));
      float own = load_shared(part.sum + h);
      float weight = own == 0 ? 0 : weight_of(load_shared(part.top + h), top);
      weights[h * count + k] = weight, sum = fmaf(own, weight, sum);
    }
    sum = warp_sum(sum);
    if (!lane) sums[2 * h] = top, sums[2 * h + 1] = sum;
  }
  __syncthreads();
  each_column(a, u, [&](int h, int64_t d) {
    Partial p = {sums[2 * h], sums[2 * h + 1], {}};
    const float* weight = weights + h * count;
#pragma unroll 16
    for (int k = 0; k < count; ++k) {
      Partial part = get_shared_sums(slot(a, at(k)), h, d);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        p.x[i] = weight[k] == 0 ? p.x[i] : fmaf(weight[k], part.x[i], p.x[i]);
    }
    finish(a, u, h, d, p);
  });
  __syncthreads();
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
  __syncthreads();
  // Two sets of tops and sums: some threads still read what others replace.
  State before = kernel.running(r % 2), after = kernel.running(1 - r % 2);
  each_column(a, u, [&](int h, int64_t d) {
    Partial p = merged(kernel, h, d);
    if (fate == Fate::slot) return slot(a, to).put(h, d, p);
    if (fate == Fate::sum && r) {
      Partial sum = before.get(h, d);
      add(sum, p);
      p = sum;
    }
    if (fate == Fate::sum && r + 1 < count) return after.put(h, d, p);
    finish(a, u, h, d, p);
  });
  __syncthreads();
}

template <class Kernel>
__device__ inline void run_item(const Attention& a, const Slice& slice, const Item& item,
                                Kernel& kernel) {
  const Unit& u = item.unit;
  const int64_t count = item.steps.count, own = u.index * a.ranges;
  const bool split = item.to - item.from < count, whole = a.cut == Cut::whole;
  const bool ranges = a.cut == Cut::ranges && count > 1;
  // Parts with a state of their own: those of `size` tokens, or all tokens of the item.
  const Pieces all = pieces_of(u.span, item.size);
  const bool folds = whole && a.invariant, each = ranges || folds;
  const int64_t first = whole ? all.first : item.steps.first + item.from;
  const int64_t tokens = whole ? all.count : item.to - item.from, parts = each ? tokens : 1;
  for (int64_t r = 0; r < parts; ++r) {
    kernel.attend(u, part_of(u.span, item.size, uint32_t(first + r), uint32_t(each ? 1 : tokens)));
    Fate fate = folds ? Fate::sum : ranges || split ? Fate::slot : Fate::result;
    int64_t to = ranges ? own + item.from + r : 2 * int64_t(blockIdx.x) + (item.from == 0);
    settle(a, u, kernel, fate, to, r, parts);
  }
  if (!split && !ranges) return;
  Parts shared = {slice.index, 1, a.lanes, slice.lane};
  if (split) {
    shared.first = owner_of(slice, item.line);
    shared.count = owner_of(slice, item.line + count - 1) - shared.first + 1;
    if (!last_of(a, shared, slice.index - shared.first)) return;
  } else {
    __threadfence();
    __syncthreads();
  }
  if (ranges)
    add_up(a, u, count, [&](int64_t k) { return own + k; });
  else if (shared.count * u.heads <= kMostWeights - 2 * u.heads)
    add_up_at_once(a, u, int(shared.count), kernel.weights(),
                   [&](int64_t k) { return shared.flag(k); });
  else
    add_up(a, u, shared.count, [&](int64_t k) { return shared.flag(k); });
  for (int64_t k = threadIdx.x; split && k < shared.count; k += blockDim.x)
    a.flags[shared.flag(k)] = 0;
}

template <class Kernel>
__device__ inline void run_line(const Attention& a, LineScratch& scratch, Kernel& kernel) {
  const Slice slice = find_slice(a, scratch);
  if (slice.index >= slice.count) return;
  int64_t seq = slice.seq, base = slice.base;
  for (int64_t at = slice.begin; at < slice.end && seq < a.seqs;) {
    Span span = span_of(a, seq);
    Pieces steps = steps_of(a, span);
    auto [u, from] = split(at - base, steps.count);
    if (u >= slice.units) {
      base += slice.units * steps.count, ++seq;
      continue;
    }
    int64_t left = slice.end - at, to = steps.count - from <= left ? steps.count : from + left;
    uint32_t size = a.cut == Cut::steps ? 1u << a.grain_shift : range_size(span);
    Item item = {unit_of(a, seq, u + slice.lane, span), steps, size, from, to, at - from};
    if (item.unit.counts && !from && !threadIdx.x && a.lengths[seq] > a.limit) add_fault(a.faults);
    run_item(a, slice, item, kernel);
    at += to - from;
  }
}

}  // namespace kvops::gpu
