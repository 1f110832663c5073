// Paged attention on a GPU, apart from the arithmetic: who computes which tokens, the block-sparse
// pattern, faults, and how partial results become one.
//
//   unit    (sequence, kv head, its query heads): every byte of its cache is read once
//   line    all units one after the other, each as many steps long as it has tokens to read; every
//           team takes a slice of the line, found from the lengths on the device. Where a sequence
//           has few units, each has a line of its own, with the same slices: as many blocks read
//           the same pages at the same time, whose heads are neighbours in memory.
//   team    a thread block or, where there are few units, a cluster of them, which has its states
//           in shared memory: the fewer parts there are, the less is added up through L2
//   state   of a unit's tokens or of a part of them: largest logit, sum of the weights relative to
//           it, weighted sums of the values; in units of log2, f32
//   slots   states of parts, in the workspace (paged_attention_slots.cuh). Who finds all parts of
//           a unit adds them up, in one order: the same bits whoever it is.
#pragma once
#include "gpu/numeric.cuh"
#include "kvcache_ops/attention.h"

namespace kvops::gpu {

inline constexpr int kPagedThreads = 128;  // of a block
inline constexpr float kLog2e = 1.44269504088896340736f;

// How the line is cut. steps: every `grain` tokens; ranges: where the length of the sequence says,
// for batch_invariant; whole: not at all, for want of a workspace.
enum class Cut : int32_t { steps, ranges, whole };

// Elements of a cache: element i of slot s is at s * slot + i / x * piece + i % x * element.
struct Cache {
  const char* data;
  int64_t block, head, piece, slot, element;  // strides in bytes
  int64_t x;
};

struct Attention {
  const void* query;
  void* out;
  float* lse;
  int64_t query_seq, query_head, out_seq, out_head, lse_seq, lse_head;  // strides
  Cache keys, values;
  kvops_dtype dtype, cached;
  const int32_t *table, *lengths;
  int64_t table_row;
  const float *slopes, *sinks, *k_scale, *v_scale;
  int64_t* faults;
  int64_t seqs, heads, kv_heads, group, size;
  uint32_t block_limit;  // of block ids
  Splitter quarters;     // fours of elements of a head
  Splitter block;        // at most 2^31 - 1 tokens, which no sequence fills
  int64_t limit, window;
  float scale, softcap;
  // Block-sparse: none where stride <= 1.
  int64_t stride = 0, sparse_block = 1, local = 0, step = 0, rank = 0;
  // Work.
  int unit_heads = 1;           // at most so many heads in a unit
  int64_t units_per_group = 1;  // a large group is several units
  int64_t lanes = 1;            // units of a sequence side by side, all of them or one
  int team_shift = 0;           // teams of 2^team_shift blocks
  Cut cut = Cut::whole;
  bool invariant = false;
  int grain_shift = 0;     // steps of 2^grain_shift tokens
  uint64_t stamp = 0;      // of this call; no half of it is 0
  float* slots = nullptr;  // where there is a workspace
  int64_t slot_floats = 0;
  int64_t ranges = 0;  // at most, of a sequence

