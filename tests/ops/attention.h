// A paged cache full of random numbers, calls over it, and the same attention in double precision,
// written from the formulas of kvcache_ops/attention.h.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "cpu/convert.h"
#include "ops/tensors.h"

namespace tests {

using Attention = kvops_paged_attention_v1_args;

inline constexpr kvops_dtype kTypes[] = {KVOPS_F32, KVOPS_F16, KVOPS_BF16};
inline constexpr kvops_dtype kFp8[] = {KVOPS_F8_E4M3, KVOPS_F8_E5M2, KVOPS_F8_E4M3FNUZ,
                                       KVOPS_F8_E5M2FNUZ};

inline float get(kvops_dtype dtype, const void* data, int64_t i) {
  using namespace kvops;
  switch (dtype) {
    case KVOPS_F32:
      return static_cast<const float*>(data)[i];
    case KVOPS_F16:
      return cpu::to_float(static_cast<const f16*>(data)[i]);
    case KVOPS_BF16:
      return cpu::to_float(static_cast<const bf16*>(data)[i]);
    case KVOPS_F8_E4M3:
      return cpu::to_float(static_cast<const f8_e4m3*>(data)[i]);
    case KVOPS_F8_E5M2:
      return cpu::to_float(static_cast<const f8_e5m2*>(data)[i]);
    case KVOPS_F8_E4M3FNUZ:
      return cpu::to_float(static_cast<const f8_e4m3fnuz*>(data)[i]);
    default:
      return cpu::to_float(static_cast<const f8_e5m2fnuz*>(data)[i]);
  }
}
inline void put(kvops_dtype dtype, void* data, int64_t i, float x) {
  using namespace kvops;
  switch (dtype) {
    case KVOPS_F32:
      static_cast<float*>(data)[i] = x;
      break;
    case KVOPS_F16:
      static_cast<f16*>(data)[i] = cpu::from_float<f16>(x);
      break;
    case KVOPS_BF16:
      static_cast<bf16*>(data)[i] = cpu::from_float<bf16>(x);
      break;
    case KVOPS_F8_E4M3:
      static_cast<f8_e4m3*>(data)[i] = cpu::from_float<f8_e4m3>(x);
      break;
    case KVOPS_F8_E5M2:
      static_cast<f8_e5m2*>(data)[i] = cpu::from_float<f8_e5m2>(x);
      break;
    case KVOPS_F8_E4M3FNUZ:
      static_cast<f8_e4m3fnuz*>(data)[i] = cpu::from_float<f8_e4m3fnuz>(x);
      break;
    default:
      static_cast<f8_e5m2fnuz*>(data)[i] = cpu::from_float<f8_e5m2fnuz>(x);
  }
}
inline float rounded(kvops_dtype dtype, float x) {
  float bits = 0;
  put(dtype, &bits, 0, x);
  return get(dtype, &bits, 0);
}

// Elements of any dtype, 64-byte aligned.
struct Buffer {
  struct alignas(64) Line {
    unsigned char bytes[64];
  };
  kvops_dtype dtype = KVOPS_F32;
  int64_t count = 0;
  std::vector<Line> lines;
  Buffer() = default;
  Buffer(kvops_dtype type, int64_t n)
      : dtype(type), count(n), lines(size_t(n * kvops_dtype_size(type) / 64 + 1)) {}
  void* data() { return lines.data(); }
  float operator[](int64_t i) const { return get(dtype, lines.data(), i); }
  void set(int64_t i, float x) { put(dtype, data(), i, x); }
  void poison() { std::memset(data(), 0xFF, lines.size() * sizeof(Line)); }
  std::vector<unsigned char> image() const {
    auto* p = reinterpret_cast<const unsigned char*>(lines.data());
    return {p, p + count * kvops_dtype_size(dtype)};
  }
};

enum class Layout { packed, nhd, hnd };

// Caches of `lens.size()` sequences with blocks of their own in random order. Keys and values are
// kept in plain order; call() lays them out.
struct Problem {
  kvops_dtype type = KVOPS_F32, cached = KVOPS_F32;
  int64_t heads = 4, kv_heads = 2, size = 32, block = 16;
  std::vector<int32_t> lens = {5, 40, 0, 17};
  float k_scale = 1, v_scale = 1;
  Layout layout = Layout::packed;
  float unused = NAN;  // fills slots without a token
  int32_t unused_id = INT32_MIN;

  int64_t width = 0, blocks = 0;
  Buffer query, keys, values;  // keys, values: [blocks, block, kv_heads, size]
  Buffer key_cache, value_cache, out, lse, workspace;
  std::vector<int32_t> table;
  std::vector<float> slopes, sinks;
  int64_t faults = 0;
  Attention args = make<Attention>();

