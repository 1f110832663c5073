// cp_gather_and_upconvert_nvfp4_kv_cache: 352-byte records of a batch as rows of 576 halves.
//
//   512 e2m1 codes | 64 e4m3 rope elements | 32 e4m3 scales: of group s at 8 * (s % 4) + s / 4
//
// gather.cuh with groups of 8 elements, 16 bytes of a row: 64 of them are codes, 8 rope. An e2m1
// code with its exponent in the place of an f16's is 2^-14 of its value; products with the scale
// have six significant bits and are exact in either half.
#include "core/dispatch.h"
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args;

constexpr const char* kOp = "cp_gather_and_upconvert_nvfp4_kv_cache";
constexpr int kLatent = 512, kRopeAt = 256, kScalesAt = 320;

template <class T, bool kAligned>
struct Upconvert {
  struct Raw {
    uint32_t word[2];  // four bytes of codes, or eight of rope
    f8_e4m3 scale;
    bool rope;
  };
  static constexpr int kBytes = 16;

  __device__ void start() {}
  __device__ Raw read(const uint8_t* entry, int64_t g) const {
    auto* bytes = reinterpret_cast<const f8_e4m3*>(entry);
    if (g >= kLatent / 8) {
      auto rope = load<8, kAligned>(bytes + kRopeAt + (g - kLatent / 8) * 8);
      return {{rope.word[0], rope.word[1]}, {}, true};
    }
    int s = int(g) / 2;
    return {{load<4, kAligned>(bytes + g * 4).word[0], 0},
            bytes[kScalesAt + 8 * (s % 4) + s / 4],
            false};
  }
  __device__ void write(uint8_t* to, const Raw& raw) const {
    Group<T, 8> row;
    if (raw.rope) {
      row = convert_back<T>(Group<f8_e4m3, 8>{{raw.word[0], raw.word[1]}}, 1.0f);
    } else {
      float scale = decode_quick<f8_e4m3>(raw.scale.bits) * 0x1p14f;
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        uint32_t pair = raw.word[0] >> 4 * i;
        f16 a = {uint16_t((pair & 8) << 12 | (pair & 7) << 9)};
        f16 b = {uint16_t((pair & 0x80) << 8 | (pair & 0x70) << 5)};
        set_pair(row, i, mul_rn(to_float(a), scale), mul_rn(to_float(b), scale));
      }
    }
    store<kAligned>(reinterpret_cast<T*>(to), row);
  }
  __device__ void zero(uint8_t* to) const {
    store<kAligned>(reinterpret_cast<T*>(to), Group<T, 8>{});
  }
};

}  // namespace

kvops_status cp_gather_and_upconvert_nvfp4_kv_cache(const Args& a) {
  auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  auto at = gather_layout(a.kv_cache, a.out);
  return dispatch(kOp, "out", a.out.dtype, Halves{}, [&]<class T>() {
    return at.rows_at(16) && at.entries_at(8)
               ? gather_one(kOp, map, a.out, at, Upconvert<T, true>{})
               : gather_one(kOp, map, a.out, at, Upconvert<T, false>{});
  });
}

}  // namespace kvops::KVOPS_GPU
