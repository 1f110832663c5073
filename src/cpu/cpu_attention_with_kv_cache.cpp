// cpu_attention_with_kv_cache: the units of a plan (attn_plan.h), each one pass over its keys tile
// by tile (cpu_attention.h), on all threads. A unit that the plan cut at its ranges leaves its
// partial result in the workspace, and a join adds them; others add each range as it ends.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/options.h"
#include "cpu/convert.h"
#include "cpu/cpu_attention.h"
#include "cpu/parallel.h"
#include "kvcache_ops.h"

namespace kvops::cpu {
namespace {

constexpr auto* kOp = "cpu_attention_with_kv_cache";

// ---- partial results ---------------------------------------------------------------------------

// Floats of a partial row in the workspace: sums, top, sum; whole cache lines.
int64_t part_floats(int64_t size) { return round_up(size + 2, 16); }

float weight_of(const MatrixCode& code, double top, double all) {
  if (top == all) return 1;
  return float(code.base_2 ? std::exp2(top - all) : std::exp(top - all));
}

// Adds a partial row. One without keys has weight 0 and leaves the other's bits.
void add_row(const AttentionCall& c, float* into, float& into_top, float& into_sum,
             const float* part, float top, float sum) {
  if (top == -HUGE_VALF && sum == 0) return;
  const float all = std::max(into_top, top);
  const float a = weight_of(c.code, into_top, all), b = weight_of(c.code, top, all);
  for (int64_t i = 0; i < c.size; ++i) into[i] = into[i] * a + part[i] * b;
  into_sum = into_sum * a + sum * b;
  into_top = all;
}

void clear(const AttentionCall& c, int rows, float* sums, RowState& state) {
  std::memset(sums, 0, size_t(rows * c.size) * sizeof(float));
  std::fill(state.top, state.top + rows, -HUGE_VALF);
  std::fill(state.sum, state.sum + rows, 0.0f);
}

void add_range(const AttentionCall& c, Scratch& s) {
  for (int r = 0; r < s.rows; ++r)
    add_row(c, s.total + r * c.size, s.total_row.top[r], s.total_row.sum[r], s.sums + r * c.size,
            s.row.top[r], s.row.sum[r]);
  clear(c, s.rows, s.sums, s.row);
}

float* part_at(const AttentionCall& c, int64_t row) {
  return static_cast<float*>(c.args.workspace.data) + row * part_floats(c.size);
}

void store_part(const AttentionCall& c, const PlanUnit& u, const Scratch& s) {
  for (int r = 0; r < s.rows; ++r) {
    float* to = part_at(c, u.part_row(r / s.heads, r % s.heads));
    std::copy_n(s.sums + r * c.size, c.size, to);
    to[c.size] = s.row.top[r], to[c.size + 1] = s.row.sum[r];
  }
}

// ---- a tile ------------------------------------------------------------------------------------

// The groups of tile [begin, begin + tile) that hold keys of the unit and have a block.
void fill_tile(const AttentionCall& c, const PlanUnit& u, int64_t begin, Tile& tile) {
  const int64_t end = std::min(begin + c.code.tile, u.keys.end), step = c.code.step;
  const int64_t first = std::max(begin, u.keys.first / step * step);
  tile.groups = 0;
  for (int64_t t = first; t < round_up(end, step); t += kGroup) {
    const int64_t b = c.table(u.request, t / c.block);
    if (b < 0 || b >= c.blocks) continue;
    auto address = [&](const kvops_tensor& cache) {
      const int64_t at = b * cache.stride[0] + u.kv_head * cache.stride[1];
      return static_cast<const char*>(cache.data) + at * c.cache_bytes;
    };
    tile.group[tile.groups++] = {address(c.args.key_cache),
                                 address(c.args.value_cache),
                                 int32_t(t % c.block),
                                 int32_t(std::clamp<int64_t>(u.keys.first - t, 0, kGroup)),
                                 int32_t(std::clamp<int64_t>(u.keys.end - t, 0, kGroup)),
                                 t};
  }
}

// The lines of a tile.
void look_ahead(const AttentionCall& c, const Tile& tile, Scratch& s) {
  constexpr int64_t kLine = 64;
  auto &k = s.next_keys, &v = s.next_values;
  k.clear(), v.clear();
  if (c.takes_few(s)) return;
  const int64_t group_bytes = kGroup * c.size * c.cache_bytes, strip = int64_t{kGroup} * kGroup;
  const bool by_row = !c.packing.amx && c.block * c.cache_bytes > kLine;
  k.step = by_row ? c.block * c.cache_bytes : kLine;
  k.lines = int(by_row ? c.size : group_bytes / kLine);
  v.step = kLine, v.lines = int((c.packing.amx ? strip * c.cache_bytes : group_bytes) / kLine);
  for (int g = 0; g < tile.groups; ++g) {
    const auto& group = tile.group[g];
    const char* keys = group.keys + c.packing.key(group.slot, 0) * c.cache_bytes;
    // Lines that hold keys of several groups are asked for once.
    const bool shared =
        by_row && group.slot * c.cache_bytes % kLine && g && tile.group[g - 1].keys == group.keys;
    const char* all = group.keys + group.slot / kGroup * group_bytes;
    if (!shared) k.rows[k.num_rows++] = by_row || c.packing.amx ? keys : all;
    const char* values = group.values + c.packing.value(group.slot, 0) * c.cache_bytes;
    for (int64_t d = 0; d < (c.packing.amx ? c.size : 1); d += kGroup)
      v.rows[v.num_rows++] = values + d * c.block * c.cache_bytes;
  }
}

// Columns before a token's.
int column_of(const Tile& tile, int64_t token) {
  int column = 0;
  for (int g = 0; g < tile.groups; ++g)
    column += int(std::clamp<int64_t>(token - tile.group[g].token, 0, kGroup));
  return column;
}

void see(const PlanUnit& u, Scratch& s) {
  s.tile.all = true;
  for (int64_t i = 0; i < u.queries; ++i) {
    const Tokens keys = u.keys_of(i);
    const int first = column_of(s.tile, keys.first);
    const int end = std::max(first, column_of(s.tile, keys.end));
    s.tile.all = s.tile.all && first == 0 && end == s.tile.keys();
    std::fill_n(s.first + i * u.heads, u.heads, first);
    std::fill_n(s.end + i * u.heads, u.heads, end);
  }
}

// Values that are not finite, where some rows do not see them: those that do get them here.
void add_strange(const AttentionCall& c, Scratch& s) {
  auto weight = [&](int r, int k) {
    const float* row = s.scores + r * c.pitch();
    return c.code.bf16_weights ? to_float(reinterpret_cast<const bf16*>(row)[k]) : row[k];
  };
  for (int k = 0; k < s.tile.keys(); ++k) {
    const auto& g = s.tile.group[k / kGroup];
    if (k % kGroup < g.first || k % kGroup >= g.end) continue;
    for (int64_t d = 0; d < c.size; ++d) {
      const float v = c.value(g, g.slot + k % kGroup, d);
      if (std::isfinite(v)) continue;
      for (int r = 0; r < s.rows; ++r)
        if (s.first[r] <= k && k < s.end[r]) s.sums[r * c.size + d] += weight(r, k) * v;
    }
  }
}

void attend_tile(const AttentionCall& c, const PlanUnit& u, Scratch& s) {
  if (!s.tile.groups) return;
  const bool few = c.takes_few(s);
  see(u, s);
  (few ? c.code.few_scores : c.code.scores)(c, s);
  c.code.weights(c, s);
  // All rows of one query see the same keys: the living ones.
  if (few && (s.tile.all || u.queries == 1)) return c.code.few_sums(c, s);
  c.code.pack_values(c, s);
  const bool strange = !s.tile.all && c.code.take_strange(c, s);
  c.code.sums(c, s);
  if (strange) add_strange(c, s);
}

// ---- a unit ------------------------------------------------------------------------------------

void load_queries(const AttentionCall& c, const PlanUnit& u, Scratch& s) {
  auto& q = c.args.query;
  const int64_t bytes = kvops_dtype_size(q.dtype);
  for (int r = 0; r < s.rows; ++r) {
    const int64_t at = (u.query + r / s.heads) * q.stride[0] + (u.head + r % s.heads) * q.stride[1];
    c.code.load_query(static_cast<const char*>(q.data) + at * bytes, c.size, r, s);
  }
}

// Takes the sink in, divides, stores.
void finish(const AttentionCall& c, const PlanUnit& u, const Scratch& s, const float* sums,
            const RowState& state) {
  auto& out = c.args.out;
  const int64_t bytes = kvops_dtype_size(out.dtype);
  const auto lse = view<float, 2>(c.args.lse);
  for (int r = 0; r < s.rows; ++r) {
    const int64_t query = u.query + r / s.heads, head = u.head + r % s.heads;
    const double unit = c.code.base_2 ? M_LN2 : 1.0;
    const double top = state.top[r] * unit, sink = c.sink(head);
    const double most = std::max(top, sink);
    const double scale = top == most ? 1.0 : std::exp(top - most);
    double sum = double(state.sum[r]) * scale;
    if (sink > -HUGE_VAL) sum += sink == most ? 1.0 : std::exp(sink - most);
    // No weight at all: zeros, not 0 / 0.
    const double factor = state.sum[r] == 0 ? 0.0 : c.value_scale * scale / sum;
    const int64_t at = query * out.stride[0] + head * out.stride[1];
    c.code.store_out(sums + r * c.size, float(factor), c.size,
                     static_cast<char*>(out.data) + at * bytes);
    if (lse.data) lse(query, head) = float(sum == 0 ? -HUGE_VAL : std::log(sum) + most);
  }
}

void start(const PlanUnit& u, Scratch& s) {
  s.heads = int(u.heads), s.rows = int(u.queries * u.heads);
  s.position = u.position, s.head = u.head;
}

// Units that may take turns: they differ in their heads only.
bool alike(const PlanUnit& a, const PlanUnit& b) {
  return a.request == b.request && a.query == b.query && a.queries == b.queries &&
         a.heads == b.heads && a.keys.first == b.keys.first && a.keys.end == b.keys.end;
}

// n units that are alike.
void run_units(const AttentionCall& c, const PlanUnit* units, int64_t n, Scratch& s) {
  const auto& u = units[0];
  const bool several = u.keys.count() > 0 && u.keys.first / u.range != (u.keys.end - 1) / u.range;
  auto turn = [&](int64_t i) { start(units[i], s), s.take_seat(i, c.size); };
  for (int64_t i = 0; i < n; ++i) {
    turn(i);
    load_queries(c, units[i], s);
    clear(c, s.rows, s.sums, s.row);
    if (several) clear(c, s.rows, s.total, s.total_row);
  }
  const int64_t tile = c.code.tile;
  const int64_t first = u.keys.first / tile * tile;
  if (c.code.begin_unit) c.code.begin_unit(s);
  fill_tile(c, u, first, s.next);
  for (int64_t t = first; t < u.keys.end; t += tile)
    for (int64_t i = 0; i < n; ++i) {
      turn(i);
      s.tile = s.next;
      const bool last = i + 1 == n;
      fill_tile(c, units[last ? 0 : i + 1], last ? t + tile : t, s.next);
      look_ahead(c, s.next, s);
      attend_tile(c, units[i], s);
      if (several && ((t + tile) % u.range == 0 || t + tile >= u.keys.end)) add_range(c, s);
    }
  if (c.code.end_unit) c.code.end_unit();
  for (int64_t i = 0; i < n; ++i) {
    turn(i);
    if (u.part >= 0)
      store_part(c, units[i], s);
    else
      finish(c, units[i], s, several ? s.total : s.sums, several ? s.total_row : s.row);
  }
}

// Units [begin, end) of the plan.
void run_piece(const AttentionCall& c, int64_t begin, int64_t end) {
  Scratch s;
  PlanUnit units[kMostSeats];
  for (int64_t i = begin; i < end;) {
    units[0] = c.plan.unit(i);
    const int64_t seats = seats_for(units[0].queries * units[0].heads, c.size);
    int64_t n = 1;
    for (; n < seats && i + n < end; ++n) {
      units[n] = c.plan.unit(i + n);
      if (!alike(units[0], units[n])) break;
    }
    run_units(c, units, n, s);
    i += n;
  }
}

// Units of a piece: those of a decoding request stay together where there are enough pieces.
int64_t piece_of(const AttentionCall& c) {
  const auto& h = c.plan.header();
  const int64_t rows =
      h.shape.heads_per_unit() * ceil_div(h.queries, std::max<int64_t>(1, h.shape.reqs));
  const int64_t together = std::min(h.shape.lanes(), seats_for(rows, c.size));
  const int64_t piece = c.plan.units_per_piece();
  return h.units >= together * 4 * num_threads() ? std::max(piece, together) : piece;
}

void run_join(const AttentionCall& c, const PlanUnit& u, Scratch& s) {
  start(u, s), s.take_seat(0, c.size);
  clear(c, s.rows, s.total, s.total_row);
  for (int64_t range = 0; range < u.ranges; ++range)
    for (int r = 0; r < s.rows; ++r) {
      const float* part = part_at(c, u.part_row(r / s.heads, r % s.heads, range));
      add_row(c, s.total + r * c.size, s.total_row.top[r], s.total_row.sum[r], part, part[c.size],
              part[c.size + 1]);
    }
  finish(c, u, s, s.total, s.total_row);
}

// ---- the call ----------------------------------------------------------------------------------

AttnLengths lengths_of(const AttentionArgs& a) {
  auto data = [](const kvops_tensor& t) { return static_cast<const int32_t*>(t.data); };
  return {data(a.query_start_loc), data(a.seq_lens), data(a.dynamic_causal), a.query.shape[0],
          a.block_table.shape[1] * a.key_cache.shape[2]};
}

// Entries of the table that live keys need and that are no blocks.
void count_faults(const AttentionCall& c) {
  if (!present(c.args.faults)) return;
  auto& faults = *static_cast<int64_t*>(c.args.faults.data);
  const auto lengths = lengths_of(c.args);
  for (int64_t r = 0; r < c.args.seq_lens.shape[0]; ++r) {
    const int64_t queries = lengths.query_start_loc[r + 1] - lengths.query_start_loc[r];
    const int64_t length = lengths.seq_lens[r];
    const bool causal = lengths.dynamic_causal ? lengths.dynamic_causal[r] : c.args.causal;
    auto reach = [](int64_t w) {
      return w < 0 ? int64_t{INT32_MAX} : std::min<int64_t>(w, INT32_MAX);
    };
    const int64_t first = std::max<int64_t>(0, length - queries - reach(c.args.window_left));
    const int64_t end = std::min(length, length + (causal ? 0 : reach(c.args.window_right)));
    if (!queries || first >= end) continue;  // blocks of no tokens have no keys
    for (int64_t j = first / c.block; j * c.block < end; ++j)
      faults += c.table(r, j) < 0 || c.table(r, j) >= c.blocks;
  }
}

kvops_status check_packing(const AttentionArgs& a, int64_t isa) {
  const int64_t unit = alignment_of(isa), block = a.key_cache.shape[2], size = a.query.shape[2];
  if (isa == KVOPS_CPU_ISA_AMX && a.query.dtype == KVOPS_F32)
    return fail(KVOPS_INVALID_ARGUMENT, kOp, "query",
                "dtype is f32, expected f16 or bf16 (scheduler_metadata is for amx)");
  if (block % unit == 0 && size % unit == 0) return KVOPS_OK;
  const bool bad_block = block % unit != 0;
  return fail(KVOPS_INVALID_ARGUMENT, kOp, bad_block ? "key_cache" : "query",
              "shape[2] is %lld, expected a multiple of %lld (as scheduler_metadata says)",
              (long long)(bad_block ? block : size), (long long)unit);
}

// The best code that there is for the call, or the one that is asked for.
kvops_status choose(AttentionCall& c) {
  const std::string forced = forced_implementation(kOp);
  c.code = portable_code(c);
  c.f32_weights = c.code.weights;
  if (forced == "portable") return KVOPS_OK;
  auto wants = [&](const char* name) { return forced.empty() || forced == name; };
  if (wants("amx") && amx_code(c, c.code)) return KVOPS_OK;
  if (wants("bf16") && bf16_code(c, c.code)) return KVOPS_OK;
  if (forced.empty()) return KVOPS_OK;
  return fail(KVOPS_UNSUPPORTED, kOp, "",
              "the implementation %s is forced, but does not exist for these dtypes, this packing "
              "or this CPU",
              forced.c_str());
}

}  // namespace

float AttentionCall::value(const KeyGroup& g, int64_t t, int64_t d) const {
  const char* at = g.values + packing.value(t, d) * cache_bytes;
  auto get = [&]<class T>(T x) { return std::memcpy(&x, at, sizeof x), to_float(x); };
  switch (args.value_cache.dtype) {
    case KVOPS_F32:
      return get(float{});
    case KVOPS_F16:
      return get(f16{});
    case KVOPS_BF16:
      return get(bf16{});
    case KVOPS_F8_E4M3:
      return get(f8_e4m3{});
    default:
      return get(f8_e5m2{});
  }
}

double AttentionCall::sink(int64_t head) const {
  if (!present(args.sinks)) return -HUGE_VAL;
  if (args.sinks.dtype == KVOPS_F32) return static_cast<const float*>(args.sinks.data)[head];
  return to_float(static_cast<const bf16*>(args.sinks.data)[head]);
}

kvops_status cpu_attention_with_kv_cache(const AttentionArgs& a) {
  const bool fp8 = kvops_dtype_size(a.key_cache.dtype) == 1;
  AttentionCall c = {.args = a, .table = view<const int32_t, 2>(a.block_table)};
  const AttnShape shape = {a.seq_lens.shape[0], a.query.shape[1], a.key_cache.shape[1],
                           a.query.shape[2],    a.query.dtype,    a.causal,
                           a.window_left,       a.window_right};
  if (auto s = c.plan.read(kOp, shape, lengths_of(a), a.scheduler_metadata)) return s;
  if (auto s = check_packing(a, c.plan.header().isa)) return s;
  c.size = shape.size, c.blocks = a.key_cache.shape[0], c.block = a.key_cache.shape[2];
  c.packing = packing_of(c.plan.header().isa, c.block, c.size);
  c.cache_bytes = kvops_dtype_size(a.key_cache.dtype);
  c.scale = float(a.scale * (fp8 ? a.k_scale : 1.0)), c.softcap = float(a.softcap);
  c.value_scale = fp8 ? a.v_scale : 1.0;
  c.slopes = static_cast<const float*>(a.alibi_slopes.data);
  if (auto s = choose(c)) return s;
  parallel_for(c.plan.header().units, piece_of(c),
               [&](int64_t begin, int64_t end) { run_piece(c, begin, end); });
  const int64_t joins = c.plan.header().joins;
  const int64_t floats = c.plan.header().parts * part_floats(c.size) / std::max<int64_t>(1, joins);
  parallel_for(joins, rows_per_piece(4 * floats), [&](int64_t begin, int64_t end) {
    Scratch s;
    for (int64_t i = begin; i < end; ++i) run_join(c, c.plan.join(i), s);
  });
  count_faults(c);
  return KVOPS_OK;
}

int64_t cpu_attention_with_kv_cache_bytes(const AttentionArgs& a) {
  const int64_t rows = most_part_rows(a.query.shape[0] * a.query.shape[1],
                                      a.block_table.shape[1] * a.key_cache.shape[2]);
  return rows * part_floats(a.query.shape[2]) * int64_t(sizeof(float));
}

}  // namespace kvops::cpu
