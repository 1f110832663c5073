// Row-wise top-k: rows of logits and how a block holds them.
//
// Rows are read in groups of four: one access of 16 bytes where they are dense, at an aligned
// address and all inside the row, else one by one.
#pragma once
#include "gpu/top_k_span.cuh"

namespace kvops::gpu {

inline constexpr int kBatch = 16;                  // logits that a thread has at a time
inline constexpr float kNone = -__builtin_inff();  // in the place of a logit that there is not

struct LogitRow {
  const float* data;
  int64_t step;
  int count;
  bool wide;  // aligned groups are dense
  int odd;    // position 0 is number `odd` of the first group

  __device__ LogitRow(const float* first, int64_t distance, int n)
      : data(first),
        step(distance),
        count(n),
        wide(distance == 1),
        odd(wide ? int(reinterpret_cast<uintptr_t>(first) / 4 & 3) : 0) {}
  // Where alignment alone makes a group too much, single logits are read.
  __device__ void fit(int most) {
    if (groups() > most) wide = false, odd = 0;
  }
  __device__ int groups() const { return (odd + count + 3) / 4; }
  __device__ int first(int group) const { return 4 * group - odd; }

  // Group g; a bit for each logit that there is.
  __device__ uint32_t read(int g, float* x) const {
    const int at = first(g);
    if (wide && at >= 0 && at + 4 <= count) {
      const auto v = load<4, true>(data + at);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = v.get(j);
      return 15;
    }
    uint32_t live = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool in = at + j >= 0 && at + j < count;
      x[j] = in ? data[(at + j) * step] : kNone;
      live |= uint32_t(in) << j;
    }
    return live;
  }
};

// Logits of this thread: groups `group`, `group` + stride, .. below `end`.
struct Batch {
  float x[kBatch];
  uint32_t live = 0;

  __device__ Batch(const LogitRow& row, int group, int stride, int end) {
#pragma unroll
    for (int u = 0; u < kBatch / 4; ++u) {
      const int g = group + u * stride;
      if (g < end) {
        live |= row.read(g, x + 4 * u) << 4 * u;
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) x[4 * u + j] = kNone;
      }
    }
  }
};

// The row as it is.
template <int kThreads>
struct Streamed {
  const LogitRow& row;

  template <class F>
  __device__ void each(F&& f) const {
    for (int g = int(threadIdx.x); g < row.groups(); g += 4 * kThreads) {
      const Batch b(row, g, kThreads, row.groups());
#pragma unroll
      for (int e = 0; e < kBatch; ++e)
        if (b.live >> e & 1) f(key_of(b.x[e]), row.first(g + e / 4 * kThreads) + e % 4);
    }
  }
};

// What a guess let pass, in any order.
struct Candidate {
  float value;
  int position;
};
template <int kThreads>
struct Listed {
  const Candidate* list;
  int count;

  template <class F>
  __device__ void each(F&& f) const {
    for (int i = int(threadIdx.x); i < count; i += kThreads)
      f(key_of(list[i].value), list[i].position);
  }
};

// A row in registers, in order: a thread has four groups, a warp neighbouring ones.
template <int kThreads>
struct Resident {
  static constexpr int kMost = kBatch * kThreads;
  int begin, missing;  // position of the first logit; how many of all threads there are not
  Batch b;

  static __device__ int group() { return warp_id() * (kBatch / 4) * kWarp + lane_id(); }
  __device__ explicit Resident(const LogitRow& row)
      : begin(row.first(group())),
        missing(kMost - row.count),
        b(row, group(), kWarp, row.groups()) {}
  __device__ int position(int e) const { return begin + e / 4 * 4 * kWarp + e % 4; }
  template <class F>
  __device__ void each(F&& f) const {
#pragma unroll
    for (int e = 0; e < kBatch; ++e)
      if (b.live >> e & 1) f(key_of(b.x[e]), position(e));
  }

