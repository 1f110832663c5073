// Rows of a paged cache: for the tokens of one tile, pointers to `size` elements each, in the cache
// where it has them, else copied into a buffer on the stack.
//
//   NHD, HND       consecutive elements, used in place
//   packed keys    [size/x][block][x]: 16-byte pieces, used in place
//   packed values  [size][block]: squares of 16 bytes by 16 bytes are transposed in registers
//   other strides, odd blocks: element by element
//   fp8            looked up as bf16 with AVX-512, converted to f16 (exactly, up to a power of 2)
//                  with AVX2, else to float; keys for dot products of bf16 into pieces
//
// What is computed from the rows does not know where they came from: every layout has the same
// bits. No element of a token that takes no part is computed with; the copies may move it.
#include <cstring>

#include "cpu/ahead.h"
#include "cpu/fp8-inl.h"
#include "cpu/paged_attention.h"
#include "cpu/turn-inl.h"

#if defined(KVOPS_CPU_PAGED_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_PAGED_ROWS_INL_H_
#undef KVOPS_CPU_PAGED_ROWS_INL_H_
#else
#define KVOPS_CPU_PAGED_ROWS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// What rows hold, and by what they are to be multiplied.
template <class C>
struct RowType {
  using type = C;
  static constexpr float gain = 1;
};
template <class C>
requires IsFp8<C>
struct RowType<C> {
  static constexpr bool half = HWY_TARGET == HWY_AVX2;
  using type =
      std::conditional_t<half, f16, std::conditional_t<HWY_TARGET <= HWY_AVX3, bf16, float>>;
  static constexpr float gain = half ? kHalfGain<C> : 1.0f;
};

// Consecutive tokens of one block.
struct Run {
  int64_t block, first;  // first: slot within the block
  int count;
};

// Tokens of a tile: keys and values of this one and of the next fit into L1 for 16-bit caches of
// size 128. On a Zen 5 with 48 KiB of L1, 32 tokens were as fast as 16 and 10 % faster than 64.
inline constexpr int kTile = 32;
constexpr int tile_tokens(int64_t size) { return size <= 256 ? kTile : kTile / 2; }

// A tile's rows have at most 8192 elements; transposing may write up to 16 bytes' worth of tokens
// past the last one.
struct alignas(64) RowBuffers {
  unsigned char rows[40 * 1024];
  unsigned char codes[16 * 1024];
};

template <class U>
using UnsignedOf = hn::TFromD<Storage<U, hn::ScalableTag<float>>>;

// ---- fp8 ---------------------------------------------------------------------------------------

// What decode_codes() looks up.
template <class C>
struct Codes {};
#if HWY_TARGET <= HWY_AVX3
template <class C>
requires IsFp8<C>
struct Codes<C> {
  CodeTable<C, bf16> table{1.0f};
};
#endif

// n: a multiple of 16.
template <class C, class S>
HWY_INLINE void decode_codes([[maybe_unused]] const Codes<C>& codes, const C* from, S* to,
                             int64_t n) {
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX3
  const hn::ScalableTag<uint16_t> d;
  const hn::Half<decltype(d)> half;
  auto* out = reinterpret_cast<uint16_t*>(to);
  const auto* in = reinterpret_cast<const uint8_t*>(from);
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const hn::Half<decltype(d8)> half8;
  for (; i + 32 <= n; i += 32)
    hn::StoreU(codes.table(hn::PromoteTo(d, hn::LoadU(d8, in + i))), d, out + i);
  if (i == n) return;
  const auto last = hn::PromoteTo(d, hn::ZeroExtendVector(d8, hn::LoadU(half8, in + i)));
  hn::StoreU(hn::LowerHalf(half, codes.table(last)), half, out + i);
#else
  if constexpr (std::is_same_v<S, f16> && kByHalf<C>) {
    const hn::ScalableTag<int16_t> d;
    const auto lanes = int64_t(hn::Lanes(d));
    for (; i < n; i += lanes)
      hn::StoreU(halves_of_codes<C>(d, from + i), d, reinterpret_cast<int16_t*>(to + i));
  } else {
    const hn::ScalableTag<float> d;
    const auto lanes = int64_t(hn::Lanes(d));
    for (; i < n; i += lanes) store(d, load(d, from + i), to + i);
  }
#endif
}

// ---- transposing -------------------------------------------------------------------------------

