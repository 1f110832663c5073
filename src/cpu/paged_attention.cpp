// Paged attention: shapes, ranges, the block-sparse pattern, faults. See paged_attention.h.
#include "cpu/paged_attention.h"

#include <atomic>

#include "cpu/parallel.h"
#include "kvcache_ops.h"

namespace kvops::cpu {
namespace {

// Sums and query of a unit stay in L1 and on the stack: 64 heads of 128, 16 of 512.
constexpr int64_t kUnitFloats = 8192, kUnitHeads = 64;

uint64_t magnitude(int64_t x) { return x < 0 ? 0 - uint64_t(x) : uint64_t(x); }

// (a * b + c) % m of any values
uint64_t mul_add_mod(uint64_t a, uint64_t b, uint64_t c, uint64_t m) {
  return uint64_t((static_cast<unsigned __int128>(a) * b + c) % m);
}

}  // namespace

Attention::Attention(const kvops_paged_attention_v1_args& a)
    : args(a),
      table(view<const int32_t, 2>(a.block_table)),
      lengths(view<const int32_t, 1>(a.seq_lens)),
      seqs(a.query.shape[0]),
      heads(a.query.shape[1]),
      kv_heads(a.key_cache.shape[1]),
      group(kv_heads ? heads / kv_heads : 0),
      size(a.query.shape[2]),
      blocks(a.key_cache.shape[0]),
      block(a.key_cache.shape[3]) {
  limit = std::min<int64_t>(INT32_MAX, block ? table.shape[1] * block : 0);
  if (a.max_seq_len > 0) limit = std::min(limit, a.max_seq_len);
  // With a step above 0 the heads of a group keep different blocks: each is a unit of its own.
  bool alone = a.blocksparse_vert_stride > 1 && a.blocksparse_head_sliding_step > 0;
  int64_t most = std::min(kUnitHeads, kUnitFloats / std::max<int64_t>(padded_size(), 1));
  heads_per_unit = alone ? 1 : std::max<int64_t>(1, std::min(group, most));
  units_per_group = ceil_div(group, heads_per_unit);
}

Tokens Attention::tokens(int64_t seq) const {
  int64_t end = std::clamp<int64_t>(lengths(seq), 0, limit);
  return {args.window > 0 ? std::max<int64_t>(0, end - args.window) : 0, end};
}

Keep Attention::keep(int64_t head, int64_t end) const {
  Keep k;
  if (args.blocksparse_vert_stride <= 1) return k;
  int64_t step = args.blocksparse_head_sliding_step;
  bool by_head = step >= 0;
  k.stride = uint64_t(args.blocksparse_vert_stride);
  k.size = args.blocksparse_block_size;
  uint64_t index = mul_add_mod(uint64_t(args.tp_rank), uint64_t(by_head ? heads : kv_heads),
                               uint64_t(by_head ? head : head / group), k.stride);
  k.offset = mul_add_mod(index, magnitude(step), 1, k.stride);
  // Lengths have 31 bits: beyond 32 the number of local blocks no longer matters.
  int64_t local =
      std::clamp<int64_t>(args.blocksparse_local_blocks, -(int64_t{1} << 32), int64_t{1} << 32);
  k.near = (end - 1) / k.size - local;
  return k;
}

int64_t Attention::workspace_bytes() const {
  int64_t most = std::min(seqs, kShare) * std::min(units(), kShare);
  most = std::min(most, kShare) * kPagedRanges.most(limit);
  return most * state_floats() * int64_t(sizeof(float));
}

int64_t Attention::units_per_piece() const {
  int64_t total = 0;
  for (int64_t s = 0; s < seqs; ++s) total += tokens(s).count();
  int64_t token_bytes = 2 * size * int64_t(sizeof(float)) * heads_per_unit;
  return rows_per_piece(total / std::max<int64_t>(seqs, 1) * token_bytes);
}

void Attention::count_faults() const {
  if (!present(args.faults)) return;
  auto& faults = *static_cast<int64_t*>(args.faults.data);
  parallel_for(seqs, 16, [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t s = begin; s < end; ++s) {
      count += lengths(s) > limit;
      Tokens t = tokens(s);
      for (int64_t j = t.count() > 0 ? t.first / block : 0; j * block < t.end; ++j) {
        if (block_of(s, j * block) >= 0) continue;
        // Whether any head wants the block is only asked of the bad ones.
        int64_t head = 0;
        while (head < heads && !keep(head, t.end)(j * block)) ++head;
        count += head < heads;
      }
    }
    if (count) std::atomic_ref(faults) += count;
  });
}

Splits::Splits(const Attention& job, bool any) {
  int64_t total = 0, units = job.units();
  for (int64_t s = 0; any && s < job.seqs; ++s) total += job.tokens(s).count();
  for (int64_t s = 0; any && s < job.seqs && count < kShare; ++s) {
    Tokens t = job.tokens(s);
    int64_t ranges = kPagedRanges.count(t);
    bool large = double(t.count()) * double(kShare) > double(total) * double(units);
    if (ranges <= 1 || !large) continue;
    list[count++] = {s, ranges, items};
    items += units * ranges;
  }
}

const Split* Splits::find(int64_t seq) const {
  auto* end = list + count;
  auto* at = std::lower_bound(list, end, seq, [](auto& s, int64_t q) { return s.seq < q; });
  return at < end && at->seq == seq ? at : nullptr;
}

const Split& Splits::of_item(int64_t item) const {
  auto* after = std::upper_bound(list, list + count, item,
                                 [](int64_t i, auto& s) { return i < s.first_item; });
  return after[-1];
}

int64_t paged_attention_v1_bytes(const kvops_paged_attention_v1_args& a) {
  return Attention(a).workspace_bytes();
}

}  // namespace kvops::cpu
