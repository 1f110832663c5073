// Paged attention on matrix cores (mma.sync m16n8k16): tokens are rows, query heads columns, so
// that a group of 8 heads wastes nothing; 16 tokens at a time, each warp with tiles, a ring and a
// state of its own, no barrier between them until a unit ends.
//
//   cp.async      a tile's keys and values to the ring, kStages deep
//   S = K Q^T     16 tokens x 8 heads; a lane has tokens g, g + 8 and heads 2t, 2t + 1
//   P             exp2(S - top), split into 2 or 3 numbers of 16 bits that add up to the f32 one
//   O^T += V^T P  16 elements x 8 heads at a time, begun at 0 in each tile and then added in f32:
//                 the units cut the bits below their sum's, which would add up otherwise
//
//   ring, packed  keys [piece][16 tokens][16 bytes], values [element][16 tokens]
//         else    both [16 tokens][piece], turned so that a column of pieces is in all banks
//
// Either keeps sectors of 32 bytes whole: L2 sends one twice whose halves go to different places.
// fp8 becomes f16, exactly. Its tokens stand in the order that 4 bytes of a lane give:
// 0 1 4 5 8 9 12 13 2 3 6 7 10 11 14 15; the elements of a head likewise.
#pragma once
#include "gpu/paged_attention_line.cuh"

namespace kvops::gpu {

inline constexpr int kTile = 16, kStages = 3;  // of a ring

struct Code {  // of one of the fp8 formats
  uint8_t bits;
};

struct MmaLayout {
  bool packed;                    // the ring, as values lie in memory
  bool keys_async, values_async;  // else element by element
  bool wide_query;                // rows at multiples of 4 bytes
  bool full;                      // a head has all elements that the kernel has
  bool special;                   // softcap, slopes or a block-sparse pattern
  int64_t running;                // where the states that run on are
};

// Steps of 16 elements that a kernel has for heads of this size.
constexpr int padded_steps(int64_t size) { return size <= 64 ? 4 : size <= 128 ? 8 : 16; }

// The ring of a warp, where its state is put at the end, in bytes.
template <int kSteps, int kElement, int kTiles>
struct RingOf {
  static constexpr int kKeys = kSteps * kTile * 16 * kElement;
  static constexpr int kStage = 2 * kKeys;
  static constexpr int kState = 8 * kTiles * (kSteps * 16 + 8 + 2) * 4;
  static constexpr int kBytes = kStages * kStage > kState ? kStages* kStage : kState;
};

// Blocks of an SM. On an H200 a third one has no effect on large calls and slows down small ones.
constexpr int resident_blocks(int steps, int tiles) { return steps * tiles <= 4 ? 3 : 2; }

// ---- instructions ------------------------------------------------------------------------------

using Four = uint32_t[4];

__device__ inline void copy_16(uint32_t to, const char* from, bool live) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(live ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

template <bool kTurned>
__device__ inline void load_matrices(Four& r, uint32_t from) {
  if constexpr (kTurned)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}
__device__ inline uint32_t turn_matrix(uint32_t x) {
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(x));
  return x;
}

template <class T>
__device__ inline void multiply_add(float (&c)[4], const Four& a, const uint32_t (&b)[2]) {
  if constexpr (__is_same(T, bf16))
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- fp8 to f16 --------------------------------------------------------------------------------

template <class F>
__device__ inline uint32_t decode_two(uint32_t codes) {
  Two x = decode_pair<F>(codes & 0xFFFF);
  return from_pair<f16>(x.a, x.b);
}
static __device__ __noinline__ uint32_t decode_slow(kvops_dtype dtype, uint32_t codes) {
  if (dtype == KVOPS_F8_E4M3FNUZ) return decode_two<f8_e4m3fnuz>(codes);
  if (dtype == KVOPS_F8_E5M2FNUZ) return decode_two<f8_e5m2fnuz>(codes);
  return decode_two<f8_e4m3>(codes);
}
__device__ inline uint32_t decode_e4m3(uint32_t codes) {
#if __CUDA_ARCH__ >= 890
  uint32_t x;
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, low;}"
      : "=r"(x)
      : "r"(codes));
  return x;
#else
  return decode_slow(KVOPS_F8_E4M3, codes);
#endif
}

