// Paged attention on matrix cores over caches of bf16.
#include "cuda/paged_attention_kernel.cuh"

namespace kvops::cuda {

kvops_status launch_mma_paged_bf16(const char* op, const Grid& grid, const kvops_tensor& on,
                                   const gpu::Attention& a, const gpu::MmaLayout& l) {
  return launch_mma_paged<bf16>(op, grid, on, a, l);
}

}  // namespace kvops::cuda
