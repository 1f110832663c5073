// The kernel of paged_attention_mma.cuh (mma.sync) for one format of the cache.
//
// C: bf16, f16, f8_e4m3 or Code; kSteps: steps of 16 elements that a head has, zeros at the end
// included, so that no branch is between the products; kTiles: eights of heads in a unit. Whatever
// else a call may ask for is decided at run time, by whole warps.
#pragma once
#include "core/dispatch.h"
#include "cuda/paged_attention_mma.cuh"
#include "gpu/paged_attention_job.h"

namespace kvops::gpu {

// What a lane knows of the tile that it computes next.
struct Tile {
  uint32_t number;  // of 16 tokens
  uint32_t live;    // a bit for each row; none: there is no tile
};

template <class C, int kSteps, int kTiles>
struct Mma {
  static constexpr bool kFp8 = sizeof(C) == 1;
  using Ring = RingOf<kSteps, int(sizeof(C)), kTiles>;
  static constexpr int kPieces = kSteps * int(sizeof(C));  // of a row
  static constexpr int kParts = __is_same(C, bf16) ? 3 : 2;
  static constexpr int kUnitHeads = 8 * kTiles;
  // f16 has no small numbers: weights are 2^15 times as large.
  static constexpr float kGain = __is_same(C, bf16) ? 1.0f : 32768.0f;

  const Attention& a;
  const MmaLayout& l;
  char* memory;
  const int warp, lane, g, t, num_warps;
  const int warp_shift, member, members;  // log2 of 1, 2 or 4; the place in the team
  uint32_t ring_at;                       // where the warp's ring is in shared memory

  __device__ Mma(const Attention& job, const MmaLayout& layout, char* shared)
      : a(job),
        l(layout),
        memory(shared),
        warp(int(threadIdx.x) / 32),
        lane(int(threadIdx.x) % 32),
        g(lane / 4),
        t(lane % 4),
        num_warps(int(blockDim.x) / 32),
        warp_shift(num_warps / 2),
        member((int(rank_of(job)) << warp_shift) + warp),
        members(num_warps << job.team_shift) {
    // Hidden from the compiler, which would rather find it again for every use.
    asm volatile("{.reg .u64 x; cvta.to.shared.u64 x, %1; cvt.u32.u64 %0, x;}"
                 : "=r"(ring_at)
                 : "l"(ring()));
  }

  __device__ int warps() const { return members; }
  __device__ State state(int m) const {
    char* at = memory + (m & (num_warps - 1)) * Ring::kBytes;
#if KVOPS_HAS_CLUSTERS
    if (a.team_shift) at = of_peer(at, m >> warp_shift);
#endif
    return {reinterpret_cast<float*>(at), kUnitHeads, a.size + 8};
  }
  __device__ State running(int turn) const {
    State s(reinterpret_cast<float*>(memory + l.running), kUnitHeads, a.size);
    s.top += turn * 2 * kUnitHeads, s.sum += turn * 2 * kUnitHeads;
    return s;
  }
  __device__ char* ring() const { return memory + warp * Ring::kBytes; }

  // ---- queries -------------------------------------------------------------------------------

  struct Query {
    uint32_t b[kSteps][kTiles][2];
    float factor[kTiles][2], slope[kTiles][2];  // of the lane's columns
  };

