// The host side of paged attention on matrix cores: which calls, how many blocks, how caches come
// into shared memory.
#include <algorithm>
#include <cstdlib>

#include "cuda/device.h"
#include "cuda/paged_attention_mma.cuh"
#include "gpu/paged_attention_job.h"
#include "gpu/vec.cuh"

namespace kvops::cuda {

// paged_attention_{bf16,f16,fp8}.cu
#define KVOPS_LAUNCH(name)                                                    \
  kvops_status name(const char* op, const Grid& grid, const kvops_tensor& on, \
                    const gpu::Attention& a, const gpu::MmaLayout& l);
KVOPS_LAUNCH(launch_mma_paged_bf16)
KVOPS_LAUNCH(launch_mma_paged_f16)
KVOPS_LAUNCH(launch_mma_paged_fp8)
KVOPS_LAUNCH(launch_mma_paged_e4m3)
#undef KVOPS_LAUNCH

namespace {

using Args = kvops_paged_attention_v1_args;

// Of every SM: what the blocks of a kernel have besides their dynamic shared memory.
constexpr int64_t kReserved = 1024, kStatic = 1536;

struct MmaPlan {
  PagedPlan paged;
  gpu::MmaLayout layout;
  int64_t shared;
};

bool all_multiples(std::initializer_list<int64_t> list) {
  return std::all_of(list.begin(), list.end(), [](int64_t x) { return x % 16 == 0; });
}

// What copies of 16 bytes can do with the strides.
void choose_copies(const Args& a, const gpu::Attention& job, gpu::MmaLayout& l) {
  const int64_t bytes = dtype(job.cached).size, block = a.key_cache.shape[3];
  const auto &k = job.keys, &v = job.values;
  l.keys_async = k.element == bytes && is_multiple(k.data, 16) &&
                 all_multiples({k.block, k.head, k.piece, k.slot});
  const bool values = is_multiple(v.data, 16) && all_multiples({v.block, v.head});
  l.packed = values && v.slot == bytes && v.element % 16 == 0 && block % (16 / bytes) == 0;
  l.values_async = l.packed || (values && v.element == bytes && v.slot % 16 == 0);
  l.wide_query = is_multiple(job.query, 4) && job.query_seq % 2 == 0 && job.query_head % 2 == 0;
  l.full = job.size == 16 * gpu::padded_steps(job.size);
  l.special = job.softcap != 0 || job.slopes || job.stride > 1;
}

// Bytes of the ring of a warp.
template <int kElement>
int ring_bytes(int steps, int tiles) {
  if (steps > 8) return gpu::RingOf<16, kElement, 1>::kBytes;
  if (steps > 4)
    return tiles > 1 ? gpu::RingOf<8, kElement, 2>::kBytes : gpu::RingOf<8, kElement, 1>::kBytes;
  return tiles > 1 ? gpu::RingOf<4, kElement, 2>::kBytes : gpu::RingOf<4, kElement, 1>::kBytes;
}

MmaPlan mma_plan(const Args& a) {
  MmaPlan plan = {};
  const int64_t size = a.query.shape[2], kv_heads = std::max<int64_t>(a.key_cache.shape[1], 1);
  const int bytes = int(dtype(a.key_cache.dtype).size), steps = gpu::padded_steps(size);
  const int tiles = a.query.shape[1] / kv_heads > 8 && steps <= 8 ? 2 : 1;
  const int ring = bytes == 1 ? ring_bytes<1>(steps, tiles) : ring_bytes<2>(steps, tiles);
  const int64_t runs = a.batch_invariant && !present(a.workspace) ? 8 * tiles * (size + 4) * 4 : 0;
  int warps = gpu::kPagedThreads / 32, shift = 6;
  const int64_t room = shared_memory(a.query);
  while (warps > 1 && warps * ring + runs + kStatic > room) warps /= 2, --shift;
  plan.layout.running = warps * ring;
  plan.shared = plan.layout.running + runs;
  const int64_t fit = (room + kReserved) / (plan.shared + kReserved + kStatic);
  const int64_t resident = std::clamp<int64_t>(fit, 1, gpu::resident_blocks(steps, tiles));
  plan.paged = {resident * compute_units(a.query), 32 * warps, 8 * tiles, shift, 1};
  return plan;
}

}  // namespace

bool mma_paged_supports(const Args& a) {
  const bool halves = a.query.dtype != KVOPS_F32;
  return halves && a.query.shape[2] <= 256 && std::atoi(facts(a.query.device.index).arch + 3) >= 80;
}

PagedPlan mma_paged_plan(const Args& a) { return mma_plan(a).paged; }

kvops_status run_mma_paged(const char* op, const Args& a) {
  MmaPlan plan = mma_plan(a);
  gpu::Attention job = paged_attention_of(a, plan.paged);
  paged_attention_split(a, plan.paged, job);
  choose_copies(a, job, plan.layout);
  Grid grid = {.x = plan.paged.blocks, .threads = plan.paged.threads, .shared = plan.shared};
  auto* run = job.cached == KVOPS_BF16      ? launch_mma_paged_bf16
              : job.cached == KVOPS_F16     ? launch_mma_paged_f16
              : job.cached == KVOPS_F8_E4M3 ? launch_mma_paged_e4m3
                                            : launch_mma_paged_fp8;
  return run(op, grid, a.query, job, plan.layout);
}

}  // namespace kvops::cuda