  __device__ int64_t units() const { return kv_heads * units_per_group; }  // of a sequence
};

// Tokens that a sequence's query sees.
struct Span {
  uint32_t first, end;
  __device__ uint32_t count() const { return end - first; }
};

__device__ inline Span span_of(const Attention& a, int64_t seq) {
  int64_t end = a.lengths[seq];
  end = end < 0 ? 0 : end > a.limit ? a.limit : end;
  bool cut = a.window > 0 && a.window < end;
  return {cut ? uint32_t(end - a.window) : 0u, uint32_t(end)};
}

// Tokens of a range, from the number of visible ones alone: at least 512, and at most 33 ranges.
inline constexpr uint32_t kRange = 512, kRanges = 32;
__device__ inline uint32_t range_size(Span s) {
  uint32_t times = (s.count() + (kRange * kRanges - 1)) / (kRange * kRanges);
  return kRange * (times ? times : 1);
}

// Multiples of `size` that the span reaches into, the first one and how many.
struct Pieces {
  uint32_t first, count;
};
__device__ inline Pieces pieces_of(Span s, uint32_t size) {
  if (!s.count()) return {0, 1};
  uint32_t first = s.first / size;
  return {first, (s.end - 1) / size + 1 - first};
}
__device__ inline Pieces steps_of(const Attention& a, Span s) {
  if (a.cut == Cut::whole || !s.count()) return {0, 1};
  if (a.cut == Cut::ranges) return pieces_of(s, range_size(s));
  uint32_t first = s.first >> a.grain_shift;
  return {first, ((s.end - 1) >> a.grain_shift) + 1 - first};
}
// Tokens of pieces [first, first + count).
__device__ inline Span part_of(Span s, uint32_t size, uint32_t first, uint32_t count) {
  uint64_t begin = uint64_t(first) * size, end = begin + uint64_t(count) * size;
  return {begin > s.first ? uint32_t(begin) : s.first, end < s.end ? uint32_t(end) : s.end};
}

struct Unit {
  int64_t seq, kv_head, head, index;  // index: among all units
  int heads;
  Span span;
  bool counts;  // this unit counts the faults of its sequence
};
__device__ inline Unit unit_of(const Attention& a, int64_t seq, int64_t u, Span span) {
  Split at = {u, 0};
  if (a.units_per_group > 1) at = split(u, a.units_per_group);
  int64_t skipped = at.remainder * a.unit_heads, left = a.group - skipped;
  return {seq,
          at.quotient,
          at.quotient * a.group + skipped,
          seq * a.units() + u,
          left < a.unit_heads ? int(left) : a.unit_heads,
          span,
          u == 0 && a.faults};
}

// ---- lanes -------------------------------------------------------------------------------------

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int mask = kWarp / 2; mask; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
  return x;
}
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int mask = kWarp / 2; mask; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// ---- block-sparse ------------------------------------------------------------------------------

__device__ inline uint64_t multiply_modulo(uint64_t x, uint64_t y, uint64_t m) {  // x < m
  uint64_t sum = 0;
  for (; y; y >>= 1) {
    if (y & 1) sum = sum >= m - x ? sum - (m - x) : sum + x;
    x = x >= m - x ? x - (m - x) : x + x;
  }
  return sum;
}

// Does the head look at the cache block that starts at token `start`, of a sequence of `end`?
static __device__ __noinline__ bool keeps(const Attention& a, int64_t head, uint32_t start,
                                          uint32_t end) {
  auto m = uint64_t(a.stride);
  bool by_head = a.step >= 0;
  uint64_t magnitude = by_head ? uint64_t(a.step) : 0 - uint64_t(a.step);
  uint64_t own = uint64_t(by_head ? head : head / a.group);
  uint64_t index =
      multiply_modulo(uint64_t(a.rank) % m, uint64_t(by_head ? a.heads : a.kv_heads), m);
  index = (index + own % m) % m;
  uint64_t offset = (multiply_modulo(index, magnitude, m) + 1) % m;
  int64_t c = int64_t(start) / a.sparse_block;
  if ((uint64_t(c) % m + offset) % m == 0) return true;
  return c > (int64_t(end) - 1) / a.sparse_block - a.local;
}

// Does one of the heads? Those of a kv head agree where the step is not above 0.
__device__ inline bool any_keeps(const Attention& a, int64_t head, int64_t heads, uint32_t start,
                                 uint32_t end) {
  if (a.stride <= 1) return true;
  for (int64_t h = 0; h < heads; ++h)
    if (keeps(a, head + h, start, end)) return true;
  return false;
}

// ---- where tokens are --------------------------------------------------------------------------

// The column of a token in its row of the table, and its slot in the block.
struct Where {
  uint32_t column, slot;
};
__device__ inline Where where(const Attention& a, uint32_t token) {
  auto at = a.block(token);
  return {at.quotient, at.remainder};
}

// The block of a visible token from its table entry; -1: the token is left out. Of the threads that
// ask for a token, one says that it counts.
__device__ inline int32_t block_of(const Attention& a, const Unit& u, uint32_t token, Where at,
                                   int32_t entry, bool counts) {
  uint32_t start = token - at.slot;
  if (uint32_t(entry) < a.block_limit)
    return any_keeps(a, u.head, u.heads, start, u.span.end) ? entry : -1;
  if (counts && u.counts && (!at.slot || token == u.span.first) &&
      any_keeps(a, 0, a.heads, start, u.span.end))
    add_fault(a.faults);
  return -1;
}

// ---- states ------------------------------------------------------------------------------------

// Four sums of a head, and what they are relative to.
struct Partial {
  float top, sum, x[4];
};
__device__ inline Partial nothing() { return {bits_float(0xFF800000u), 0, {0, 0, 0, 0}}; }

