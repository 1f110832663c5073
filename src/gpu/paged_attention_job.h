// Paged attention on a GPU, host side: the arguments as the kernels take them, and the workspace.
//
//   workspace   slots, each a multiple of 128 bytes
#pragma once
#include "gpu/paged_attention.cuh"

namespace kvops::KVOPS_GPU {

// How a kernel is run: blocks of the grid, threads, heads of a unit; log2 of the tokens of a step
// and of the blocks of a team.
struct PagedPlan {
  int64_t blocks = 0;
  int threads = gpu::kPagedThreads, unit_heads = 4, grain_shift = 7, team_shift = 0;
};

// Sets everything but the workspace.
gpu::Attention paged_attention_of(const kvops_paged_attention_v1_args& a, const PagedPlan& plan);
// Sets the cut and the slots; returns the workspace's bytes, were there one.
int64_t paged_attention_split(const kvops_paged_attention_v1_args& a, const PagedPlan& plan,
                              gpu::Attention& job);

// The kernel of CUDA cores, for every call.
PagedPlan portable_paged_plan(const kvops_paged_attention_v1_args& a);
kvops_status run_portable_paged(const char* op, const kvops_paged_attention_v1_args& a);

// Both entry points.
kvops_status run_paged_attention(const char* op, const kvops_paged_attention_v1_args& a);
int64_t paged_attention_bytes(const kvops_paged_attention_v1_args& a);

#if !defined(__HIP__)
// The kernel of matrix cores: 16-bit and fp8 caches, heads of up to 256, from sm_80 on.
bool mma_paged_supports(const kvops_paged_attention_v1_args& a);
PagedPlan mma_paged_plan(const kvops_paged_attention_v1_args& a);
kvops_status run_mma_paged(const char* op, const kvops_paged_attention_v1_args& a);
#endif

}  // namespace kvops::KVOPS_GPU
