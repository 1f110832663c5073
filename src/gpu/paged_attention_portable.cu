// Paged attention without matrix cores: f32 caches, heads of more than 256, GPUs before sm_80, HIP.
//
// A warp takes tiles of as many tokens as it has lanes. Logits: a lane has a token, four heads at a
// time, queries from shared memory. Weighted sums: a lane has every kWarp-th element of four heads;
// tokens that are left out are not looked at. A tile's sums begin at 0 and are then added, so that
// rounding errors grow with tiles, not with tokens. All in f32.
#include <algorithm>
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/paged_attention_job.h"
#include "gpu/paged_attention_line.cuh"

namespace kvops::gpu {
namespace {

constexpr int kHeads = 4;

struct Code {  // of one of the fp8 formats
  uint8_t bits;
};

template <class C>
__device__ inline float number(C x, kvops_dtype) {
  return to_float(x);
}
__device__ inline float number(Code x, kvops_dtype dtype) {
  switch (dtype) {
    case KVOPS_F8_E4M3:
      return decode_quick<f8_e4m3>(x.bits);
    case KVOPS_F8_E5M2:
      return decode_quick<f8_e5m2>(x.bits);
    case KVOPS_F8_E4M3FNUZ:
      return decode_quick<f8_e4m3fnuz>(x.bits);
    default:
      return decode_quick<f8_e5m2fnuz>(x.bits);
  }
}

template <class T>
__device__ inline T from_lane(T x, int lane) {
#if defined(__HIP__)
  return __shfl(x, lane);
#else
  return __shfl_sync(0xFFFFFFFFu, x, lane);
#endif
}
__device__ inline uint64_t lanes_with(bool x) {
#if defined(__HIP__)
  return __ballot(x);
#else
  return __ballot_sync(0xFFFFFFFFu, x);
#endif
}
// C: float, f16, bf16 or Code; kPer: elements of a head that a lane has, at most.
template <class C, int kPer>
struct Portable {
  const Attention& a;
  float* memory;  // queries of the unit, states of the warps, sums that run on

  __device__ int warps() const { return kPagedThreads / kWarp; }
  __device__ int64_t state_floats() const { return kHeads * (a.size + 2); }
  __device__ State state(int w) const {
    return {memory + kHeads * a.size + w * state_floats(), kHeads, a.size};
  }
  __device__ State running(int turn) const {
    State s(memory + kHeads * a.size + warps() * state_floats(), kHeads, a.size);
    s.top += turn * 2 * kHeads, s.sum += turn * 2 * kHeads;
    return s;
  }

  struct Token {
    int32_t block;  // -1: left out
    uint32_t number, slot;
  };

  __device__ void load_queries(const Unit& u) const {
    __syncthreads();
    for (int64_t i = threadIdx.x; i < kHeads * a.size; i += blockDim.x) {
      int64_t h = i / a.size, from = u.seq * a.query_seq + (u.head + h) * a.query_head + i % a.size;
      memory[i] = h < u.heads ? load_number(a.query, a.dtype, from) : 0;
    }
    __syncthreads();
  }