// A vector of 16-byte blocks, block i from p + i * stride bytes.
template <class DU>
HWY_INLINE hn::Vec<DU> load_blocks(DU du, const unsigned char* p, int64_t stride) {
  constexpr size_t kBlocks = hn::MaxLanes(DU()) * sizeof(hn::TFromD<DU>) / 16;
  if constexpr (kBlocks == 1) {
    return hn::LoadU(du, reinterpret_cast<const hn::TFromD<DU>*>(p));
  } else {
    const hn::Half<DU> half;
    return hn::Combine(du, load_blocks(half, p + int64_t(kBlocks / 2) * stride, stride),
                       load_blocks(half, p, stride));
  }
}

// kPiece elements of a decoded key, then those of the next token; pieces are kPieces apart.
inline constexpr int64_t kPiece = 8, kPieces = kPiece * kTile;
#if HWY_TARGET <= HWY_AVX3
// `count` tokens from token t of the tile on: `step` codes apart, their sixteens `apart`.
template <class C>
HWY_INLINE void decode_pieces(const Codes<C>& codes, const C* from, int64_t step, int64_t apart,
                              int count, int64_t size, bf16* to) {
  const hn::ScalableTag<uint8_t> d8;
  const hn::ScalableTag<uint16_t> d;
  const hn::Half<decltype(d8)> half;
  const hn::FixedTag<uint16_t, 8> d1;
  const auto* codes_at = reinterpret_cast<const unsigned char*>(from);
  auto* out = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < size; i += 2 * kPiece, codes_at += apart, out += 2 * kPieces) {
    int t = 0;
    for (; t + 4 <= count; t += 4) {
      const auto c = load_blocks(d8, codes_at + t * step, step);
      const auto a = codes.table(hn::PromoteTo(d, hn::LowerHalf(half, c)));
      const auto b = codes.table(hn::PromoteTo(d, hn::UpperHalf(half, c)));
      _mm512_storeu_si512(out + t * kPiece, _mm512_shuffle_i64x2(a.raw, b.raw, 0x88));
      _mm512_storeu_si512(out + t * kPiece + kPieces, _mm512_shuffle_i64x2(a.raw, b.raw, 0xDD));
    }
    for (; t < count; ++t) {
      const auto c = hn::LoadU(hn::FixedTag<uint8_t, 16>(), codes_at + t * step);
      const auto a = codes.table(hn::PromoteTo(d, hn::ZeroExtendVector(half, c)));
      const auto pair = hn::LowerHalf(hn::Half<decltype(d)>(), a);
      hn::StoreU(hn::LowerHalf(d1, pair), d1, out + t * kPiece);
      hn::StoreU(hn::UpperHalf(d1, pair), d1, out + t * kPiece + kPieces);
    }
  }
}
#endif

// Rows d, d+1, ... of 16 bytes (of one element each of consecutive tokens) -> one vector per token.
template <class DU>
HWY_INLINE void transpose_square(DU du, const unsigned char* from, int64_t stride,
                                 hn::TFromD<DU>* to, int64_t pitch) {
  constexpr int n = 16 / int(sizeof(hn::TFromD<DU>));
  hn::Vec<DU> v[n];
  for (int i = 0; i < n; ++i) v[i] = load_blocks(du, from + i * stride, n * stride);
  turn_square(du, v);
  for (int i = 0; i < n; ++i) hn::StoreU(v[i], du, to + i * pitch);
}

// [size][stride in elements] -> n rows of `size` elements, n = 16 bytes' worth of tokens.
template <class DU>
HWY_INLINE int64_t transpose_strip(DU du, const unsigned char* from, int64_t stride,
                                   hn::TFromD<DU>* to, int64_t size, int64_t begin) {
  constexpr auto step = int64_t(hn::MaxLanes(DU()));
  for (; begin + step <= size; begin += step)
    transpose_square(du, from + begin * stride, stride, to + begin, size);
  if constexpr (hn::MaxLanes(DU()) * sizeof(hn::TFromD<DU>) > 16)
    return transpose_strip(hn::Half<DU>(), from, stride, to, size, begin);
  return begin;
}

using Ahead = AheadOf<kTile>;

// ---- rows --------------------------------------------------------------------------------------

// Where the elements of a row are: pieces of x, `piece` elements apart, or one after the other.
enum class Lie { rows, pieces };

// One of the two caches. Strides in elements: of blocks, heads, slots, elements 0 to x - 1 of a
// piece, pieces of x. Values have no pieces: x is their size.
template <class C>
struct PagedCache {
  using U = UnsignedOf<C>;
  using S = typename RowType<C>::type;
  static constexpr int kSquare = 16 / int(sizeof(C));  // tokens of a transposed square
  const C* data;
  int64_t block, head, slot, element, piece, x, size, slots;
  bool in_rows, in_pieces, across;
  Codes<C> codes;

