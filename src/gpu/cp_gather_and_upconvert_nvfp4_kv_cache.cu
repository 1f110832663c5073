// cp_gather_and_upconvert_nvfp4_kv_cache: 352-byte records of a batch as rows of 576 halves.
//
//   512 e2m1 codes | 64 e4m3 rope elements | 32 e4m3 scales: of group s at 8 * (s % 4) + s / 4
//
// gather_records.cuh: a lane has 8 codes of either half of a record and two elements of rope, so
// that every access of a warp is dense. An e2m1 code whose exponent stands in the last places of a
// half's is a power of two of its value; products with the scale have six significant bits and are
// exact in either half.
#include <type_traits>

#include "core/dispatch.h"
#include "gpu/gather_records.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args;

constexpr const char* kOp = "cp_gather_and_upconvert_nvfp4_kv_cache";
constexpr int kLatent = 512, kRopeAt = 256, kScalesAt = 320, kParts = kLatent / 8;

// Eight codes, the first one lowest, by their scale.
template <class T>
__device__ inline Group<T, 8> decode_e2m1(uint32_t codes, f8_e4m3 scale) {
  constexpr bool kBf16 = std::is_same_v<T, bf16>;
  // Where a half begins its exponent; what the three bits are there, and what makes that 1.
  constexpr int kAt = kBf16 ? 6 : 9;
  constexpr uint32_t kNumber = 0x00070007u << kAt, kOne = kBf16 ? 0x7E807E80u : 0x74007400u;
  float s = decode_quick<f8_e4m3>(scale.bits);
  uint32_t by = from_pair<T>(s, s), pair[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // codes i and i + 4
    int up = kAt - 4 * i;
    uint32_t number = up > 0 ? codes << up : codes >> -up;
    uint32_t x = (number & kNumber) | (codes << (12 - 4 * i) & 0x80008000u);
    pair[i] = multiply_pair<T>(multiply_pair<T>(x, kOne), by);
  }
  return {{__byte_perm(pair[0], pair[1], 0x5410), __byte_perm(pair[2], pair[3], 0x5410),
           __byte_perm(pair[0], pair[1], 0x7632), __byte_perm(pair[2], pair[3], 0x7632)}};
}

template <class T, bool kAligned>
struct Upconvert {
  // Groups of 8 codes of a lane, kWarp apart.
  static constexpr int kEach = kParts / kWarp;
  struct Raw {
    uint32_t codes[kEach];
    f8_e4m3 scale[kEach];
    uint16_t rope;
  };

  __device__ Raw read(const uint8_t* entry) const {
    auto* bytes = reinterpret_cast<const f8_e4m3*>(entry);
    Raw raw;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      int part = i * kWarp + lane_id(), s = part / 2;
      raw.codes[i] = load<4, kAligned>(bytes + part * 4).word[0];
      raw.scale[i] = bytes[kScalesAt + 8 * (s % 4) + s / 4];
    }
    if (lane_id() < 32) raw.rope = load_two(bytes + kRopeAt + lane_id() * 2);
    return raw;
  }
  __device__ void write(uint8_t* row, const Raw& raw) const {
    auto* to = reinterpret_cast<T*>(row);
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      store<kAligned>(to + (i * kWarp + lane_id()) * 8, decode_e2m1<T>(raw.codes[i], raw.scale[i]));
    if (lane_id() >= 32) return;
    Two x = decode_pair<f8_e4m3>(raw.rope);
    store<kAligned>(to + kLatent + lane_id() * 2, Group<T, 2>{{from_pair<T>(x.a, x.b)}});
  }
  __device__ void zero(uint8_t* row) const { write(row, Raw{}); }

  __device__ static uint16_t load_two(const f8_e4m3* p) {
    if constexpr (kAligned) return *reinterpret_cast<const uint16_t*>(p);
    return uint16_t(p[0].bits | p[1].bits << 8);
  }
};

}  // namespace

kvops_status cp_gather_and_upconvert_nvfp4_kv_cache(const Args& a) {
  auto map = gather_map(a, a.workspace_starts, false, a.out.shape[0]);
  auto at = gather_layout(a.kv_cache, a.out);
  return dispatch(kOp, "out", a.out.dtype, Halves{}, [&]<class T>() {
    return at.rows_at(16) && at.entries_at(16)
               ? gather_records<Upconvert<T, true>>(kOp, map, a.out, at)
               : gather_records<Upconvert<T, false>>(kOp, map, a.out, at);
  });
}

}  // namespace kvops::KVOPS_GPU
