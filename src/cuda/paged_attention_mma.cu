// The host side of paged attention on matrix cores: which calls, how many blocks, how caches come
// into shared memory.
#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "core/integers.h"
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
constexpr int64_t kReserved = 1024, kStatic = 512;
constexpr int kMostShift = 3;  // of the blocks of a team

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

__global__ void __launch_bounds__(gpu::kPagedThreads) team_probe() {}

// Teams of 2^shift blocks, `resident` of those on an SM, that a device has room for at one time:
// of a GPC, whose SMs are not a power of two, some are left over. Asked once for each kind.
int64_t teams_of(const kvops_tensor& on, int shift, int64_t resident) {
  constexpr int kDevices = 64, kResident = 4;
  static std::atomic<int> known[kDevices][kResident][kMostShift + 1];  // and 1; 0: not asked yet
  const int device = on.device.index;
  if (device >= kDevices || resident >= kResident) return 0;
  auto& answer = known[device][resident][shift];
  if (int all = answer.load(std::memory_order_relaxed)) return all - 1;
  // With so much of its shared memory for each that no more of them fit an SM.
  const int64_t shared = (shared_memory(on) + kReserved) / resident - kReserved;
  DeviceGuard guard(device);
  cudaLaunchAttribute team = {};
  team.id = cudaLaunchAttributeClusterDimension;
  team.val.clusterDim = {1u << shift, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1u << shift), config.blockDim = dim3(gpu::kPagedThreads);
  config.dynamicSmemBytes = size_t(shared), config.attrs = &team, config.numAttrs = 1;
  int all = 0;
  if (guard.error() ||
      cudaFuncSetAttribute(team_probe, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)) ||
      cudaOccupancyMaxActiveClusters(&all, team_probe, &config))
    return 0;
  answer.store(all + 1, std::memory_order_relaxed);
  return all;
}

// As many blocks as there are for each unit, so that its states meet in shared memory.
void choose_team(const Args& a, int64_t resident, MmaPlan& plan) {
  const int64_t kv_heads = a.key_cache.shape[1], blocks = plan.paged.blocks;
  if (!a.query.shape[0] || !kv_heads) return;
  const int64_t group = ceil_div(a.query.shape[1] / kv_heads, plan.paged.unit_heads);
  const int64_t units = a.query.shape[0] * kv_heads * group;
  for (int shift = 1; shift <= kMostShift; ++shift) {
    if (1 << shift > max_cluster(a.query) || units << shift > blocks) break;
    const int64_t teams = teams_of(a.query, shift, resident);
    if (teams < units) break;
    plan.paged.blocks = teams << shift, plan.paged.team_shift = shift, ++plan.paged.grain_shift;
  }
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
  plan.paged = {resident * compute_units(a.query), 32 * warps, 8 * tiles, shift};
  if (present(a.workspace) && !a.batch_invariant) choose_team(a, resident, plan);
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
  Grid grid = {.x = plan.paged.blocks,
               .threads = plan.paged.threads,
               .shared = plan.shared,
               .cluster = 1 << plan.paged.team_shift};
  auto* run = job.cached == KVOPS_BF16      ? launch_mma_paged_bf16
              : job.cached == KVOPS_F16     ? launch_mma_paged_f16
              : job.cached == KVOPS_F8_E4M3 ? launch_mma_paged_e4m3
                                            : launch_mma_paged_fp8;
  return run(op, grid, a.query, job, plan.layout);
}

}  // namespace kvops::cuda
