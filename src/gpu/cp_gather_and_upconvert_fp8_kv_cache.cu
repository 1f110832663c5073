// cp_gather_and_upconvert_fp8_kv_cache: 656-byte records of a batch as rows of 576 halves.
//
//   512 e4m3 codes | 4 f32 scales, of 128 codes each | 64 rope elements, copied
//
// gather.cuh with groups of 8 elements, 16 bytes of a row: 64 of them are codes, 8 rope. Products
// are rounded to f32, then to T.
#include "core/dispatch.h"
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_cp_gather_and_upconvert_fp8_kv_cache_args;

constexpr const char* kOp = "cp_gather_and_upconvert_fp8_kv_cache";
constexpr int kLatent = 512, kRopeAt = 528;

template <class T, class F8, bool kAligned>
struct Upconvert {
  struct Raw {
    uint32_t word[4];  // codes and their scale, or rope
    bool rope;
  };
  static constexpr int kBytes = 16;

  __device__ void start() {}
  __device__ Raw read(const uint8_t* entry, int64_t g) const {
    auto* bytes = reinterpret_cast<const F8*>(entry);
    if (g >= kLatent / 8) {
      auto rope = load<16, kAligned>(bytes + kRopeAt + (g - kLatent / 8) * 16);
      return {{rope.word[0], rope.word[1], rope.word[2], rope.word[3]}, true};
    }
    auto codes = load<8, kAligned>(bytes + g * 8);
    auto scale = load<4, kAligned>(bytes + kLatent + g / 16 * 4);
    return {{codes.word[0], codes.word[1], scale.word[0], 0}, false};
  }
  __device__ void write(uint8_t* to, const Raw& raw) const {
    Group<T, 8> row = {{raw.word[0], raw.word[1], raw.word[2], raw.word[3]}};
    if (!raw.rope) {
      Group<F8, 8> codes = {{raw.word[0], raw.word[1]}};
      row = convert_back<T>(codes, bits_float(raw.word[2]));
    }
    store<kAligned>(reinterpret_cast<T*>(to), row);
  }
  __device__ void zero(uint8_t* to) const {
    store<kAligned>(reinterpret_cast<T*>(to), Group<T, 8>{});
  }
};

}  // namespace

kvops_status cp_gather_and_upconvert_fp8_kv_cache(const Args& a) {
  auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  auto at = gather_layout(a.kv_cache, a.out);
  return dispatch(kOp, "out", a.out.dtype, Halves{}, [&]<class T>() {
    auto start = [&]<class F8>() {
      return at.rows_at(16) && at.entries_at(16)
                 ? gather_one(kOp, map, a.out, at, Upconvert<T, F8, true>{})
                 : gather_one(kOp, map, a.out, at, Upconvert<T, F8, false>{});
    };
    return a.fp8_encoding == KVOPS_FP8_FNUZ ? start.template operator()<f8_e4m3fnuz>()
                                            : start.template operator()<f8_e4m3>();
  });
}

}  // namespace kvops::KVOPS_GPU
