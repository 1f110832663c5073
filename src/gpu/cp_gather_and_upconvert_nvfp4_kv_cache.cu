// cp_gather_and_upconvert_nvfp4_kv_cache: 352-byte records of a batch as rows of 576 halves.
//
//   512 e2m1 codes | 64 e4m3 rope elements | 32 e4m3 scales: of group s at 8 * (s % 4) + s / 4
//
// gather.cuh with groups of 16 elements, 32 bytes of a row: 32 of them are codes, 4 rope. An e2m1
// code with its exponent in the place of an f16's is 2^-14 of its value; products with the scale
// have six significant bits and are exact in either half.
#include "core/dispatch.h"
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args;

constexpr const char* kOp = "cp_gather_and_upconvert_nvfp4_kv_cache";
constexpr int kRopeAt = 256, kScalesAt = 320, kLatentGroups = 32, kGroups = 36;

template <class T, bool kAligned>
struct Upconvert {
  struct Raw {
    Group<f8_e4m3, 16> bytes;  // rope, or 16 codes in the first 8 of them
    f8_e4m3 scale;
    bool rope;
  };

  __device__ void start() {}
  __device__ Raw read(const uint8_t* entry, int64_t g) const {
    auto* bytes = reinterpret_cast<const f8_e4m3*>(entry);
    if (g >= kLatentGroups)
      return {load<16, kAligned>(bytes + kRopeAt + (g - kLatentGroups) * 16), {}, true};
    auto codes = load<8, kAligned>(bytes + g * 8);
    int s = int(g);
    return {{{codes.word[0], codes.word[1]}}, bytes[kScalesAt + 8 * (s % 4) + s / 4], false};
  }
  __device__ int64_t at(int64_t g) const { return g * 32; }
  __device__ void write(uint8_t* to, const Raw& raw) const {
    Group<T, 16> row;
    if (raw.rope) {
      row = convert_back<T>(raw.bytes, 1.0f);
    } else {
      float scale = decode_quick<f8_e4m3>(raw.scale.bits) * 0x1p14f;
#pragma unroll
      for (int i = 0; i < 16; i += 2) {
        uint32_t pair = raw.bytes.word[i / 8] >> i % 8 * 4;
        f16 a = {uint16_t((pair & 8) << 12 | (pair & 7) << 9)};
        f16 b = {uint16_t((pair & 0x80) << 8 | (pair & 0x70) << 5)};
        set_pair(row, i, mul_rn(to_float(a), scale), mul_rn(to_float(b), scale));
      }
    }
    store<kAligned>(reinterpret_cast<T*>(to), row);
  }
  __device__ void zero(uint8_t* to, int64_t) const {
    store<kAligned>(reinterpret_cast<T*>(to), Group<T, 16>{});
  }
};

}  // namespace

kvops_status cp_gather_and_upconvert_nvfp4_kv_cache(const Args& a) {
  auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  auto at = gather_layout(a.kv_cache, a.out);
  return dispatch(kOp, "out", a.out.dtype, Halves{}, [&]<class T>() {
    return at.rows_at(16) && at.entries_at(16)
               ? gather_one(kOp, map, a.out, at, Upconvert<T, true>{}, kGroups)
               : gather_one(kOp, map, a.out, at, Upconvert<T, false>{}, kGroups);
  });
}

}  // namespace kvops::KVOPS_GPU
