// A paged cache of random numbers on both sides, calls over it, how far their results are apart.
#pragma once
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>

#include "device.h"

namespace test {

using PagedArgs = kvops_paged_attention_v1_args;
enum class CacheLayout { packed, nhd };

inline double number_of(kvops_dtype dtype, const uint8_t* p) {
  uint32_t bits = 0;
  std::memcpy(&bits, p, size_t(kvops_dtype_size(dtype)));
  if (dtype == KVOPS_BF16) bits <<= 16;
  if (dtype != KVOPS_F16) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  int exponent = bits >> 10 & 31, mantissa = bits & 0x3FF;
  double x = exponent == 31  ? (mantissa ? NAN : INFINITY)
             : exponent == 0 ? std::ldexp(mantissa, -24)
                             : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -x : x;
}

struct Paged {
  kvops_dtype type = KVOPS_BF16, cached = KVOPS_BF16;
  int64_t heads = 8, kv_heads = 2, size = 64, block = 16;
  std::vector<int32_t> lens = {5, 40, 0, 170};
  CacheLayout layout = CacheLayout::packed;
  int fault_every = 0;       // one table entry in so many is bad
  int32_t extra_length = 0;  // the last length is beyond the table by so many
  uint8_t unused = 0xFF;     // bytes of slots without a token
  PagedArgs options = {};    // its scalars

  Stream stream;
  int64_t width = 1, blocks = 1;
  std::unique_ptr<Both<uint8_t>> query, keys, values, out, workspace;
  std::unique_ptr<Both<int32_t>> table, lengths;
  std::unique_ptr<Both<float>> lse, k_scale, v_scale, slopes, sinks;
  std::unique_ptr<Both<int64_t>> faults;
  bool with_slopes = false, with_sinks = false;

  int64_t bytes() const { return kvops_dtype_size(cached); }
  int64_t seqs() const { return int64_t(lens.size()); }
  int64_t x() const { return 16 / bytes(); }
  int64_t row_bytes() const { return heads * size * kvops_dtype_size(type); }

  int64_t key_at(int64_t b, int64_t h, int64_t t, int64_t d) const {
    if (layout == CacheLayout::nhd) return ((b * block + t) * kv_heads + h) * size + d;
    return (((b * kv_heads + h) * (size / x()) + d / x()) * block + t) * x() + d % x();
  }
  int64_t value_at(int64_t b, int64_t h, int64_t t, int64_t d) const {
    if (layout == CacheLayout::nhd) return ((b * block + t) * kv_heads + h) * size + d;
    return ((b * kv_heads + h) * size + d) * block + t;
  }

  void fill(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (auto n : lens) {
      const int64_t columns = (std::max(n, 0) + block - 1) / block;
      width = std::max(width, columns), blocks += columns;
    }
    auto u8 = [](int64_t n) { return std::make_unique<Both<uint8_t>>(KVOPS_U8, std::vector{n}); };
    query = u8(seqs() * row_bytes()), out = u8(seqs() * row_bytes());
    keys = u8(blocks * kv_heads * block * size * bytes()), values = u8(keys->bytes());
    table = std::make_unique<Both<int32_t>>(KVOPS_I32, std::vector{seqs(), width});
    lengths = std::make_unique<Both<int32_t>>(KVOPS_I32, std::vector{seqs()});
    auto floats = [](int64_t n) {
      return std::make_unique<Both<float>>(KVOPS_F32, std::vector{n});
    };
    lse = floats(seqs() * heads), k_scale = floats(1), v_scale = floats(1);
    slopes = floats(heads), sinks = floats(heads);
    faults = std::make_unique<Both<int64_t>>(KVOPS_I64, std::vector<int64_t>{1});
    k_scale->h[0] = type == cached ? 1 : 0.7f, v_scale->h[0] = type == cached ? 1 : 1.3f;
    for (auto& v : slopes->h) v = 0.05f * normal(random);
    for (auto& v : sinks->h) v = normal(random);
    const int64_t step = kvops_dtype_size(type);
    for (int64_t i = 0; i < query->bytes(); i += step) {
      const uint32_t bits = number_bits(type, normal(random));
      std::memcpy(&query->h[size_t(i)], &bits, size_t(step));
    }
    std::vector<int32_t> ids(size_t(blocks) - 1);
    std::iota(ids.begin(), ids.end(), 1);
    std::shuffle(ids.begin(), ids.end(), random);
    std::fill(table->h.begin(), table->h.end(), INT32_MIN);
    std::fill(keys->h.begin(), keys->h.end(), unused);
    std::fill(values->h.begin(), values->h.end(), unused);
    for (int64_t s = 0; s < seqs(); ++s)
      for (int64_t t = 0; t < lens[size_t(s)]; ++t) {
        auto& id = table->h[size_t(s * width + t / block)];
        if (t % block == 0) id = ids.back(), ids.pop_back();
        for (int64_t i = 0; i < kv_heads * size; ++i)
          for (int side = 0; side < 2; ++side) {
            const int64_t h = i / size, d = i % size, slot = t % block;
            const int64_t at = side ? value_at(id, h, slot, d) : key_at(id, h, slot, d);
            uint32_t bits = bytes() > 1 ? number_bits(cached, normal(random)) : random() & 0xBF;
            if (bytes() == 1 && bits == 0x80) bits = 0;  // the NaN of fnuz formats
            std::memcpy(&(side ? values : keys)->h[size_t(at * bytes())], &bits, size_t(bytes()));
          }
      }
    const int32_t bad[] = {-1, int32_t(blocks), INT32_MAX, INT32_MIN};
    for (size_t i = 0; fault_every && i < table->h.size(); ++i)
      if (random() % unsigned(fault_every) == 0) table->h[i] = bad[random() % 4];
    lengths->h = lens;
    lengths->h.back() += extra_length;
    up();
  }
  void up() {
    query->up(stream), keys->up(stream), values->up(stream), table->up(stream);
    lengths->up(stream), k_scale->up(stream), v_scale->up(stream), slopes->up(stream);
    sinks->up(stream), faults->up(stream), out->up(stream), lse->up(stream);
  }

