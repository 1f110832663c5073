// Paged attention on matrix cores over caches of e4m3.
#include "cuda/paged_attention_kernel.cuh"

namespace kvops::cuda {

kvops_status launch_mma_paged_e4m3(const char* op, const Grid& grid, const kvops_tensor& on,
                                   const gpu::Attention& a, const gpu::MmaLayout& l) {
  return launch_mma_paged<f8_e4m3>(op, grid, on, a, l);
}

}  // namespace kvops::cuda
