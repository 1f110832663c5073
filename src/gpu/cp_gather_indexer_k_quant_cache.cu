// cp_gather_indexer_k_quant_cache: the indexer's codes and scales of a batch as two packed arrays.
//
//   block   codes of slot 0 | 1 | ... | scales of slot 0 | 1 | ...
//
// gather.cuh with two planes: codes in units of up to 16 bytes, then scales.
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {

using namespace kvops::gpu;

constexpr const char* kOp = "cp_gather_indexer_k_quant_cache";

kvops_status cp_gather_indexer_k_quant_cache(const kvops_cp_gather_indexer_k_quant_cache_args& a) {
  auto map = gather_map(a, a.cu_seq_lens, true, a.out_k.shape[0]);
  auto codes = gather_layout(a.kv_cache, a.out_k), scales = gather_layout(a.kv_cache, a.out_scale);
  codes.slot = codes.bytes, scales.slot = scales.bytes;
  if (!is_empty(a.kv_cache)) scales.from += a.kv_cache.shape[1] * codes.bytes;
  auto start = [&]<class Code, class Scale>() -> kvops_status {
    CopyReader<Code> code;
    CopyReader<Scale> scale;
    int64_t of_codes = codes.bytes / int64_t(sizeof(Code));
    int64_t of_scales = scales.bytes / int64_t(sizeof(Scale));
    if (!of_codes || !of_scales || of_codes > kMostGroups || of_scales > kMostGroups) {
      if (auto status = gather_one(kOp, map, a.out_k, codes, code, of_codes)) return status;
      if (of_codes) map.faults = nullptr;  // they are counted
      return gather_one(kOp, map, a.out_k, scales, scale, of_scales);
    }
    Steps steps = {gather_step(map, a.out_k, of_codes), gather_step(map, a.out_k, of_scales)};
    int64_t first = gather_blocks(map, of_codes, steps.a);
    Grid grid = {.x = first + gather_blocks(map, of_scales, steps.b), .threads = kGatherThreads};
    return launch_early(kOp, gather_two_kernel<Plane<CopyReader<Code>>, Plane<CopyReader<Scale>>>,
                        grid, a.out_k, map, plane_of(codes, code, of_codes),
                        plane_of(scales, scale, of_scales), first, steps);
  };
  auto fits = [](const GatherLayout& at, int64_t n) {
    return at.bytes % n == 0 && at.rows_at(n) && at.entries_at(n);
  };
  if (!fits(scales, 4)) return start.template operator()<uint8_t, uint8_t>();
  if (fits(codes, 16)) return start.template operator()<Words4, uint32_t>();
  return fits(codes, 4) ? start.template operator()<uint32_t, uint32_t>()
                        : start.template operator()<uint8_t, uint32_t>();
}

}  // namespace kvops::KVOPS_GPU