__device__ inline float exp2_quick(float x) {  // 2 units; subnormal results are 0
#if defined(__HIP__)
  return exp2f(x);
#else
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
#endif
}
__device__ inline float weight_of(float top, float most) {
  return top == most ? 1.0f : exp2_quick(top - most);
}

// a += b. A side without a weight leaves the other's bits.
__device__ inline void add(Partial& a, const Partial& b) {
  float most = fmaxf(a.top, b.top), p = weight_of(a.top, most), q = weight_of(b.top, most);
  if (b.sum == 0) q = 0;
  a.top = most;
  a.sum = fmaf(b.sum, q, a.sum * p);
#pragma unroll
  for (int i = 0; i < 4; ++i) a.x[i] = q == 0 ? a.x[i] * p : fmaf(b.x[i], q, a.x[i] * p);
}

// sum += p[0] + p[1] ...: the weights of all do not wait for each other.
template <int kCount>
__device__ inline void add_all(Partial& sum, const Partial (&p)[kCount]) {
  float most = sum.top;
#pragma unroll
  for (int i = 0; i < kCount; ++i) most = fmaxf(most, p[i].top);
  const float own = weight_of(sum.top, most);
  sum.top = most, sum.sum *= own;
  for (auto& x : sum.x) x *= own;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float weight = p[i].sum == 0 ? 0 : weight_of(p[i].top, most);
    sum.sum = fmaf(p[i].sum, weight, sum.sum);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      sum.x[j] = weight == 0 ? sum.x[j] : fmaf(p[i].x[j], weight, sum.x[j]);
  }
}

// The state of up to unit_heads heads in memory: rows of sums, `pitch` apart, then tops, sums.
struct State {
  float* values;
  int64_t pitch;
  float *top, *sum;

  __device__ State(float* memory, int heads, int64_t row)
      : values(memory), pitch(row), top(memory + heads * row), sum(top + heads) {}
  __device__ Partial get(int h, int64_t d) const {
    const float4 x = *reinterpret_cast<const float4*>(values + h * pitch + d);
    return {top[h], sum[h], {x.x, x.y, x.z, x.w}};
  }
  __device__ void put(int h, int64_t d, const Partial& p) const {
    for (int i = 0; i < 4; ++i) values[h * pitch + d + i] = p.x[i];
    if (d == 0) top[h] = p.top, sum[h] = p.sum;
  }
};

// ---- results -----------------------------------------------------------------------------------

__device__ inline void store_number(void* data, kvops_dtype dtype, int64_t i, float x) {
  if (dtype == KVOPS_F32)
    static_cast<float*>(data)[i] = x;
  else if (dtype == KVOPS_BF16)
    static_cast<bf16*>(data)[i] = from_float<bf16>(x);
  else
    static_cast<f16*>(data)[i] = from_float<f16>(x);
}
__device__ inline float load_number(const void* data, kvops_dtype dtype, int64_t i) {
  if (dtype == KVOPS_F32) return static_cast<const float*>(data)[i];
  if (dtype == KVOPS_BF16) return to_float(static_cast<const bf16*>(data)[i]);
  return to_float(static_cast<const f16*>(data)[i]);
}

// Takes the sink in, divides, stores.
__device__ inline void finish(const Attention& a, const Unit& u, int h, int64_t d,
                              const Partial& p) {
  const float none = bits_float(0xFF800000u);
  int64_t head = u.head + h;
  float sink = a.sinks ? a.sinks[head] * kLog2e : none;
  float most = fmaxf(p.top, sink), scale = weight_of(p.top, most);
  float sum = p.sum * scale;
  if (sink > none) sum += weight_of(sink, most);
  // No weight at all: zeros, not 0 / 0.
  float factor = p.sum == 0 ? 0.0f : (a.v_scale ? *a.v_scale : 1.0f) * scale / sum;
  int64_t to = u.seq * a.out_seq + head * a.out_head + d;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    store_number(a.out, a.dtype, to + i, p.sum == 0 ? 0.0f : p.x[i] * factor);
  if (d != 0 || !a.lse) return;
  double natural = (double(log2f(sum)) + double(most)) * 0.693147180559945309417;
  a.lse[u.seq * a.lse_seq + head * a.lse_head] = sum == 0 ? none : float(natural);
}

}  // namespace kvops::gpu
