// cp_gather_indexer_k_quant_cache: the indexer's codes and scales of a batch as two packed arrays.
//
//   block   codes of slot 0 | 1 | ... | scales of slot 0 | 1 | ...
//
// gather.cuh with two planes: codes in units of up to 16 bytes, then scales.
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {

using namespace kvops::gpu;

kvops_status cp_gather_indexer_k_quant_cache(const kvops_cp_gather_indexer_k_quant_cache_args& a) {
  auto map = gather_map(a, a.cu_seq_lens, true, a.out_k.shape[0]);
  auto codes = gather_layout(a.kv_cache, a.out_k), scales = gather_layout(a.kv_cache, a.out_scale);
  codes.slot = codes.bytes, scales.slot = scales.bytes;
  if (!is_empty(a.kv_cache)) scales.from += a.kv_cache.shape[1] * codes.bytes;
  auto start = [&]<class Code, class Scale>() {
    using Planes = TwoPlanes<CopyReader<Code>, CopyReader<Scale>>;
    int64_t first = codes.bytes / int64_t(sizeof(Code));
    Planes planes = {plane_of(codes, CopyReader<Code>{}), plane_of(scales, CopyReader<Scale>{}),
                     first, Splitter(first + scales.bytes / int64_t(sizeof(Scale)))};
    return gather("cp_gather_indexer_k_quant_cache", map, a.out_k, planes);
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