  // Lists those of a span, none of which is a zero, NaN or -inf.
  __device__ void list(const Span& a, bool later, TopKScratch& s) const {
    const float low = value_of(a.low), high = value_of(a.high);
    uint32_t in = 0;
#pragma unroll
    for (int e = 0; e < kBatch; ++e) in |= uint32_t(b.x[e] >= low && b.x[e] <= high) << e;
    for (; in; in &= in - 1) {
      const int at = int(__ffs(int(in))) - 1;
      float x = b.x[0];
#pragma unroll
      for (int e = 1; e < kBatch; ++e) x = at == e ? b.x[e] : x;
      s.few[atomicAdd(&s.few_count, 1)] = item_of(key_of(x), position(at), later);
    }
  }
  // The bound of the top k; the bins are 0.
  __device__ Bound bound(int k, bool later, uint32_t* bins, TopKScratch& s) const {
    count_values(b.x, bins);
    __syncthreads();
    const Found f = find<kThreads>(bins, k, s);
    Span a = value_span(f, k);
    if (f.bin == kLeastBin) a.count -= missing;
    if (a.count == a.need) return {a.low, 0};
    const bool plain =
        f.bin > kLeastBin && f.bin < kInfinityBin && f.bin != kZeroBin && f.bin != kZeroBin - 1;
    if (!plain || a.count > kFew) return bound_of<kThreads>(*this, a, later, bins, s);
    list(a, later, s);
    return bound_of_listed(a, s);
  }
  // A bit for each logit that is taken.
  __device__ uint32_t taken(const Bound& bound, bool later) const {
    const float least = value_of(bound.key);
    uint32_t bits = 0;
    if (!bound.tie && least > kNone && least != 0) {
#pragma unroll
      for (int e = 0; e < kBatch; ++e) bits |= uint32_t(!(b.x[e] < least)) << e;
      return bits;
    }
#pragma unroll
    for (int e = 0; e < kBatch; ++e)
      bits |= uint32_t(bound.takes(key_of(b.x[e]), position(e), later)) << e;
    return bits & b.live;
  }
  // Writes the positions that are taken in order: a lane's, its warp's groups, the warps. Counts
  // of the four groups are summed over the lanes in one word.
  __device__ void write(uint32_t bits, int32_t* out, TopKScratch& s) const {
    uint32_t counts = 0;
#pragma unroll
    for (int u = 0; u < kBatch / 4; ++u) counts |= uint32_t(__popc(bits >> 4 * u & 15)) << 8 * u;
    // What a field of the last lane carries over is never looked at.
    const auto upto = uint32_t(shuffle_up(warp_scan(int(counts)), 1));
    const uint32_t before = lane_id() ? upto : 0;
    int total = 0, starts = 0;
#pragma unroll
    for (int u = 0; u < kBatch / 4; ++u) {
      starts |= u ? total << (u - 1) * 10 : 0;
      total += int((before >> u * 8 & 255) + (counts >> u * 8 & 255));
    }
    starts = shuffle(starts, kWarp - 1);
    out += sum_below(shuffle(total, kWarp - 1), s.warps[1]);
#pragma unroll
    for (int u = 0; u < kBatch / 4; ++u) {
      int place = int(before >> u * 8 & 255) + (u ? starts >> (u - 1) * 10 & 1023 : 0);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (bits >> (4 * u + j) & 1) out[place++] = position(4 * u + j);
    }
  }
};

// Bits of positions in groups of 128; those past the last position are 0.
inline constexpr int kBitGroup = 128;
__device__ inline int groups_of(int bits) { return (bits + kBitGroup - 1) / kBitGroup; }

__device__ inline Group<uint32_t, 4> bit_group(const uint32_t* bits, int g) {
  return load<4, true>(bits + 4 * g);
}
__device__ inline int population(const Group<uint32_t, 4>& w) {
  return int(__popc(w.word[0])) + int(__popc(w.word[1])) + int(__popc(w.word[2])) +
         int(__popc(w.word[3]));
}

// How many of n bits are set before the groups of this thread, [from, to), and in all.
struct Before {
  int from, to, before;
};
template <int kThreads>
__device__ Before count_bits(const uint32_t* bits, int n, TopKScratch& s) {
  const int groups = groups_of(n), per = (groups + kThreads - 1) / kThreads;
  const int from = int(threadIdx.x) * per, to = from + per < groups ? from + per : groups;
  int own = 0;
  for (int g = from; g < to; ++g) own += population(bit_group(bits, g));
  const int upto = warp_scan(own), all = shuffle(upto, kWarp - 1);
  return {from, to, sum_below(all, s.warps[1]) + upto - own};
}

// Writes the positions of n bits, the first of which is `begin`; how many there were.
template <int kThreads>
__device__ int write_bits(const uint32_t* bits, int begin, int n, int32_t* out, TopKScratch& s) {
  const Before b = count_bits<kThreads>(bits, n, s);
  out += b.before;
  for (int i = 4 * b.from; i < 4 * b.to; ++i)
    for (uint32_t left = bits[i]; left; left &= left - 1)
      *out++ = begin + 32 * i + int(__ffs(int(left))) - 1;
  return warp_sum(lane_id() < kThreads / kWarp ? s.warps[1].of[lane_id()] : 0);
}

// Writes the positions of those items whose bits are set; `before` has room for the groups.
template <int kThreads>
__device__ void write_marked(const Listed<kThreads>& items, const uint32_t* bits, int n,
                             int* before, int32_t* out, TopKScratch& s) {
  const Before b = count_bits<kThreads>(bits, n, s);
  for (int g = b.from, sum = b.before; g < b.to; ++g) {
    before[g] = sum;
    sum += population(bit_group(bits, g));
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < items.count; i += kThreads) {
    const int position = items.list[i].position, g = position / kBitGroup;
    const int word = position / 32 % 4;
    const uint32_t own = bits[position / 32];
    if (!(own >> position % 32 & 1)) continue;
    const auto w = bit_group(bits, g);
    int place = before[g] + int(__popc(own & ((1u << position % 32) - 1)));
#pragma unroll
    for (int j = 0; j < 3; ++j) place += j < word ? int(__popc(w.word[j])) : 0;
    out[place] = position;
  }
}

}  // namespace kvops::gpu
