// cp_gather_cache: the entries of a batch of requests as rows, bit for bit: gather.cuh with the
// largest units, up to 16 bytes, at which entries and rows begin and end.
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {

using namespace kvops::gpu;

kvops_status gather_copies(const char* op, const GatherMap& map, const kvops_tensor& on,
                           const GatherLayout& at) {
  auto fits = [&](int64_t n) { return at.bytes % n == 0 && at.rows_at(n) && at.entries_at(n); };
  if (fits(16)) return gather_one(op, map, on, at, CopyReader<Words4>{}, at.bytes / 16);
  if (fits(4)) return gather_one(op, map, on, at, CopyReader<uint32_t>{}, at.bytes / 4);
  if (fits(2)) return gather_one(op, map, on, at, CopyReader<uint16_t>{}, at.bytes / 2);
  return gather_one(op, map, on, at, CopyReader<uint8_t>{}, at.bytes);
}

kvops_status cp_gather_cache(const kvops_cp_gather_cache_args& a) {
  auto map = gather_map(a, a.cu_seq_lens, true, a.out.shape[0]);
  return gather_copies("cp_gather_cache", map, a.out, gather_layout(a.kv_cache, a.out));
}

}  // namespace kvops::KVOPS_GPU