  // Elements d and d + 1 of a row of `size`, which is 0 where there is no head.
  template <bool kWide>
  __device__ uint32_t two_of(const uint16_t* row, int d, int64_t size) const {
    if (d >= size) return 0;
    if constexpr (kWide) return *reinterpret_cast<const uint32_t*>(row + d);
    return row[d] | uint32_t(row[d + 1]) << 16;
  }
  // As they are. The lane's elements of step k: 2t, 2t + 1, and 8 further on; or 4t to 4t + 3.
  template <bool kWide>
  __device__ void load_bits(const Unit& u, Query& q) const {
    const auto* base = static_cast<const uint16_t*>(a.query) + u.seq * a.query_seq;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const auto* row = base + (u.head + n * 8 + g) * a.query_head;
      const int64_t size = n * 8 + g < u.heads ? a.size : 0;
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          q.b[k][n][i] =
              two_of<kWide>(row, kFp8 ? 16 * k + 4 * t + 2 * i : 16 * k + 8 * i + 2 * t, size);
    }
  }
  __device__ Two numbers(uint32_t pair) const {
    if (a.dtype == KVOPS_BF16) return {bits_float(pair << 16), bits_float(pair & 0xFFFF0000u)};
    return {to_float(f16{uint16_t(pair)}), to_float(f16{uint16_t(pair >> 16)})};
  }
  // To f16, times a power of two that takes the largest element to 2^14: what is 2^-30 of it or
  // more keeps all bits of a bf16.
  __device__ void to_f16(Query& q) const {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float most = 0;
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Two x = numbers(q.b[k][n][i]);
          x = {magnitude(x.a), magnitude(x.b)};
          if (x.a < 0x1p127f) most = fmaxf(most, x.a);
          if (x.b < 0x1p127f) most = fmaxf(most, x.b);
        }
      most = fmaxf(most, shuffle_xor(most, 1));
      most = fmaxf(most, shuffle_xor(most, 2));
      int exponent = int(float_bits(most) >> 23) - 127 - 14;
      exponent = exponent < -100 ? -100 : exponent;
      const float up = bits_float(uint32_t(127 - exponent) << 23);
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Two x = numbers(q.b[k][n][i]);
          q.b[k][n][i] = from_pair<f16>(x.a * up, x.b * up);
        }
      const float down = bits_float(uint32_t(127 + exponent) << 23);