  int64_t seqs() const { return int64_t(lens.size()); }
  int64_t x() const { return 16 / kvops_dtype_size(cached); }
  int64_t at(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return ((b * block + t) * kv_heads + h) * size + d;
  }

  void fill(unsigned seed, float spread = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    auto draw = [&](Buffer& b, float scale) {
      for (int64_t i = 0; i < b.count; ++i) b.set(i, normal(random) * scale);
    };
    width = 1, blocks = 1;
    for (auto n : lens) {
      const int64_t columns = (std::max(n, 0) + block - 1) / block;
      width = std::max(width, columns + 1), blocks += columns;
    }
    query = Buffer(type, seqs() * heads * size);
    keys = Buffer(cached, blocks * block * kv_heads * size);
    values = Buffer(cached, keys.count);
    draw(query, spread), draw(keys, 1 / k_scale), draw(values, 1 / v_scale);
    std::vector<int32_t> ids(size_t(blocks) - 1);
    std::iota(ids.begin(), ids.end(), 1);
    std::shuffle(ids.begin(), ids.end(), random);
    table.assign(size_t(seqs() * width), unused_id);
    for (int64_t s = 0; s < seqs(); ++s)
      for (int64_t j = 0; j * block < lens[size_t(s)]; ++j) {
        table[size_t(s * width + j)] = ids.back();
        ids.pop_back();
      }
    slopes.resize(size_t(heads)), sinks.resize(size_t(heads));
    for (auto& v : slopes) v = normal(random);
    for (auto& v : sinks) v = normal(random);
  }

  // Slots that no token fills hold `unused`.
  void spoil() {
    std::set<std::pair<int64_t, int64_t>> live;
    for (int64_t s = 0; s < seqs(); ++s)
      for (int64_t t = 0; t < lens[size_t(s)]; ++t)
        live.insert({table[size_t(s * width + t / block)], t % block});
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t t = 0; t < block; ++t)
        for (int64_t i = 0; i < kv_heads * size && !live.count({b, t}); ++i)
          keys.set(at(b, t, 0, i), unused), values.set(at(b, t, 0, i), unused);
  }

