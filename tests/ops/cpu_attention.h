// Batches for cpu_attention_with_kv_cache: caches full of random numbers in any packing, a plan,
// and the same attention in double precision, written from the formulas of kvcache_ops/cpu.h.
#pragma once
#include "ops/attention.h"

namespace tests {

using CpuAttention = kvops_cpu_attention_with_kv_cache_args;
using CpuPlan = kvops_cpu_attn_get_scheduler_metadata_args;

inline kvops_status forced(const std::string& name) {
  const std::string value = name.empty() ? "" : "cpu_attention_with_kv_cache:" + name;
  return kvops_set_option("impl", value.c_str());
}

// Implementations, and whether their weights are bf16.
struct Code {
  const char* name;
  bool rounds_weights;
};
inline constexpr Code kCodes[] = {{"portable", false}, {"bf16", true}, {"amx", true}};

struct Request {
  int32_t queries, length;
};

struct Batch {
  kvops_dtype type = KVOPS_F32, cached = KVOPS_F32;
  int64_t isa = KVOPS_CPU_ISA_VEC;
  int64_t heads = 4, kv_heads = 2, size = 32, block = 32;
  std::vector<Request> requests = {{1, 5}, {3, 70}, {4, 4}, {1, 100}};
  std::vector<int32_t> dynamic;  // per request; empty: not given
  bool split = false, plan_cache_apart = false;
  float unused = NAN;  // fills slots without a token
  int32_t unused_id = INT32_MAX;

  int64_t width = 0, blocks = 0;
  Buffer query, keys, values;  // keys, values: [blocks, block, kv_heads, size]
  Buffer key_cache, value_cache, out, lse, workspace, plan;
  std::vector<int32_t> starts, lens, table;
  std::vector<float> slopes, sinks;
  int64_t faults = 0;
  CpuAttention args = start();

  static CpuAttention start() {
    auto a = make<CpuAttention>();
    a.causal = 1, a.window_left = a.window_right = -1, a.k_scale = a.v_scale = 1;
    return a;
  }
  int64_t reqs() const { return int64_t(requests.size()); }
  int64_t tokens() const { return starts.back(); }
  int64_t at(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return ((b * block + t) * kv_heads + h) * size + d;
  }
  bool is_fp8() const { return kvops_dtype_size(cached) == 1; }
  double k_scale() const { return is_fp8() ? args.k_scale : 1; }
  double v_scale() const { return is_fp8() ? args.v_scale : 1; }

  void fill(unsigned seed, float spread = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    auto draw = [&](Buffer& b, double scale) {
      for (int64_t i = 0; i < b.count; ++i) b.set(i, normal(random) * float(scale));
    };
    width = 1, blocks = 1, starts = {0}, lens.clear();
    for (auto& r : requests) {
      const int64_t columns = (r.length + block - 1) / block;
      width = std::max(width, columns + 1), blocks += columns;
      starts.push_back(starts.back() + r.queries), lens.push_back(r.length);
    }
    query = Buffer(type, tokens() * heads * size);
    keys = Buffer(cached, blocks * block * kv_heads * size);
    values = Buffer(cached, keys.count);
    draw(query, spread), draw(keys, 1 / k_scale()), draw(values, 1 / v_scale());
    std::vector<int32_t> ids(size_t(blocks) - 1);
    std::iota(ids.begin(), ids.end(), 1);
    std::shuffle(ids.begin(), ids.end(), random);
    table.assign(size_t(reqs() * width), unused_id);
    for (int64_t r = 0; r < reqs(); ++r)
      for (int64_t j = 0; j * block < lens[size_t(r)]; ++j) {
        table[size_t(r * width + j)] = ids.back();
        ids.pop_back();
      }
    slopes.resize(size_t(heads)), sinks.resize(size_t(heads));
    for (auto& v : slopes) v = std::abs(normal(random)) / 4;
    for (auto& v : sinks) v = 3 * normal(random);
  }

