// paged_attention_v1: softmax(scale * q.k) v over a paged cache, one query token per sequence.
// A thread takes a unit: (sequence, kv head, its query heads), or one range of its tokens where
// the unit is a large part of all work and there is a workspace; see paged_attention.h.
// Numerics: paged_attention-inl.h. The scales of fp8 caches go into `scale` and the last product.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/paged_attention_v1.cpp"
#include <hwy/foreach_target.h>

#include "cpu/paged_attention-inl.h"
#include "cpu/paged_rows-inl.h"
#include "cpu/simd-inl.h"

// Everything that is compiled once only.
#include <cmath>

#include "core/dispatch.h"
#include "core/view.h"
#include "cpu/features.h"
#include "cpu/isa.h"
#include "cpu/paged_attention.h"
#include "cpu/parallel.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kStateFloats = 8192 + 2 * 64 + 16;

// What is read and written besides the cache, for every dtype of the query.
struct Ends {
  void (*load)(const Attention&, int64_t seq, int64_t head, float* q);
  void (*store)(const Attention&, int64_t seq, int64_t head, const float* values, float factor);
};

template <class T>
void load_query(const Attention& job, int64_t seq, int64_t head, float* q) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  const T* from = view<const T, 3>(job.args.query).at(seq, head);
  int64_t i = 0;
  for (; i + lanes <= job.size; i += lanes) hn::StoreU(load(d, from + i), d, q + i);
  if (i < job.size) hn::StoreU(load_n(d, from + i, size_t(job.size - i)), d, q + i), i += lanes;
  for (; i < job.padded_size(); ++i) q[i] = 0;
}

template <class T>
void store_out(const Attention& job, int64_t seq, int64_t head, const float* values, float factor) {
  const Floats16 d;
  const auto lanes = int64_t(hn::Lanes(d));
  T* to = view<T, 3>(job.args.out).at(seq, head);
  const auto f = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + lanes <= job.size; i += lanes) store(d, hn::Mul(hn::LoadU(d, values + i), f), to + i);
  if (i < job.size) store_n(d, hn::Mul(hn::LoadU(d, values + i), f), to + i, size_t(job.size - i));
}

struct Unit {
  int64_t seq, kv_head, head, heads;
  Tokens tokens;
  Keep keep;
};

Unit unit_of(const Attention& job, int64_t seq, int64_t u) {
  Unit unit;
  unit.seq = seq;
  unit.kv_head = u / job.units_per_group;
  int64_t skipped = u % job.units_per_group * job.heads_per_unit;
  unit.head = unit.kv_head * job.group + skipped;
  unit.heads = std::min(job.heads_per_unit, job.group - skipped);
  unit.tokens = job.tokens(seq);
  unit.keep = job.keep(unit.head, unit.tokens.end);
  return unit;
}

float scalar(const kvops_tensor& t) {
  return present(t) ? *static_cast<const float*>(t.data) : 1.0f;
}

// The tokens of a tile that take part.
struct Tile {
  Run runs[kTile];
  alignas(64) float behind[kTile];  // token - (length - 1), when `positions` are asked for
  int64_t first;                    // token, of the range that the tile is in
  int num_runs, count;
  bool positions;

  // The first tile from token `begin` on that is not empty, if there is one; returns its end.
  int64_t fill(const Attention& job, const Unit& unit, int64_t begin, int64_t end) {
    const int64_t step = tile_tokens(job.size);
    num_runs = count = 0;
    while (begin < end && !count) {
      const int64_t last = std::min(end, (begin / step + 1) * step);
      first = begin;
      for (; begin < last; begin += add(job, unit, begin, last)) {
      }
    }
    return begin;
  }

  // The tokens from t on that are in one block; returns how many.
  int64_t add(const Attention& job, const Unit& unit, int64_t t, int64_t end) {
    const int64_t slot = t % job.block, n = std::min(end - t, job.block - slot);
    const int64_t b = job.block_of(unit.seq, t);
    if (b < 0 || !unit.keep(t - slot)) return n;
    runs[num_runs++] = {b, slot, int(n)};
    if (positions)
      for (int64_t i = 0; i < n; ++i) behind[count + i] = float(t + i - unit.tokens.end + 1);
    count += int(n);
    return n;
  }
};

template <class C>
struct Kernel {
  using S = typename RowType<C>::type;
  const Attention& job;
  const Ends& ends;
  PagedCache<C> keys, values;
  Logits logits;
  float value_scale;

  Kernel(const Attention& j, const Ends& e)
      : job(j), ends(e), keys(j.args.key_cache, 3, 4), values(j.args.value_cache, 3, 2) {
    const auto& a = job.args;
    logits = {float(a.scale * scalar(a.k_scale) * RowType<C>::gain), float(a.softcap), nullptr};
    value_scale = scalar(a.v_scale) * RowType<C>::gain;
  }