  PagedArgs args(bool gpu) {
    auto side = [&](auto& t) { return gpu ? t->on_gpu(stream) : t->on_cpu(); };
    auto shaped = [&](auto& t, kvops_dtype dtype, std::vector<int64_t> shape,
                      std::vector<int64_t> stride) {
      auto base = side(t);
      auto tensor = kvops_dense(base.data, base.device, base.stream, dtype, int32_t(shape.size()),
                                shape.data());
      if (!stride.empty()) std::copy(stride.begin(), stride.end(), tensor.stride);
      return tensor;
    };
    const int64_t page = block * kv_heads * size, token = kv_heads * size;
    const bool nhd = layout == CacheLayout::nhd;
    using Strides = std::vector<int64_t>;
    PagedArgs a = options;
    a.struct_size = sizeof a;
    a.query = shaped(query, type, {seqs(), heads, size}, {});
    a.out = shaped(out, type, {seqs(), heads, size}, {});
    a.key_cache = shaped(keys, cached, {blocks, kv_heads, size / x(), block, x()},
                         nhd ? Strides{page, size, x(), token, 1} : Strides{});
    a.value_cache = shaped(values, cached, {blocks, kv_heads, size, block},
                           nhd ? Strides{page, size, 1, token} : Strides{});
    a.block_table = side(table), a.seq_lens = side(lengths), a.faults = side(faults);
    a.lse = shaped(lse, KVOPS_F32, {seqs(), heads}, {});
    a.k_scale = side(k_scale), a.v_scale = side(v_scale);
    if (with_slopes) a.alibi_slopes = side(slopes);
    if (with_sinks) a.sinks = side(sinks);
    if (a.scale == 0) a.scale = 1 / std::sqrt(double(size));
    return a;
  }
  // With a workspace full of ones, so that nothing may be taken for granted.
  PagedArgs gpu_args(bool with_workspace) {
    auto a = args(true);
    int64_t n = 0;
    need(kvops_paged_attention_v1_workspace(&a, &n));
    if (!with_workspace || !n) return a;
    workspace = std::make_unique<Both<uint8_t>>(KVOPS_U8, std::vector{n});
    std::fill(workspace->h.begin(), workspace->h.end(), uint8_t(0xFF));
    workspace->up(stream);
    a.workspace = workspace->on_gpu(stream);
    return a;
  }

  // The bits of out and lse.
  std::vector<uint8_t> results() {
    auto bits = out->down(stream);
    auto sums = lse->down(stream);
    auto* p = reinterpret_cast<const uint8_t*>(sums.data());
    bits.insert(bits.end(), p, p + sums.size() * 4);
    return bits;
  }
  std::vector<uint8_t> run(const PagedArgs& a,
                           decltype(&kvops_paged_attention_v1) op = kvops_paged_attention_v1) {
    std::fill(out->h.begin(), out->h.end(), uint8_t(0xFF));
    std::fill(lse->h.begin(), lse->h.end(), NAN);
    out->up(stream), lse->up(stream);
    need(op(&a));
    return results();
  }

  // Of the device's last results from the CPU's, in units of the last place of the dtype at the
  // row's largest output.
  double distance() {
    auto got = out->down(stream);
    auto a = args(false);
    need(kvops_paged_attention_v1(&a));
    const int64_t step = kvops_dtype_size(type);
    const double unit = type == KVOPS_F32 ? 0x1p-23 : type == KVOPS_F16 ? 0x1p-10 : 0x1p-7;
    double most = 0;
    for (int64_t row = 0; row < seqs() * heads; ++row) {
      double top = 0, error = 0;
      for (int64_t d = 0; d < size; ++d) {
        const auto at = size_t((row * size + d) * step);
        const double x = number_of(type, &got[at]), y = number_of(type, &out->h[at]);
        top = std::max(top, std::abs(y)), error = std::max(error, std::abs(x - y));
        if (std::isnan(x) != std::isnan(y)) return HUGE_VAL;
      }
      if (error > 0) most = std::max(most, error / (std::exp2(std::floor(std::log2(top))) * unit));
    }
    return most;
  }
  double lse_distance() {  // after distance()
    auto got = lse->down(stream);
    double most = 0;
    for (size_t i = 0; i < got.size(); ++i)
      if (got[i] != lse->h[i]) most = std::max(most, double(std::abs(got[i] - lse->h[i])));
    return most;
  }
};

}  // namespace test