  // Slots that no token fills hold `unused`.
  void spoil() {
    std::set<std::pair<int64_t, int64_t>> live;
    for (int64_t r = 0; r < reqs(); ++r)
      for (int64_t t = 0; t < lens[size_t(r)]; ++t)
        live.insert({table[size_t(r * width + t / block)], t % block});
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t t = 0; t < block; ++t)
        for (int64_t i = 0; i < kv_heads * size && !live.count({b, t}); ++i)
          keys.set(at(b, t, 0, i), unused), values.set(at(b, t, 0, i), unused);
  }

  // Where element d of token t of one (block, head) stands.
  int64_t key_offset(int64_t t, int64_t d) const {
    if (isa != KVOPS_CPU_ISA_AMX) return d * block + t;
    return (t / 16) * 16 * size + (d / 2) * 32 + (t % 16) * 2 + d % 2;
  }
  int64_t value_offset(int64_t t, int64_t d) const {
    if (isa != KVOPS_CPU_ISA_AMX) return t * size + d;
    return (d / 16) * 16 * block + (t / 2) * 32 + (d % 16) * 2 + t % 2;
  }
  void write_cache(const Buffer& from, const kvops_tensor& to, bool is_key) const {
    const int64_t bytes = kvops_dtype_size(cached);
    auto* base = static_cast<const char*>(const_cast<Buffer&>(from).data());
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t t = 0; t < block; ++t)
        for (int64_t h = 0; h < kv_heads; ++h)
          for (int64_t d = 0; d < size; ++d) {
            const int64_t offset = b * to.stride[0] + h * to.stride[1] +
                                   (is_key ? key_offset(t, d) : value_offset(t, d));
            std::memcpy(static_cast<char*>(to.data) + offset * bytes, base + at(b, t, h, d) * bytes,
                        size_t(bytes));
          }
  }

  // Sets all tensors of `args` up and plans; scalars are the test's.
  void lay_out() {
    forget();
    const Extents page = {blocks, kv_heads, block, size};
    key_cache = Buffer(cached, keys.count), value_cache = Buffer(cached, keys.count);
    out = Buffer(type, query.count), lse = Buffer(KVOPS_F32, tokens() * heads);
    args.key_cache = tensor(key_cache.data(), cached, page);
    args.value_cache = tensor(value_cache.data(), cached, page);
    write_cache(keys, args.key_cache, true), write_cache(values, args.value_cache, false);
    args.query = tensor(query.data(), type, {tokens(), heads, size});
    args.out = tensor(out.data(), type, {tokens(), heads, size});
    args.lse = tensor(lse.data(), KVOPS_F32, {tokens(), heads});
    args.block_table = tensor(table, KVOPS_I32, {reqs(), width});
    args.faults = tensor(&faults, KVOPS_I64, {1});
    if (args.scale == 0) args.scale = 1 / std::sqrt(double(size));
    set_lengths(), make_plan();
  }
  void set_lengths() {
    args.query_start_loc = tensor(starts, KVOPS_I32, {reqs() + 1});
    args.seq_lens = tensor(lens, KVOPS_I32, {reqs()});
    if (!dynamic.empty()) args.dynamic_causal = tensor(dynamic, KVOPS_I32, {reqs()});
  }
  CpuPlan plan_args() {
    auto p = make<CpuPlan>();
    p.query_start_loc = args.query_start_loc, p.seq_lens = args.seq_lens;
    p.dynamic_causal = args.dynamic_causal;
    p.num_heads = heads, p.num_kv_heads = kv_heads, p.head_size = size, p.query_dtype = type;
    p.isa = isa, p.causal = args.causal, p.enable_kv_split = split;
    p.window_left = args.window_left, p.window_right = args.window_right;
    return p;
  }
  void make_plan() {
    auto p = plan_args();
    int64_t bytes = 0;
    CHECK_OK(kvops_cpu_attn_get_scheduler_metadata_size(&p, &bytes));
    plan = Buffer(KVOPS_F8_E4M3, bytes);
    p.scheduler_metadata = tensor(plan.data(), KVOPS_I8, {bytes});
    CHECK_OK(kvops_cpu_attn_get_scheduler_metadata(&p));
    args.scheduler_metadata = p.scheduler_metadata;
    CHECK_OK(kvops_cpu_attention_with_kv_cache_workspace(&args, &bytes));
    workspace = Buffer(KVOPS_F8_E4M3, bytes);
    args.workspace = tensor(workspace.data(), KVOPS_U8, {bytes});
  }
  void with_slopes() { forget(), args.alibi_slopes = tensor(slopes, KVOPS_F32, {heads}); }
  void with_sinks() { forget(), args.sinks = tensor(sinks, KVOPS_F32, {heads}); }

  // The bits of out and lse after a call.
  using Bits = std::vector<unsigned char>;
  Bits run() {
    out.poison(), lse.poison(), faults = 0;
    CHECK_OK(kvops_cpu_attention_with_kv_cache(&args));
    Bits all = out.image(), rest = lse.image();
    all.insert(all.end(), rest.begin(), rest.end());
    return all;
  }

  bool is_causal(int64_t r) const { return dynamic.empty() ? args.causal : dynamic[size_t(r)]; }
  // Weights of the keys that (request, query, head) sees, and their sum, relative to `top`.
  struct Weights {
    std::vector<double> each;
    int64_t first = 0;
    double sum = 0, top = -HUGE_VAL;
  };
  bool good(int64_t r, int64_t k) const {
    const int32_t b = table[size_t(r * width + k / block)];
    return b >= 0 && b < blocks;
  }
  Weights weights(int64_t r, int64_t i, int64_t h) const {
    Weights w;
    const int64_t length = lens[size_t(r)], p = length - requests[size_t(r)].queries + i;
    int64_t end = length;
    if (args.window_right >= 0) end = std::min(end, p + args.window_right + 1);
    if (is_causal(r)) end = std::min(end, p + 1);
    if (args.window_left >= 0) w.first = std::max<int64_t>(0, p - args.window_left);
    for (int64_t k = w.first; k < end; ++k) {
      double x = 0;
      const int64_t b = table[size_t(r * width + k / block)];
      for (int64_t d = 0; d < size && good(r, k); ++d)
        x += double(query[((starts[size_t(r)] + i) * heads + h) * size + d]) *
             double(keys[at(b, k % block, h / (heads / kv_heads), d)]);
      x *= args.scale * k_scale();
      if (args.softcap != 0) x = args.softcap * std::tanh(x / args.softcap);
      if (args.alibi_slopes.data) x += double(slopes[size_t(h)]) * double(k - p);
      if (!good(r, k)) x = -HUGE_VAL;
      w.each.push_back(x), w.top = std::max(w.top, x);
    }
    const double sink = args.sinks.data ? double(sinks[size_t(h)]) : -HUGE_VAL;
    w.top = std::max(w.top, sink);
    if (w.top == -HUGE_VAL) return w.each.clear(), w;
    for (auto& e : w.each) w.sum += e = std::exp(e - w.top);
    w.sum += std::exp(sink - w.top);
    return w;
  }

  // The exact results of one (query, head). noise: what weights rounded by 2^-9 may change.
  struct Exact {
    std::vector<double> out, noise;
    double lse = 0;
  };
  std::vector<Exact> exact;  // by row; made when first needed, `forget` after a change

  void forget() { exact.clear(); }
  void refer() {
    for (int64_t r = 0; r < reqs(); ++r)
      for (int64_t i = 0; i < requests[size_t(r)].queries; ++i)
        for (int64_t h = 0; h < heads; ++h) {
          const auto w = weights(r, i, h);
          Exact e;
          e.out.assign(size_t(size), 0.0), e.noise = e.out;
          for (size_t j = 0; j < w.each.size(); ++j) {
            const int64_t k = w.first + int64_t(j), b = table[size_t(r * width + k / block)];
            if (!good(r, k)) continue;
            const int64_t from = at(b, k % block, h / (heads / kv_heads), 0);
            for (int64_t d = 0; d < size; ++d) {
              const double v = w.each[j] / w.sum * v_scale() * double(values[from + d]);
              e.out[size_t(d)] += v, e.noise[size_t(d)] += std::abs(v) * 0x1p-9;
            }
          }
          e.lse = w.sum > 0 ? std::log(w.sum) + w.top : -HUGE_VAL;
          exact.push_back(std::move(e));
        }
  }

  struct Worst {
    double out = 0,
           lse = 0;  // units of out's dtype at the row's largest output; relative from 1 on
  };
  // bf16_weights: an error is what is left after each weight was rounded as badly as it can be.
  Worst worst(bool bf16_weights = false) {
    if (exact.empty()) refer();
    const double unit = type == KVOPS_F32 ? 0x1p-23 : type == KVOPS_F16 ? 0x1p-10 : 0x1p-7;
    Worst all;
    for (size_t row = 0; row < exact.size(); ++row) {
      const auto& e = exact[row];
      double top = 0;
      for (double v : e.out) top = std::max(top, std::abs(v));
      const double one = top > 0 ? std::exp2(std::floor(std::log2(top))) * unit : 0;
      for (size_t d = 0; d < size_t(size); ++d) {
        double error = std::abs(double(out[int64_t(row) * size + int64_t(d)]) - e.out[d]);
        if (bf16_weights) error = std::max(error - e.noise[d], 0.0 * error);
        all.out = std::max(all.out, one > 0 ? error / one : error == 0 ? 0 : HUGE_VAL);
        if (!(error >= 0)) all.out = HUGE_VAL;
      }
      const double got = double(lse[int64_t(row)]);
      const double off = got == e.lse ? 0 : std::abs(got - e.lse) / std::max(1.0, std::abs(e.lse));
      all.lse = std::max(all.lse, off >= 0 ? off : HUGE_VAL);
    }
    return all;
  }
};

