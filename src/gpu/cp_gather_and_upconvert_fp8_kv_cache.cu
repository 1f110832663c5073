// cp_gather_and_upconvert_fp8_kv_cache: 656-byte records of a batch as rows of 576 halves.
//
//   512 e4m3 codes | 4 f32 scales, of 128 codes each | 64 rope elements, copied
//
// gather_records.cuh: a lane has 8 codes of either half of a record and two elements of rope, so
// that every access of a warp is dense. Products are rounded to f32, then to T.
#include "core/dispatch.h"
#include "gpu/gather_records.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_cp_gather_and_upconvert_fp8_kv_cache_args;

constexpr const char* kOp = "cp_gather_and_upconvert_fp8_kv_cache";
constexpr int kLatent = 512, kRopeAt = 528, kParts = kLatent / 8;

template <class T, class F8, bool kAligned>
struct Upconvert {
  // Groups of 8 codes of a lane, kWarp apart.
  static constexpr int kEach = kParts / kWarp;
  struct Raw {
    Group<F8, 8> codes[kEach];
    Group<F8, 4> scale[kEach];
    Group<T, 2> rope;
  };

  __device__ Raw read(const uint8_t* entry) const {
    auto* bytes = reinterpret_cast<const F8*>(entry);
    Raw raw;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      int part = i * kWarp + lane_id();
      raw.codes[i] = load<8, kAligned>(bytes + part * 8);
      raw.scale[i] = load<4, kAligned>(bytes + kLatent + part / 16 * 4);
    }
    if (lane_id() < 32)
      raw.rope.word[0] = load<4, kAligned>(bytes + kRopeAt + lane_id() * 4).word[0];
    return raw;
  }
  __device__ void write(uint8_t* row, const Raw& raw) const {
    auto* to = reinterpret_cast<T*>(row);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      float scale = bits_float(raw.scale[i].word[0]);
      store<kAligned>(to + (i * kWarp + lane_id()) * 8, convert_back<T>(raw.codes[i], scale));
    }
    if (lane_id() < 32) store<kAligned>(to + kLatent + lane_id() * 2, raw.rope);
  }
  __device__ void zero(uint8_t* row) const { write(row, Raw{}); }
};

}  // namespace

kvops_status cp_gather_and_upconvert_fp8_kv_cache(const Args& a) {
  auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  auto at = gather_layout(a.kv_cache, a.out);
  return dispatch(kOp, "out", a.out.dtype, Halves{}, [&]<class T>() {
    auto start = [&]<class F8>() {
      return at.rows_at(16) && at.entries_at(16)
                 ? gather_records<Upconvert<T, F8, true>>(kOp, map, a.out, at)
                 : gather_records<Upconvert<T, F8, false>>(kOp, map, a.out, at);
    };
    return a.fp8_encoding == KVOPS_FP8_FNUZ ? start.template operator()<f8_e4m3fnuz>()
                                            : start.template operator()<f8_e4m3>();
  });
}

}  // namespace kvops::KVOPS_GPU