  // Dot products and what their last bits leave out. f32 keys: summed in f64, since the last bit of
  // a logit of 16 is 8 units of its weight.
  __device__ void dot(const Unit& u, const Token& t, float (&logit)[kHeads],
                      float (&rest)[kHeads]) const {
    using Sum = std::conditional_t<__is_same(C, float), double, float>;
    const Cache& k = a.keys;
    const char* row = k.data + t.block * k.block + u.kv_head * k.head + t.slot * k.slot;
    Sum sum[kHeads][4] = {};
    int64_t in_piece = 0;
    for (int64_t d = 0; d < a.size; d += 4) {
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x[i] = number(*reinterpret_cast<const C*>(row + (in_piece + i) * k.element), a.cached);
      if ((in_piece += 4) == k.x) in_piece = 0, row += k.piece;
#pragma unroll
      for (int h = 0; h < kHeads; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sum[h][i] = fma(Sum(memory[h * a.size + d + i]), Sum(x[i]), sum[h][i]);
    }
    for (int h = 0; h < kHeads; ++h) {
      Sum all = (sum[h][0] + sum[h][1]) + (sum[h][2] + sum[h][3]);
      logit[h] = float(all), rest[h] = float(all - Sum(logit[h]));
    }
  }

  // Nothing but a factor between dot products and logits.
  __device__ bool plain() const { return a.softcap == 0 && !a.slopes; }

  // Dot products to logits in units of log2; the factor of plain ones has those.
  __device__ void to_logits(const Unit& u, const Token& t, float factor, float (&x)[kHeads]) const {
    for (int h = 0; h < kHeads; ++h) {
      x[h] *= factor;
      if (a.softcap != 0) x[h] = a.softcap * tanhf(x[h] / a.softcap);
      int64_t head = u.head + (h < u.heads ? h : 0);
      if (a.slopes)
        x[h] = fmaf(a.slopes[head], float(int32_t(t.number) - int32_t(u.span.end - 1)), x[h]);
      if (!plain()) x[h] *= kLog2e;
      bool dropped = a.stride > 1 && !keeps(a, head, t.number - t.slot, u.span.end);
      if (dropped || t.block < 0) x[h] = bits_float(0xFF800000u);
    }
  }

  __device__ void add_values(const Unit& u, const Token& t, uint64_t live, const float (&p)[kHeads],
                             float (&sum)[kHeads][kPer]) const {
    const Cache& v = a.values;
    const int lane = int(threadIdx.x) % kWarp;
    for (; live; live &= live - 1) {
      int from = int(__ffsll(static_cast<long long>(live))) - 1;
      const char* row = v.data + from_lane(t.block, from) * v.block + u.kv_head * v.head +
                        from_lane(t.slot, from) * v.slot;
      float w[kHeads], x[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        int64_t d = lane + i * kWarp;
        x[i] = d < a.size ? number(*reinterpret_cast<const C*>(row + d * v.element), a.cached) : 0;
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        w[h] = from_lane(p[h], from);
#pragma unroll
        for (int i = 0; i < kPer; ++i) sum[h][i] = fmaf(w[h], x[i], sum[h][i]);
      }
    }
  }

  __device__ Token token_of(const Unit& u, Span s, uint32_t token) const {
    Token t = {-1, token, 0};
    if (token < s.first || token >= s.end) return t;
    Where at = where(a, token);
    t.slot = at.slot;
    t.block = block_of(a, u, token, at, a.table[u.seq * a.table_row + at.column], true);
    return t;
  }

  __device__ void attend(const Unit& u, Span s) const {
    const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
    load_queries(u);
    float factor = a.scale * (a.k_scale ? *a.k_scale : 1.0f);
    if (plain()) factor *= kLog2e;
    float values[kHeads][kPer] = {}, top[kHeads], sum[kHeads] = {};
    for (auto& x : top) x = bits_float(0xFF800000u);
    for (uint64_t first = uint64_t(s.first / uint32_t(kWarp) + uint32_t(warp)) * uint64_t(kWarp);
         first < s.end; first += kPagedThreads) {
      Token t = token_of(u, s, uint32_t(first) + uint32_t(lane));
      uint64_t live = lanes_with(t.block >= 0);
      if (!live) continue;
      float p[kHeads] = {}, rest[kHeads] = {}, tile[kHeads][kPer] = {}, decay[kHeads];
      if (t.block >= 0) dot(u, t, p, rest);
      float dots[kHeads] = {p[0], p[1], p[2], p[3]};
      to_logits(u, t, factor, p);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float most = fmaxf(top[h], warp_max(p[h]));
        // Without a finite logit nothing has a weight; -inf - -inf would be NaN.
        float base = most == bits_float(0xFF800000u) ? 0.0f : most;
        // Large logits would lose their last bits before the difference.
        bool exact = plain() && p[h] > bits_float(0xFF800000u);
        float more = rest[h] * factor;
        p[h] = exp2_quick(exact ? fmaf(dots[h], factor, -base) + more : p[h] - base);
        decay[h] = weight_of(top[h], most);
        sum[h] = fmaf(sum[h], decay[h], p[h]), top[h] = most;
      }
      add_values(u, t, live, p, tile);
#pragma unroll
      for (int h = 0; h < kHeads; ++h)
#pragma unroll
        for (int i = 0; i < kPer; ++i) values[h][i] = fmaf(values[h][i], decay[h], tile[h][i]);
    }
    State own = state(warp);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float all = warp_sum(sum[h]);
      if (!lane) own.top[h] = top[h], own.sum[h] = all;
#pragma unroll
      for (int i = 0; i < kPer; ++i)
        if (lane + i * kWarp < a.size) own.values[h * own.pitch + lane + i * kWarp] = values[h][i];
    }
  }
};

template <class C, int kPer>
__global__ void __launch_bounds__(kPagedThreads) portable_paged_kernel(KVOPS_IN_PLACE Attention a) {
  extern __shared__ float portable_memory[];
  __shared__ LineScratch scratch;
  Portable<C, kPer> kernel = {a, portable_memory};
  run_line(a, scratch, kernel);
}

}  // namespace
}  // namespace kvops::gpu

namespace kvops::KVOPS_GPU {

using Args = kvops_paged_attention_v1_args;

PagedPlan portable_paged_plan(const Args& a) {
  PagedPlan plan;
  plan.blocks = 4 * compute_units(a.query);  // an H200 has room for as many
  return plan;
}

kvops_status run_portable_paged(const char* op, const Args& a) {
  PagedPlan plan = portable_paged_plan(a);
  gpu::Attention job = paged_attention_of(a, plan);
  paged_attention_split(a, plan, job);
  constexpr int64_t kStates = 2 + gpu::kPagedThreads / 32;  // queries, states, what runs on
  int64_t floats = kStates * gpu::kHeads * (job.size + 2) + 2 * gpu::kHeads;
  Grid grid = {.x = plan.blocks, .threads = plan.threads, .shared = floats * 4};
  auto start = [&]<class C>() {
    if (job.size <= 128) return launch(op, gpu::portable_paged_kernel<C, 4>, grid, a.query, job);
    return launch(op, gpu::portable_paged_kernel<C, 16>, grid, a.query, job);
  };
  if (dtype(job.cached).size == 1) return start.template operator()<gpu::Code>();
  return dispatch(op, "key_cache", job.cached, Floats{},
                  [&]<class C>() { return start.template operator()<C>(); });
}

}  // namespace kvops::KVOPS_GPU
