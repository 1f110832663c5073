// cp_gather_and_upconvert_fp8_kv_cache: 656-byte records of a batch as rows of 576 halves.
//
//   512 e4m3 codes | 4 f32 scales, of 128 codes each | 64 rope elements, copied
//
// gather.cuh with 40 groups: 32 of 16 codes each, then 8 of rope, 16 bytes each. Products are
// rounded to f32, then to T.
#include "core/dispatch.h"
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_cp_gather_and_upconvert_fp8_kv_cache_args;

constexpr const char* kOp = "cp_gather_and_upconvert_fp8_kv_cache";
constexpr int kLatent = 512, kRopeAt = 528, kLatentGroups = 32, kGroups = 40;

template <class T, class F8, bool kAligned>
struct Upconvert {
  struct Raw {
    Group<F8, 16> bytes;  // codes or rope
    float scale;
    bool rope;
  };

  __device__ void start() {}
  __device__ Raw read(const uint8_t* entry, int64_t g) const {
    auto* bytes = reinterpret_cast<const F8*>(entry);
    if (g >= kLatentGroups)
      return {load<16, kAligned>(bytes + kRopeAt + (g - kLatentGroups) * 16), 0, true};
    auto scale = load<4, kAligned>(bytes + kLatent + g / 8 * 4);
    return {load<16, kAligned>(bytes + g * 16), bits_float(scale.word[0]), false};
  }
  __device__ int64_t at(int64_t g) const {
    return g < kLatentGroups ? g * 32 : kLatentGroups * 32 + (g - kLatentGroups) * 16;
  }
  __device__ void write(uint8_t* to, const Raw& raw) const {
    if (raw.rope) {
      auto& word = raw.bytes.word;
      store<kAligned>(reinterpret_cast<T*>(to), Group<T, 8>{{word[0], word[1], word[2], word[3]}});
    } else {
      store<kAligned>(reinterpret_cast<T*>(to), convert_back<T>(raw.bytes, raw.scale));
    }
  }
  __device__ void zero(uint8_t* to, int64_t g) const {
    store<kAligned>(reinterpret_cast<T*>(to), Group<T, 8>{});
    if (g < kLatentGroups) store<kAligned>(reinterpret_cast<T*>(to) + 8, Group<T, 8>{});
  }
};

}  // namespace

kvops_status cp_gather_and_upconvert_fp8_kv_cache(const Args& a) {
  auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  auto at = gather_layout(a.kv_cache, a.out);
  return dispatch(kOp, "out", a.out.dtype, Halves{}, [&]<class T>() {
    auto start = [&]<class F8>() {
      return at.rows_at(16) && at.entries_at(16)
                 ? gather_one(kOp, map, a.out, at, Upconvert<T, F8, true>{}, kGroups)
                 : gather_one(kOp, map, a.out, at, Upconvert<T, F8, false>{}, kGroups);
    };
    return a.fp8_encoding == KVOPS_FP8_FNUZ ? start.template operator()<f8_e4m3fnuz>()
                                            : start.template operator()<f8_e4m3>();
  });
}

}  // namespace kvops::KVOPS_GPU