  PagedCache(const kvops_tensor& t, int64_t slot_axis, int64_t element_axis)
      : data(static_cast<const C*>(t.data)),
        block(t.stride[0]),
        head(t.stride[1]),
        slot(t.stride[slot_axis]),
        element(t.stride[element_axis]),
        piece(t.stride[2]),
        x(t.shape[element_axis]),
        size(t.rank == 5 ? t.shape[2] * x : x),
        slots(t.shape[slot_axis]),
        in_rows(element == 1 && (size <= x || piece == x)),
        in_pieces(element == 1 && x == kSquare),
        across(slot == 1 && size <= x) {}

  const C* at(int64_t b, int64_t h, int64_t s) const {
    return data + b * block + h * head + s * slot;
  }
  Lie lie() const { return !IsFp8<C> && in_pieces && !in_rows ? Lie::pieces : Lie::rows; }

  // run.count rows of raw elements to `to`; may write up to kSquare - 1 rows more.
  void copy(int64_t h, const Run& run, C* to) const {
    const C* from = at(run.block, h, run.first);
    int done = 0;
    if (across) {
      const hn::ScalableTag<U> du;
      // Reading past the last token is fine as long as the block goes on.
      for (; done < run.count && run.first + done + kSquare <= slots; done += kSquare)
        transpose_strip(du, reinterpret_cast<const unsigned char*>(from + done),
                        element * int64_t(sizeof(C)), reinterpret_cast<U*>(to + done * size), size,
                        0);
    }
    for (; done < run.count; ++done) {
      const C* part = from + done * slot;
      for (C *row = to + done * size, *end = row + size; row < end; row += x, part += piece)
        for (int64_t i = 0; i < x; ++i) row[i] = part[i * element];
    }
  }

  void decode(const C* from, S* to) const {
    if (in_rows || !in_pieces) return decode_codes(codes, from, to, size);
    for (int64_t i = 0; i < size; i += x, from += piece) decode_codes(codes, from, to + i, x);
  }

  // What rows() or the arithmetic will read of the runs.
  void look_ahead(int64_t h, const Run* runs, int num_runs, Ahead& ahead) const {
    constexpr int64_t kLine = 64, kBytes = int64_t(sizeof(C));
    ahead.clear();
    auto narrow = [&](int64_t stride) { return stride > 0 && stride * kBytes < kLine; };
    int64_t together = 1;  // tokens that the same lines hold
    if (in_rows) {
      ahead.step = kLine, ahead.lines = int(ceil_div(size * kBytes, kLine));
    } else if (across) {
      together = slots;
      ahead.step = narrow(element) ? kLine : element * kBytes;
      ahead.lines = int(narrow(element) ? ceil_div(size * element * kBytes, kLine) : size);
    } else {
      if (narrow(slot)) together = kLine / (slot * kBytes);
      ahead.step = piece * kBytes, ahead.lines = int(size / x);
    }
    for (int r = 0; r < num_runs; ++r)
      for (int64_t i = 0; i < runs[r].count; i += together)
        ahead.rows[ahead.num_rows++] =
            reinterpret_cast<const char*>(at(runs[r].block, h, runs[r].first + i));
  }

  // Pointers to the rows of all runs, whose elements lie as lie() says; fp8 as `lie` says.
  void rows(int64_t h, const Run* runs, int num_runs, RowBuffers& buffers, const S** out,
            [[maybe_unused]] Lie lie = Lie::rows) const {
    const bool direct = in_rows || in_pieces;
    auto* copies = reinterpret_cast<C*>(IsFp8<C> ? buffers.codes : buffers.rows);
    auto* floats = reinterpret_cast<S*>(buffers.rows);
    for (int r = 0; r < num_runs; ++r) {
      const C* row = direct ? at(runs[r].block, h, runs[r].first) : copies;
      if (!direct) copy(h, runs[r], copies);
      const int64_t step = direct ? slot : size;
#if HWY_TARGET <= HWY_AVX3
      if constexpr (IsFp8<C>) {
        if (lie == Lie::pieces) {
          decode_pieces(codes, row, step, in_rows || !direct ? 2 * kPiece : piece, runs[r].count,
                        size, floats);
          for (int i = 0; i < runs[r].count; ++i, floats += kPiece) *out++ = floats;
          continue;
        }
      }
#endif
      for (int i = 0; i < runs[r].count; ++i, row += step) {
        if constexpr (IsFp8<C>) {
          decode(row, floats);
          *out++ = floats;
          floats += size;
        } else {
          *out++ = row;
        }
      }
      if (!IsFp8<C> && !direct) copies += runs[r].count * size;
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