  // Tokens [t.first, t.end) of the unit: the partial result of each range in `part`, from where it
  // is added to `sum`; without one, t is in one range. No tile reaches over the end of a range.
  void attend(const Unit& unit, Tokens t, const float* q, State& part, State* sum) const {
    const auto* slopes = static_cast<const float*>(job.args.alibi_slopes.data);
    const int64_t size = kPagedRanges.size(unit.tokens);
    Logits l = logits;
    if (slopes) l.slopes = slopes + unit.head;
    RowBuffers buffers;
    Tile tiles[2];
    tiles[0].positions = tiles[1].positions = slopes;
    TileWork work;
    work.lie = keys.lie(), work.piece = keys.piece;
    alignas(64) bf16 halves[std::is_same_v<S, bf16> ? kStateFloats : 1];
    work.halves = nullptr;
    if (std::is_same_v<S, bf16> && features().bf16_dot &&
        takes_dots(q, unit.heads * job.padded_size(), halves))
      work.halves = halves;
    if (IsFp8<C> && work.halves) work.lie = Lie::pieces, work.piece = kPieces;
    auto rows_of = [&](const PagedCache<C>& cache, const Tile& tile, Lie lie) {
      return [&, lie](const S** rows) {
        cache.rows(unit.kv_head, tile.runs, tile.num_runs, buffers, rows, lie);
      };
    };
    part.clear();
    int64_t at = tiles[0].fill(job, unit, t.first, t.end);
    for (int i = 0; tiles[i].count; i ^= 1) {
      Tile &now = tiles[i], &next = tiles[i ^ 1];
      at = next.fill(job, unit, at, t.end);
      keys.look_ahead(unit.kv_head, next.runs, next.num_runs, work.keys);
      values.look_ahead(unit.kv_head, next.runs, next.num_runs, work.values);
      work.n = now.count, work.behind = now.behind;
      attend_tile<S>(q, l, work, job.size, rows_of(keys, now, work.lie),
                     rows_of(values, now, Lie::rows), part);
      const bool ends = !next.count || next.first / size != now.first / size;
      if (sum && ends) add_state(*sum, part), part.clear();
    }
  }

  void load_queries(const Unit& unit, float* q) const {
    for (int64_t h = 0; h < unit.heads; ++h)
      ends.load(job, unit.seq, unit.head + h, q + h * job.padded_size());
  }

  // Takes the sink in, divides, stores.
  void finish(const Unit& unit, const State& state) const {
    const auto* sinks = static_cast<const float*>(job.args.sinks.data);
    const auto lse = view<float, 2>(job.args.lse);
    for (int64_t h = 0; h < unit.heads; ++h) {
      const double top = state.top[h], sink = sinks ? double(sinks[unit.head + h]) : -HUGE_VAL;
      const double most = std::max(top, sink);
      const double scale = top == most ? 1.0 : std::exp(top - most);
      double sum = double(state.sum[h]) * scale;
      if (sink > -HUGE_VAL) sum += sink == most ? 1.0 : std::exp(sink - most);
      // No weight at all: zeros, not 0 / 0.
      const double factor = state.sum[h] == 0 ? 0.0 : double(value_scale) * scale / sum;
      ends.store(job, unit.seq, unit.head + h, state.values + h * state.pitch, float(factor));
      if (lse.data)
        lse(unit.seq, unit.head + h) = float(sum == 0 ? -HUGE_VAL : std::log(sum) + most);
    }
  }

  void run_whole(int64_t seq, int64_t u) const {
    alignas(64) float memory[3][kStateFloats];
    const Unit unit = unit_of(job, seq, u);
    State sum(memory[1], unit.heads, job.padded_size());
    State part(memory[2], unit.heads, job.padded_size());
    load_queries(unit, memory[0]);
    sum.clear();
    attend(unit, unit.tokens, memory[0], part, &sum);
    finish(unit, sum);
  }

  State slot(int64_t item, const Unit& unit) const {
    auto* base = static_cast<float*>(job.args.workspace.data);
    return {base + item * job.state_floats(), unit.heads, job.padded_size()};
  }

  void run_range(const Split& split, int64_t item) const {
    alignas(64) float q[kStateFloats];
    const int64_t i = item - split.first_item;
    const Unit unit = unit_of(job, split.seq, i / split.ranges);
    State part = slot(item, unit);
    load_queries(unit, q);
    attend(unit, kPagedRanges.part(unit.tokens, i % split.ranges), q, part, nullptr);
  }

  void join(const Split& split, int64_t u) const {
    alignas(64) float memory[kStateFloats];
    const Unit unit = unit_of(job, split.seq, u);
    State sum(memory, unit.heads, job.padded_size());
    sum.clear();
    for (int64_t r = 0; r < split.ranges; ++r)
      add_state(sum, slot(split.first_item + u * split.ranges + r, unit));
    finish(unit, sum);
  }
};

template <class C>
kvops_status run(const Attention& job, const Ends& ends) {
  const Kernel<C> kernel(job, ends);
  const int64_t units = job.units();
  const Splits splits(job, present(job.args.workspace) && num_threads() > 1);
  parallel_for(splits.items, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernel.run_range(splits.of_item(i), i);
  });
  const int64_t joins = splits.count * units;
  const int64_t join_bytes = job.state_floats() * int64_t(sizeof(float)) * splits.items;
  parallel_for(joins, rows_per_piece(join_bytes / std::max<int64_t>(1, joins)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   kernel.join(splits.list[i / units], i % units);
               });
  parallel_for(job.seqs * units, job.units_per_piece(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (!splits.find(i / units)) kernel.run_whole(i / units, i % units);
  });
  job.count_faults();
  return KVOPS_OK;
}

}  // namespace

kvops_status paged_attention_v1(const kvops_paged_attention_v1_args& a) {
  const Attention job(a);
  constexpr auto* op = "paged_attention_v1";
  return dispatch(op, "query", a.query.dtype, Floats{}, [&]<class T>() {
    const Ends ends = {load_query<T>, store_out<T>};
    if (a.key_cache.dtype == a.query.dtype) return run<T>(job, ends);
    return dispatch(op, "key_cache", a.key_cache.dtype, Fp8s{},
                    [&]<class C>() { return run<C>(job, ends); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(paged_attention_v1)
}  // namespace kvops::cpu
#endif