// The row of `out` and `lse` that belongs to (query row, head).
inline Batch::Bits row_bits(const Batch& b, int64_t query, int64_t head) {
  const auto out = b.out.image(), lse = b.lse.image();
  const int64_t row = query * b.heads + head, bytes = b.size * kvops_dtype_size(b.type);
  Batch::Bits bits(out.begin() + row * bytes, out.begin() + (row + 1) * bytes);
  bits.insert(bits.end(), lse.begin() + row * 4, lse.begin() + (row + 1) * 4);
  return bits;
}

inline Batch mixed(kvops_dtype type, kvops_dtype cached, int64_t isa) {
  Batch b;
  b.type = type, b.cached = cached, b.isa = isa;
  b.requests = {{1, 600}, {5, 5}, {3, 64}, {20, 131}, {1, 1}, {2, 0}, {1, 130}};
  return b;
}
inline Batch small(kvops_dtype type = KVOPS_BF16) {
  Batch b;
  b.type = b.cached = type;
  return b;
}

// body(code) for every implementation that takes this batch, on every instruction set.
template <class F>
void on_every_code(Batch& b, F&& body) {
  on_every_isa([&] {
    int runs = 0;
    for (auto& code : kCodes) {
      REQUIRE(forced(code.name) == KVOPS_OK);
      const auto status = kvops_cpu_attention_with_kv_cache(&b.args);
      INFO(code.name << " " << kvops_last_error());
      REQUIRE((status == KVOPS_OK || status == KVOPS_UNSUPPORTED));
      if (status == KVOPS_OK) body(code), ++runs;
    }
    forced("");
    REQUIRE(runs > 0);
  });
}

// Dtypes of query and cache with the packings that take them.
inline void each_kind(const std::function<void(kvops_dtype, kvops_dtype, int64_t)>& body) {
  for (auto type : kTypes)
    for (auto cached : {type, kvops_dtype(KVOPS_F8_E4M3), kvops_dtype(KVOPS_F8_E5M2)})
      for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_VEC16, KVOPS_CPU_ISA_AMX})
        if (isa != KVOPS_CPU_ISA_AMX || type != KVOPS_F32) body(type, cached, isa);
}

}  // namespace tests