  kvops_tensor key_view(void* data) const {
    const Extents shape = {blocks, kv_heads, size / x(), block, x()};
    const int64_t page = block * kv_heads * size;
    if (layout == Layout::nhd)
      return tensor(data, cached, shape, {page, size, x(), kv_heads * size, 1});
    if (layout == Layout::hnd)
      return tensor(data, cached, shape, {page, block * size, x(), size, 1});
    return tensor(data, cached, shape);
  }
  kvops_tensor value_view(void* data) const {
    const Extents shape = {blocks, kv_heads, size, block};
    const int64_t page = block * kv_heads * size;
    if (layout == Layout::nhd) return tensor(data, cached, shape, {page, size, 1, kv_heads * size});
    if (layout == Layout::hnd) return tensor(data, cached, shape, {page, block * size, 1, size});
    return tensor(data, cached, shape);
  }
  // Every element of the caches to where the strides of the views say.
  void write_caches(const kvops_tensor& k, const kvops_tensor& v) const {
    const int64_t bytes = kvops_dtype_size(cached);
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t t = 0; t < block; ++t)
        for (int64_t h = 0; h < kv_heads; ++h)
          for (int64_t d = 0; d < size; ++d) {
            const int64_t from = at(b, t, h, d) * bytes;
            const int64_t ki = b * k.stride[0] + h * k.stride[1] + d / x() * k.stride[2] +
                               t * k.stride[3] + d % x() * k.stride[4];
            const int64_t vi =
                b * v.stride[0] + h * v.stride[1] + d * v.stride[2] + t * v.stride[3];
            auto* ks = static_cast<char*>(const_cast<Buffer&>(keys).data()) + from;
            auto* vs = static_cast<char*>(const_cast<Buffer&>(values).data()) + from;
            std::memcpy(static_cast<char*>(k.data) + ki * bytes, ks, size_t(bytes));
            std::memcpy(static_cast<char*>(v.data) + vi * bytes, vs, size_t(bytes));
          }
  }

  // Sets all tensors of `args` up; scalars are the test's.
  void lay_out() {
    key_cache = Buffer(cached, keys.count), value_cache = Buffer(cached, keys.count);
    out = Buffer(type, query.count), lse = Buffer(KVOPS_F32, seqs() * heads);
    args.key_cache = key_view(key_cache.data()), args.value_cache = value_view(value_cache.data());
    write_caches(args.key_cache, args.value_cache);
    args.query = tensor(query.data(), type, {seqs(), heads, size});
    args.out = tensor(out.data(), type, {seqs(), heads, size});
    args.lse = tensor(lse.data(), KVOPS_F32, {seqs(), heads});
    args.block_table = tensor(table, KVOPS_I32, {seqs(), width});
    args.seq_lens = tensor(lens, KVOPS_I32, {seqs()});
    args.k_scale = tensor(&k_scale, KVOPS_F32, {1});
    args.v_scale = tensor(&v_scale, KVOPS_F32, {1});
    args.faults = tensor(&faults, KVOPS_I64, {1});
    if (args.scale == 0) args.scale = 1 / std::sqrt(double(size));
  }
  void with_slopes() { args.alibi_slopes = tensor(slopes, KVOPS_F32, {heads}); }
  void with_sinks() { args.sinks = tensor(sinks, KVOPS_F32, {heads}); }
  void with_workspace() {
    int64_t bytes = 0;
    CHECK_OK(kvops_paged_attention_v1_workspace(&args, &bytes));
    workspace = Buffer(KVOPS_F8_E4M3, bytes);
    args.workspace = tensor(workspace.data(), KVOPS_U8, {bytes});
  }

  // The bits of out and lse after a call.
  using Bits = std::vector<unsigned char>;
  Bits run(decltype(&kvops_paged_attention_v1) op = kvops_paged_attention_v1) {
    out.poison(), lse.poison(), faults = 0;
    CHECK_OK(op(&args));
    Bits all = out.image(), rest = lse.image();
    all.insert(all.end(), rest.begin(), rest.end());
    return all;
  }

  double key(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return double(keys[at(b, t, h, d)]) * k_scale;
  }
  double value(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return double(values[at(b, t, h, d)]) * v_scale;
  }
  // Weights of the visible tokens of (sequence, head) and their sum, relative to `top`.
  struct Weights {
    std::vector<double> each;
    int64_t first = 0;
    double sum = 0, top = -HUGE_VAL;
  };
  Weights weights(int64_t s, int64_t h) const {
    Weights w;
    const int64_t length = lens[size_t(s)], group = h / (heads / kv_heads);
    w.first = args.window ? std::max<int64_t>(0, length - args.window) : 0;
    for (int64_t t = w.first; t < length; ++t) {
      const int64_t b = table[size_t(s * width + t / block)];
      double a = 0;
      for (int64_t d = 0; d < size; ++d)
        a += double(query[(s * heads + h) * size + d]) * key(b, t % block, group, d);
      a *= args.scale;
      if (args.softcap != 0) a = args.softcap * std::tanh(a / args.softcap);
      if (args.alibi_slopes.data) a += double(slopes[size_t(h)]) * double(t - length + 1);
      w.each.push_back(a), w.top = std::max(w.top, a);
    }
    const double sink = args.sinks.data ? double(sinks[size_t(h)]) : -HUGE_VAL;
    w.top = std::max(w.top, sink);
    for (auto& e : w.each) w.sum += e = std::exp(e - w.top);
    w.sum += std::exp(sink - w.top);
    return w;
  }
  std::vector<double> reference(int64_t s, int64_t h, const Weights& w) const {
    std::vector<double> row(size_t(size), 0.0);
    for (size_t i = 0; i < w.each.size(); ++i) {
      const int64_t t = w.first + int64_t(i), b = table[size_t(s * width + t / block)];
      for (int64_t d = 0; d < size; ++d)
        row[size_t(d)] += w.each[i] / w.sum * value(b, t % block, h / (heads / kv_heads), d);
    }
    return row;
  }

  // Worst error of out, in units of the last place of its dtype at the row's largest element; a row
  // of zeros must be exact. `error(s, h, d)`: of another result, in the same units.
  double worst_error() const {
    return worst([&](int64_t i) { return double(out[i]); });
  }
  double worst(const std::function<double(int64_t)>& result) const {
    const double unit = type == KVOPS_F32 ? 0x1p-23 : type == KVOPS_F16 ? 0x1p-10 : 0x1p-7;
    double most = 0;
    for (int64_t s = 0; s < seqs(); ++s)
      for (int64_t h = 0; h < heads; ++h) {
        const auto row = reference(s, h, weights(s, h));
        double top = 0;
        for (auto v : row) top = std::max(top, std::abs(v));
        const double ulp = top > 0 ? std::exp2(std::floor(std::log2(top))) * unit : 1e-30;
        for (int64_t d = 0; d < size; ++d) {
          const double error = std::abs(result((s * heads + h) * size + d) - row[size_t(d)]) / ulp;
          most = error > most || std::isnan(error) ? error : most;
          if (std::isnan(most)) return HUGE_VAL;
        }
      }
    return most;
  }
  double worst_lse() const {
    double most = 0;
    for (int64_t s = 0; s < seqs(); ++s)
      for (int64_t h = 0; h < heads; ++h) {
        const auto w = weights(s, h);
        const double expected = w.sum > 0 ? std::log(w.sum) + w.top : -HUGE_VAL;
        const double got = lse[s * heads + h];
        if (got != expected) most = std::max(most, std::abs(got - expected));
      }
    return most;
  }
};

}  // namespace tests
