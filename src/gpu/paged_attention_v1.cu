// paged_attention_v1: one query token per sequence attends to its paged cache. The first of two
// kernels that takes the call: matrix cores (src/cuda/paged_attention_mma.cuh), else the portable
// one (paged_attention_portable.cu). Both cut the work as paged_attention.cuh says.
#include <sys/random.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>

#include "core/integers.h"
#include "core/options.h"
#include "gpu/paged_attention_job.h"
#include "gpu/paged_attention_slots.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using Args = kvops_paged_attention_v1_args;

constexpr int64_t kLine = 128;  // bytes, of the caches
// Units of a sequence are side by side where each line then has so many slices: of the blocks that
// remain over, at most one in as many has nothing to do.
constexpr int64_t kLeastSlices = 8;
// Lengths have 31 bits: beyond 32 the number of local blocks no longer matters.
constexpr int64_t kMany = int64_t{1} << 32;

gpu::Cache cache_of(const kvops_tensor& t, int slot, int element) {
  int64_t size = dtype(t.dtype).size;
  auto v = is_empty(t) ? kvops_tensor{} : t;  // no address is computed
  bool keys = t.rank == 5;
  return {static_cast<const char*>(t.data),
          v.stride[0] * size,
          v.stride[1] * size,
          keys ? v.stride[2] * size : 0,
          v.stride[slot] * size,
          v.stride[element] * size,
          t.shape[element]};
}

template <class T>
T* data_of(const kvops_tensor& t) {
  return present(t) ? static_cast<T*>(t.data) : nullptr;
}

int64_t up_to_line(int64_t bytes) { return round_up(bytes, kLine); }

uint64_t random_number() {
  uint64_t x = 0;
  if (getrandom(&x, sizeof x, 0) == sizeof x) return x;
  return uint64_t(std::chrono::system_clock::now().time_since_epoch().count());
}

// A number that no other call has, and no memory but by chance: 2^-62, each half 2^-31, and not 0.
uint64_t next_stamp() {
  static std::atomic<uint64_t> state{random_number()};
  uint64_t z = state.fetch_add(0x9E3779B97F4A7C15ull, std::memory_order_relaxed);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return (z ^ (z >> 31)) | 0x100000001ull;
}

// Of lengths, in tokens.
int64_t limit_of(const Args& a) {
  const int64_t block = a.key_cache.shape[3], width = a.block_table.shape[1];
  const bool many = width && block > INT32_MAX / width;
  const int64_t limit = many ? INT32_MAX : width * block;
  return a.max_seq_len > 0 ? std::min(limit, a.max_seq_len) : limit;
}

}  // namespace

gpu::Attention paged_attention_of(const Args& a, const PagedPlan& plan) {
  const int64_t heads = a.query.shape[1], kv_heads = a.key_cache.shape[1];
  const int64_t group = kv_heads ? heads / kv_heads : 0;
  const auto query = view<const char, 3>(a.query), out = view<const char, 3>(a.out);
  const bool lse = present(a.lse);
  gpu::Attention job = {
      .query = a.query.data,
      .out = a.out.data,
      .lse = data_of<float>(a.lse),
      .query_seq = query.stride[0],
      .query_head = query.stride[1],
      .out_seq = out.stride[0],
      .out_head = out.stride[1],
      .lse_seq = lse ? a.lse.stride[0] : 0,
      .lse_head = lse ? a.lse.stride[1] : 0,
      .keys = cache_of(a.key_cache, 3, 4),
      .values = cache_of(a.value_cache, 3, 2),
      .dtype = a.query.dtype,
      .cached = a.key_cache.dtype,
      .table = static_cast<const int32_t*>(a.block_table.data),
      .lengths = static_cast<const int32_t*>(a.seq_lens.data),
      .table_row = is_empty(a.block_table) ? 0 : a.block_table.stride[0],
      .slopes = data_of<const float>(a.alibi_slopes),
      .sinks = data_of<const float>(a.sinks),
      .k_scale = data_of<const float>(a.k_scale),
      .v_scale = data_of<const float>(a.v_scale),
      .faults = data_of<int64_t>(a.faults),
      .seqs = a.query.shape[0],
      .heads = heads,
      .kv_heads = kv_heads,
      .group = group,
      .size = a.query.shape[2],
      .block_limit = uint32_t(std::min(a.key_cache.shape[0], int64_t{1} << 31)),
      .quarters = gpu::Splitter(std::max<int64_t>(a.query.shape[2] / 4, 1)),
      .block = gpu::Splitter(std::clamp<int64_t>(a.key_cache.shape[3], 1, INT32_MAX)),
      .limit = limit_of(a),
      .window = a.window,
      .scale = float(a.scale),
      .softcap = float(a.softcap),
  };
  job.stride = a.blocksparse_vert_stride, job.sparse_block = a.blocksparse_block_size;
  job.local = std::clamp(a.blocksparse_local_blocks, -kMany, kMany);
  job.step = a.blocksparse_head_sliding_step, job.rank = a.tp_rank;
  job.unit_heads = plan.unit_heads, job.units_per_group = ceil_div(group, plan.unit_heads);
  const int64_t units = kv_heads * job.units_per_group;
  if (units && units * kLeastSlices << plan.team_shift <= plan.blocks) job.lanes = units;
  job.invariant = a.batch_invariant != 0;
  job.grain_shift = plan.grain_shift, job.team_shift = plan.team_shift;
  return job;
}

int64_t paged_attention_split(const Args& a, const PagedPlan& plan, gpu::Attention& job) {
  const int64_t units = job.seqs * job.kv_heads * job.units_per_group;
  job.slot_floats = up_to_line(plan.unit_heads * job.size * gpu::kColumnFloats) / 4;
  job.ranges = std::min<int64_t>(gpu::kRanges, ceil_div(job.limit, gpu::kRange)) + 1;
  const int64_t slots = job.invariant ? units * job.ranges : 2 * plan.blocks;
  if (present(a.workspace)) {
    job.cut = job.invariant ? gpu::Cut::ranges : gpu::Cut::steps;
    job.stamp = next_stamp();
    job.slots = static_cast<float*>(a.workspace.data);
  }
  return slots * job.slot_floats * 4;
}

kvops_status run_paged_attention(const char* op, const Args& a) {
#if !defined(__HIP__)
  if (mma_paged_supports(a) && forced_implementation("paged_attention_v1") != "portable")
    return run_mma_paged(op, a);
#endif
  return run_portable_paged(op, a);
}

// Of both kernels: which one runs may be chosen between asking and calling.
int64_t paged_attention_bytes(const Args& a) {
  PagedPlan plan = portable_paged_plan(a);
  auto job = paged_attention_of(a, plan);
  int64_t bytes = paged_attention_split(a, plan, job);
#if !defined(__HIP__)
  if (mma_paged_supports(a)) {
    plan = mma_paged_plan(a);
    job = paged_attention_of(a, plan);
    bytes = std::max(bytes, paged_attention_split(a, plan, job));
  }
#endif
  return bytes;
}

kvops_status paged_attention_v1(const Args& a) {
  return run_paged_attention("paged_attention_v1", a);
}
int64_t paged_attention_v1_bytes(const Args& a) { return paged_attention_bytes(a); }

}  // namespace kvops::KVOPS_GPU