#pragma unroll
      for (int j = 0; j < 2; ++j) q.factor[n][j] *= __shfl_sync(0xFFFFFFFFu, down, (2 * t + j) * 4);
    }
  }
  // Before any tile: what is asked for later arrives later.
  __device__ void load(const Unit& u, Query& q) const {
    if (l.wide_query)
      load_bits<true>(u, q);
    else
      load_bits<false>(u, q);
    float scale = a.scale * (a.k_scale ? *a.k_scale : 1.0f);
    if (a.softcap == 0) scale *= kLog2e;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        int h = n * 8 + 2 * t + j;
        q.factor[n][j] = scale;
        q.slope[n][j] = a.slopes && h < u.heads ? a.slopes[u.head + h] * kLog2e : 0;
      }
  }

  // ---- the ring ------------------------------------------------------------------------------

  // The tiles of this warp that are not in the ring yet, the table's entries of the next two, and
  // where the lane's part of block 0 is.
  struct Feed {
    Span span;
    uint32_t next;
    int32_t entry[2];
    const int32_t* table;
    const char *keys, *values;
  };
  __device__ uint32_t token_of(uint32_t tile) const {
    return tile * kTile + uint32_t(token_at<kFp8>(lane % kTile));
  }
  __device__ int32_t entry_of(const Feed& f, uint32_t tile) const {
    uint32_t token = token_of(tile);
    if (token < f.span.first || token >= f.span.end) return -1;
    return f.table[where(a, token).column];
  }
  // 16 bytes of values that lie across hold 8 tokens of two bytes, or all of them.
  static constexpr int kHalves = kFp8 ? 1 : 2, kLanes = 32 / kHalves;
  template <bool kPacked>
  __device__ Feed start(const Unit& u, Span s) const {
    Feed f = {s,
              s.first / kTile + uint32_t(member),
              {-1, -1},
              a.table + u.seq * a.table_row,
              a.keys.data + u.kv_head * a.keys.head,
              a.values.data + u.kv_head * a.values.head};
    f.keys += (kPacked ? lane / kTile : lane % kPieces) * a.keys.piece;
    f.values += kPacked ? lane / kHalves * a.values.element : lane % kPieces * 16;
    f.entry[0] = entry_of(f, f.next), f.entry[1] = entry_of(f, f.next + uint32_t(members));
    return f;
  }

  // Pieces whose tokens are neighbours.
  __device__ void copy_pieces(uint32_t to, const char* from, const Token& own) const {
    const Cache& c = a.keys;
    const bool live = own.block >= 0;
    if (live) from += own.block * c.block + own.slot * c.slot;
    const int pieces = int(a.size) * int(sizeof(C)) / 16 - lane / kTile;
    to += uint32_t(lane) * 16;
    if (l.full) {
#pragma unroll
      for (int i = 0; i < kPieces / 2; ++i, from += 2 * c.piece)
        copy_16(to + uint32_t(i) * 512, from, live);
    } else {
#pragma unroll
      for (int i = 0; i < kPieces / 2; ++i, from += 2 * c.piece)
        if (2 * i < pieces) copy_16(to + uint32_t(i) * 512, from, live);
    }
  }
  // Tokens whose pieces are neighbours, one or several at a time.
  __device__ void copy_rows(uint32_t to, const Cache& c, const char* from, const Token& own,
                            uint32_t live) const {
    constexpr int kRows = 32 / kPieces;
    const int row = lane / kPieces, piece = lane % kPieces;
    const bool inside = piece < int(a.size) * int(sizeof(C)) / 16;
    const int64_t offset = own.block < 0 ? 0 : own.block * c.block + own.slot * c.slot;
    to += uint32_t(place_of<kPieces, false>(row, piece));
    live >>= row;
#pragma unroll
    for (int i = 0; i < kTile / kRows; ++i) {
      const uint32_t at = (to ^ uint32_t(turn_of<kPieces>(i * kRows) * 16)) + uint32_t(i) * 512;
      const char* source = from + __shfl_sync(0xFFFFFFFFu, offset, i * kRows + row);
      if (inside) copy_16(at, source, live >> i * kRows & 1);
    }
  }
  __device__ void copy_across(uint32_t to, const char* from, const Token& own,
                              uint32_t live) const {
    const Cache& c = a.values;
    const int half = lane % kHalves, element = lane / kHalves;
    const uint32_t mine = kFp8 ? live : live >> 8 * half & 0xFF;
    const int row = mine ? 8 * half + __ffs(int(mine)) - 1 : 0;
    Token at = from_lane(own, row);  // its tokens are in one block
    if (mine)
      from += at.block * c.block +
              int64_t(at.slot - uint32_t(token_at<kFp8>(row) - 8 * half)) * int(sizeof(C));
    to += uint32_t(lane) * 16;
    const int64_t step = kLanes * c.element;
    const int left = int(a.size) - element;
    if (l.full) {
#pragma unroll
      for (int i = 0; i < kSteps * 16 / kLanes; ++i, from += step)
        copy_16(to + uint32_t(i) * 512, from, mine);
    } else {
#pragma unroll
      for (int i = 0; i < kSteps * 16 / kLanes; ++i, from += step)
        if (i * kLanes < left) copy_16(to + uint32_t(i) * 512, from, mine);
    }
  }

  // Starts the copies of the next tile that has a live token.
  template <bool kPacked>
  __device__ Tile issue(const Unit& u, Feed& f, int stage) const {
    Token own;
    uint32_t tile, live;
    do {
      tile = f.next;
      if (tile * kTile >= f.span.end) return {0, 0};
      uint32_t token = token_of(tile);
      own = {-1, 0};
      if (token >= f.span.first && token < f.span.end) {
        Where at = where(a, token);
        own = {block_of(a, u, token, at, f.entry[0], lane < kTile), at.slot};
      }
      live = __ballot_sync(0xFFFFFFFFu, own.block >= 0) & 0xFFFF;
      f.next += uint32_t(members);
      f.entry[0] = f.entry[1], f.entry[1] = entry_of(f, f.next + uint32_t(members));
    } while (!live);
    char* at = ring() + stage * Ring::kStage;
    const uint32_t keys = ring_at + uint32_t(stage * Ring::kStage), values = keys + Ring::kKeys;
    if (!l.keys_async)
      gather<C, kPieces, kPacked>(at, a.keys, u.kv_head, own, int(a.size));
    else if (kPacked)
      copy_pieces(keys, f.keys, own);
    else
      copy_rows(keys, a.keys, f.keys, own, live);
    if (kPacked)
      copy_across(values, f.values, own, live);
    else if (l.values_async)
      copy_rows(values, a.values, f.values, own, live);
    else
      gather<C, kPieces, false>(at + Ring::kKeys, a.values, u.kv_head, own, int(a.size));
    return {tile, live};
  }

  // Elements past the end of a head: a product with 0 must be 0.
  template <bool kPacked>
  __device__ void clear_tails() const {
    const int pieces = int(a.size) * int(sizeof(C)) / 16;
    if (pieces == kPieces) return;
    for (int s = 0; s < kStages; ++s)
      for (int i = pieces * kTile + lane; i < kPieces * kTile; i += 32) {
        int at = place_of<kPieces, kPacked>(i % kTile, i / kTile);
        *reinterpret_cast<uint4*>(ring() + s * Ring::kStage + at) = {};
      }
    __syncwarp();
  }

  // ---- arithmetic ----------------------------------------------------------------------------

  struct Sums {
    float o[kSteps][kTiles][4], top[kTiles][2], sum[kTiles][2];
  };

  // The address an even number of pieces further on than that of a row's first or second one.
  template <bool kPacked>
  __device__ static uint32_t further(uint32_t address, int pieces) {
    return kPacked ? address + uint32_t(pieces * kTile * 16) : address ^ uint32_t(pieces * 16);
  }

  template <bool kPacked>
  __device__ void products(uint32_t keys, const Query& q, float (&s)[kTiles][4]) const {
    float part[kTiles][2][4] = {};
    keys += uint32_t(place_of<kPieces, kPacked>(lane % 16, lane / 16));
    if constexpr (kFp8) {
#pragma unroll
      for (int k = 0; k < kSteps; k += 2) {
        Four codes, low, high;
        load_matrices<false>(codes, further<kPacked>(keys, k));
        decode_words<C>(a.cached, codes, low, high);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Four x = {low[2 * i], low[2 * i + 1], high[2 * i], high[2 * i + 1]};
#pragma unroll
          for (int n = 0; n < kTiles; ++n) multiply_add<f16>(part[n][i], x, q.b[k + i][n]);
        }
      }
    } else {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        Four x;
        load_matrices<false>(x, further<kPacked>(keys, 2 * k));
#pragma unroll
        for (int n = 0; n < kTiles; ++n) multiply_add<C>(part[n][k % 2], x, q.b[k][n]);
      }
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] = part[n][0][i] + part[n][1][i];
  }

  // Row i / 2 * 8 + g, head 2t + i % 2.
  __device__ void to_logits(const Unit& u, const Tile& tile, const Query& q,
                            float (&s)[kTiles][4]) const {
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] *= q.factor[n][i % 2];
    if (l.special) bend_logits(u, tile, q, s);
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!(tile.live >> (g + i / 2 * 8) & 1)) s[n][i] = bits_float(0xFF800000u);
  }
  // Softcap, slopes, the block-sparse pattern.
  __device__ void bend_logits(const Unit& u, const Tile& tile, const Query& q,
                              float (&s)[kTiles][4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = g + i / 2 * 8;
      const uint32_t token = tile.number * kTile + uint32_t(token_at<kFp8>(row));
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        float x = s[n][i];
        if (a.softcap != 0) x = a.softcap * tanhf(x / a.softcap) * kLog2e;
        if (a.slopes)
          x = fmaf(q.slope[n][i % 2], float(int32_t(token) - int32_t(u.span.end - 1)), x);
        if (a.stride > 1 && tile.live >> row & 1) {
          int h = n * 8 + 2 * t + i % 2;
          uint32_t start = token - where(a, token).slot;
          if (!keeps(a, u.head + (h < u.heads ? h : 0), start, u.span.end))
            x = bits_float(0xFF800000u);
        }
        s[n][i] = x;
      }
    }
  }

  // Logits to weights, relative to the new tops.
  __device__ void weigh(float (&s)[kTiles][4], Sums& o, float (&decay)[kTiles][2]) const {
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float most = fmaxf(s[n][j], s[n][j + 2]);
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) most = fmaxf(most, shuffle_xor(most, mask));
        most = fmaxf(most, o.top[n][j]);
        // Without a finite logit nothing has a weight; -inf - -inf would be NaN.
        const float base = most == bits_float(0xFF800000u) ? 0.0f : most;
        decay[n][j] = exp2_quick(o.top[n][j] - base), o.top[n][j] = most;
        s[n][j] = exp2_quick(s[n][j] - base), s[n][j + 2] = exp2_quick(s[n][j + 2] - base);
        o.sum[n][j] = fmaf(o.sum[n][j], decay[n][j], s[n][j] + s[n][j + 2]);
      }
  }

  // Weights as sums of 16-bit numbers, the largest first, none of them negative or, where the
  // weight is not, zero: infinite values stay infinite. Turned into columns of heads.
  __device__ void split_weights(const float (&s)[4], uint32_t (&p)[kParts][2]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float x = s[2 * i] * kGain, y = s[2 * i + 1] * kGain;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        uint32_t pair;
        float fx, fy;
        if constexpr (__is_same(C, bf16)) {
          pair = __byte_perm(float_bits(x), float_bits(y), 0x7632);
          fx = bits_float(pair << 16), fy = bits_float(pair & 0xFFFF0000u);
        } else {
          asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
          fx = to_float(f16{uint16_t(pair)}), fy = to_float(f16{uint16_t(pair >> 16)});
        }
        constexpr float kLeast = __is_same(C, bf16) ? 0x1p-100f : 0x1p-20f;
        x = fmaxf(x - fx, kLeast), y = fmaxf(y - fy, kLeast);
        p[part][i] = turn_matrix(pair);
      }
    }
  }

  __device__ void add_product(int m, const Four& v, const uint32_t (&p)[kTiles][kParts][2],
                              const float (&decay)[kTiles][2], Sums& o) const {
    using T = std::conditional_t<kFp8, f16, C>;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float sum[4] = {};
#pragma unroll
      for (int part = kParts; part-- > 0;) multiply_add<T>(sum, v, p[n][part]);
#pragma unroll
      for (int i = 0; i < 4; ++i) o.o[m][n][i] = fmaf(o.o[m][n][i], decay[n][i % 2], sum[i]);
    }
  }

  template <bool kPacked>
  __device__ void add_values(uint32_t values, const uint32_t (&p)[kTiles][kParts][2],
                             const float (&decay)[kTiles][2], Sums& o) const {
    const int i = lane / 8, r = lane % 8;
    if constexpr (kFp8) {
      // Across: elements, 8 rows at a time. Rows: pieces of 16 elements, 8 tokens at a time.
      values +=
          uint32_t(kPacked ? (i * 8 + r) * 16 : place_of<kPieces, false>(i % 2 * 8 + r, i / 2));
#pragma unroll
      for (int m = 0; m < kSteps; m += 2) {
        Four codes, low, high;
        load_matrices<!kPacked>(codes, further<kPacked>(values, m));
        if constexpr (!kPacked)  // bytes: even and odd elements of two tokens
          for (auto& c : codes) c = __byte_perm(c, 0, 0x3120);
        decode_words<C>(a.cached, codes, low, high);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int x = 2 * j, y = x + 1;
          if constexpr (kPacked)
            add_product(m + j, {low[x], low[y], high[x], high[y]}, p, decay, o);
          else
            add_product(m + j, {low[x], high[x], low[y], high[y]}, p, decay, o);
        }
      }
    } else {
      values += uint32_t(kPacked ? i / 2 * 16 + (i % 2 * 8 + r) * 32
                                 : place_of<kPieces, false>(i / 2 * 8 + r, i % 2));
#pragma unroll
      for (int m = 0; m < kSteps; ++m) {
        Four v;
        load_matrices<!kPacked>(v, further<kPacked>(values, 2 * m));
        add_product(m, v, p, decay, o);
      }
    }
  }

  template <bool kPacked>
  __device__ void compute(const Unit& u, const Tile& tile, int stage, const Query& q,
                          Sums& o) const {
    const uint32_t keys = ring_at + uint32_t(stage * Ring::kStage), values = keys + Ring::kKeys;
    if (kPacked && tile.live != 0xFFFF)
      clear_tokens<C>(ring() + stage * Ring::kStage + Ring::kKeys, kSteps * 16, tile.live);
    float s[kTiles][4], decay[kTiles][2];
    uint32_t p[kTiles][kParts][2];
    products<kPacked>(keys, q, s);
    to_logits(u, tile, q, s);
    weigh(s, o, decay);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) split_weights(s[n], p[n]);
    add_values<kPacked>(values, p, decay, o);
  }

  template <bool kPacked>
  __device__ void put(Sums& o) const {
    const State own(reinterpret_cast<float*>(ring()), kUnitHeads, a.size + 8);
    constexpr bool kPairs = kFp8 && !kPacked;  // rows are even and odd elements
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int h = n * 8 + 2 * t + j;
        float sum = o.sum[n][j];
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
        if (!g) own.top[h] = o.top[n][j], own.sum[h] = sum;
#pragma unroll
        for (int m = 0; m < kSteps; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            int d = 16 * m + (kPairs ? 2 * g + i : g + 8 * i);
            if (d < a.size) own.values[h * own.pitch + d] = o.o[m][n][2 * i + j] * (1 / kGain);
          }
      }
  }

  __device__ void attend(const Unit& u, Span s) const {
    if (l.packed)
      attend_as<true>(u, s);
    else
      attend_as<false>(u, s);
  }
  template <bool kPacked>
  __device__ void attend_as(const Unit& u, Span s) const {
    Query q;
    load(u, q);
    Feed feed = start<kPacked>(u, s);
    Sums o = {};
    for (auto& tops : o.top) tops[0] = tops[1] = bits_float(0xFF800000u);
    clear_tails<kPacked>();
    Tile tiles[kStages - 1];
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) tiles[i] = issue<kPacked>(u, feed, i), commit_copies();
    if constexpr (kFp8) to_f16(q);
    for (int stage = 0; tiles[0].live; stage = stage + 1 == kStages ? 0 : stage + 1) {
      await_copies<kStages - 2>();
      __syncwarp();
      // The stage before this one is free: all lanes have read it.
      Tile next = issue<kPacked>(u, feed, stage ? stage - 1 : kStages - 1);
      commit_copies();
      compute<kPacked>(u, tiles[0], stage, q, o);
#pragma unroll
      for (int i = 0; i + 1 < kStages - 1; ++i) tiles[i] = tiles[i + 1];
      tiles[kStages - 2] = next;
    }
    await_copies<0>();
    __syncwarp();
    put<kPacked>(o);
  }
};

