// Paged attention on matrix cores over caches of fp8 but e4m3, which is in a file of its own.
#include "cuda/paged_attention_kernel.cuh"

namespace kvops::cuda {

kvops_status launch_mma_paged_fp8(const char* op, const Grid& grid, const kvops_tensor& on,
                                  const gpu::Attention& a, const gpu::MmaLayout& l) {
  return launch_mma_paged<gpu::Code>(op, grid, on, a, l);
}

}  // namespace kvops::cuda