// Four words of four codes: the first and the second two of each.
template <class C>
__device__ inline void decode_words(kvops_dtype dtype, const Four& codes, Four& low, Four& high) {
  if constexpr (__is_same(C, f8_e4m3)) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      low[i] = decode_e4m3(codes[i]), high[i] = decode_e4m3(codes[i] >> 16);
  } else if (dtype == KVOPS_F8_E5M2) {  // the upper halves of f16
#pragma unroll
    for (int i = 0; i < 4; ++i)
      low[i] = __byte_perm(codes[i], 0, 0x1404), high[i] = __byte_perm(codes[i], 0, 0x3424);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      low[i] = decode_slow(dtype, codes[i]), high[i] = decode_slow(dtype, codes[i] >> 16);
  }
}

// ---- tokens and rows ---------------------------------------------------------------------------

// Row of a tile to token, and back.
template <bool kFp8>
__device__ inline int token_at(int row) {
  return kFp8 ? (row & 7) / 2 * 4 + row / 8 * 2 + row % 2 : row;
}
__device__ inline int row_of_code(int token) {
  return token / 2 % 2 * 8 + token / 4 * 2 + token % 2;
}

// Where a lane's row of the tile lies; block -1: left out.
struct Token {
  int32_t block;
  uint32_t slot;
};
__device__ inline int32_t from_lane(int32_t x, int lane) {
  return __shfl_sync(0xFFFFFFFFu, x, lane);
}
__device__ inline Token from_lane(const Token& t, int lane) {
  return {from_lane(t.block, lane), uint32_t(from_lane(int32_t(t.slot), lane))};
}

// Piece of 16 bytes of a row, where a row has kPieces, a power of two, and a line of the banks 8.
template <int kPieces>
__device__ constexpr int turn_of(int row) {
  return kPieces < 8 ? row / (8 / kPieces) % kPieces : row % 8;
}
template <int kPieces, bool kPacked>
__device__ constexpr int place_of(int row, int piece) {
  if (kPacked) return (piece * kTile + row) * 16;
  return (row * kPieces + (piece ^ turn_of<kPieces>(row))) * 16;
}

// A tile of keys or rows of values, element by element: for any strides.
template <class C, int kPieces, bool kPacked>
static __device__ __noinline__ void gather(char* to, const Cache& cache, int64_t kv_head, Token own,
                                           int size) {
  constexpr int kX = 16 / int(sizeof(C));
  const int lane = int(threadIdx.x) % 32;
  for (int row = 0; row < kTile; ++row) {
    Token t = from_lane(own, row);
    const char* from =
        cache.data + t.block * cache.block + kv_head * cache.head + t.slot * cache.slot;
    for (int d = lane; d < size; d += 32) {
      C x = {};
      if (t.block >= 0)
        x = *reinterpret_cast<const C*>(from + d / cache.x * cache.piece +
                                        d % cache.x * cache.element);
      reinterpret_cast<C*>(to + place_of<kPieces, kPacked>(row, d / kX))[d % kX] = x;
    }
  }
}

// Clears the tokens of values that lie across and are left out, whose bits may be anything.
template <class C>
static __device__ __noinline__ void clear_tokens(char* values, int elements, uint32_t live) {
  constexpr bool kFp8 = sizeof(C) == 1;
  constexpr int kPerWord = kFp8 ? 4 : 2;
  const int lane = int(threadIdx.x) % 32;
  uint32_t mask[kFp8 ? 4 : 8];
  for (int i = 0; i < kTile / kPerWord; ++i) {
    mask[i] = 0;
    for (int j = 0; j < kPerWord; ++j) {
      int token = i * kPerWord + j, row = kFp8 ? row_of_code(token) : token;
      if (live >> row & 1) mask[i] |= (kFp8 ? 0xFFu : 0xFFFFu) << j * (32 / kPerWord);
    }
  }
  constexpr int kWords = kTile / kPerWord;
  for (int d = lane; d < elements; d += 32) {
    auto* words = reinterpret_cast<uint32_t*>(values) + d * kWords;
    for (int i = 0; i < kWords; ++i) words[i] &= mask[i];
  }
  __syncwarp();
}

}  // namespace kvops::gpu