template <class C, int kSteps, int kTiles>
__global__ void __launch_bounds__(kPagedThreads, resident_blocks(kSteps, kTiles))
    mma_paged_kernel(KVOPS_IN_PLACE Attention a, KVOPS_IN_PLACE MmaLayout l) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(512) char mma_paged_memory[];  // of the longest row
  __shared__ LineScratch scratch;
  Mma<C, kSteps, kTiles> kernel(a, l, mma_paged_memory);
  run_line(a, scratch, kernel);
#endif
}

}  // namespace kvops::gpu

namespace kvops::cuda {

// Of the file for each type of cache.
template <class C>
kvops_status launch_mma_paged(const char* op, const Grid& grid, const kvops_tensor& on,
                              const gpu::Attention& a, const gpu::MmaLayout& l) {
  auto start = [&]<int kSteps, int kTiles>() {
    return launch(op, gpu::mma_paged_kernel<C, kSteps, kTiles>, grid, on, a, l);
  };
  const int steps = gpu::padded_steps(a.size);
  if (steps > 8) return start.template operator()<16, 1>();
  if (a.unit_heads > 8)
    return steps > 4 ? start.template operator()<8, 2>() : start.template operator()<4, 2>();
  return steps > 4 ? start.template operator()<8, 1>() : start.template operator()<4, 1>();
}

}  // namespace kvops::cuda
