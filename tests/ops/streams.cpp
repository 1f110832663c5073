// Results that do not stay in the last cache go past it: the same bytes as if they stayed, on every
// instruction set.
#include "cpu/stream.h"
#include "ops/tensors.h"

using namespace tests;
using std::vector;

namespace {

struct LastCache {
  explicit LastCache(int64_t bytes) { kvops::cpu::pretend_last_cache(bytes); }
  ~LastCache() { kvops::cpu::pretend_last_cache(0); }
};

// Bytes that begin a line.
struct Lines {
  vector<uint8_t> bytes;
  size_t first, size;
  explicit Lines(size_t n) : bytes(n + 64, 0xA5), size(n) {
    first = size_t(-reinterpret_cast<uintptr_t>(bytes.data()) % 64);
  }
  uint8_t* data() { return bytes.data() + first; }
  bool operator==(const Lines& other) const {
    return !std::memcmp(bytes.data() + first, other.bytes.data() + other.first, size);
  }
};

// call(result) writes n bytes; small and large calls must agree.
template <class F>
void check_both_ways(size_t n, F&& call) {
  on_every_isa([&] {
    Lines kept(n), streamed(n);
    call(kept.data());
    const LastCache tiny(1);
    call(streamed.data());
    CHECK(kept == streamed);
  });
}

const kvops_dtype kCaches[] = {KVOPS_BF16, KVOPS_F8_E4M3, KVOPS_F8_E5M2, KVOPS_F8_E4M3FNUZ,
                               KVOPS_F8_E5M2FNUZ};
size_t size_of(kvops_dtype dtype) { return dtype == KVOPS_BF16 ? 2 : 1; }

// A power of two, one that keeps quotients apart, one that takes some to the middle.
const float kScales[] = {0.5f, 0.0371f, 0.1f};

const vector<int64_t> kSlots = {7, 0, -1, 5, 3, 11, 2};
constexpr int64_t kTokens = 7, kBlocks = 3, kBlock = 4;

}  // namespace

TEST_CASE("streams: conversions to and from fp8 past the caches") {
  const int64_t n = 2 * 1234;
  const auto halves = random_bf16(size_t(n), 1, 3);
  const auto codes = random_bits<uint8_t>(size_t(n), 2);
  for (auto narrow : kCaches) {
    if (narrow == KVOPS_BF16) continue;
    for (float scale : kScales) {
      auto a = make<kvops_convert_fp8_args>();
      a.scale = double(scale);
      check_both_ways(size_t(n), [&](uint8_t* to) {
        a.src = tensor(halves, KVOPS_BF16, {n}), a.dst = tensor(to, narrow, {n});
        CHECK_OK(kvops_convert_fp8(&a));
      });
      check_both_ways(size_t(4 * n), [&](uint8_t* to) {
        a.src = tensor(codes, narrow, {n}), a.dst = tensor(to, KVOPS_F32, {n});
        CHECK_OK(kvops_convert_fp8(&a));
      });
      check_both_ways(size_t(2 * n), [&](uint8_t* to) {
        a.src = tensor(codes, narrow, {n}), a.dst = tensor(to, KVOPS_BF16, {n});
        CHECK_OK(kvops_convert_fp8(&a));
      });
    }
  }
}

TEST_CASE("streams: rows of keys and values past the caches") {
  const auto rows = random_bf16(kTokens * 2 * 64, 3, 3);
  for (auto cache : kCaches)
    for (float scale : kScales) {
      const size_t side = kBlocks * kBlock * 128 * size_of(cache);
      check_both_ways(2 * side, [&](uint8_t* to) {
        auto a = make<kvops_reshape_and_cache_flash_args>();
        a.key = a.value = tensor(rows, KVOPS_BF16, {kTokens, 2, 64});
        a.key_cache = tensor(to, cache, {kBlocks, kBlock, 2, 64});
        a.value_cache = tensor(to + side, cache, {kBlocks, kBlock, 2, 64});
        a.slot_mapping = slots(kSlots);
        a.k_scale = a.v_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {});
        CHECK_OK(kvops_reshape_and_cache_flash(&a));
      });
    }
}

TEST_CASE("streams: entries of latents past the caches") {
  const auto latent = random_bf16(kTokens * 128, 4, 3), rope = random_bf16(kTokens * 64, 5);
  for (auto cache : kCaches)
    for (float scale : kScales)
      check_both_ways(kBlocks * kBlock * 192 * size_of(cache), [&](uint8_t* to) {
        auto a = make<kvops_concat_and_cache_mla_args>();
        a.kv_c = tensor(latent, KVOPS_BF16, {kTokens, 128});
        a.k_pe = tensor(rope, KVOPS_BF16, {kTokens, 64});
        a.kv_cache = tensor(to, cache, {kBlocks, kBlock, 192});
        a.slot_mapping = slots(kSlots);
        a.kv_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {});
        CHECK_OK(kvops_concat_and_cache_mla(&a));
      });
}

TEST_CASE("streams: records of latents past the caches") {
  const auto latent = random_bf16(kTokens * 512, 7, 3), rope = random_bf16(kTokens * 64, 8);
  for (int64_t encoding : {KVOPS_FP8_OCP, KVOPS_FP8_FNUZ})
    check_both_ways(kBlocks * kBlock * 656, [&](uint8_t* to) {
      auto a = make<kvops_concat_and_cache_mla_args>();
      a.kv_c = tensor(latent, KVOPS_BF16, {kTokens, 512});
      a.k_pe = tensor(rope, KVOPS_BF16, {kTokens, 64});
      a.kv_cache = tensor(to, KVOPS_U8, {kBlocks, kBlock, 656});
      a.slot_mapping = slots(kSlots);
      a.format = KVOPS_FORMAT_FP8_DS_MLA, a.fp8_encoding = encoding;
      CHECK_OK(kvops_concat_and_cache_mla(&a));
    });
}

TEST_CASE("streams: entries of several layers past the caches") {
  constexpr int64_t kLayers = 2;
  const auto latent = random_bf16(kLayers * kTokens * 512, 9, 3);
  const auto rope = random_bf16(kLayers * kTokens * 64, 10);
  const vector<float> scales = {0.1f, 0.5f};
  vector<int64_t> both = kSlots;
  both.insert(both.end(), kSlots.rbegin(), kSlots.rend());
  struct Entry {
    kvops_dtype dtype;
    int64_t format, stride;  // of entries, in bytes
    bool scaled;
  };
  // Whole lines; records that begin anywhere; entries that do not begin lines.
  for (const Entry& e : {Entry{KVOPS_F8_E4M3, KVOPS_FORMAT_PLAIN, 576, true},
                         Entry{KVOPS_U8, KVOPS_FORMAT_FP8_DS_MLA, 699, false},
                         Entry{KVOPS_F8_E4M3, KVOPS_FORMAT_PLAIN, 577, true}})
    check_both_ways(size_t(kLayers * kBlocks * kBlock * e.stride), [&](uint8_t* to) {
      auto a = make<kvops_concat_and_cache_mla_grouped_args>();
      const int64_t layer = kBlocks * kBlock * e.stride;
      const auto address = int64_t(reinterpret_cast<uintptr_t>(to));
      const vector<int64_t> caches = {address, address + layer};
      a.kv_c = tensor(latent, KVOPS_BF16, {kLayers, kTokens, 512});
      a.k_pe = tensor(rope, KVOPS_BF16, {kLayers, kTokens, 64});
      a.kv_cache_ptrs = tensor(caches, KVOPS_I64, {kLayers});
      a.slot_mapping = tensor(both, KVOPS_I64, {kLayers, kTokens});
      if (e.scaled) a.kv_scales = tensor(scales, KVOPS_F32, {kLayers});
      a.cache_dtype = e.dtype, a.format = e.format, a.num_blocks = kBlocks, a.block_size = kBlock;
      a.block_stride = kBlock * e.stride, a.entry_stride = e.stride;
      CHECK_OK(kvops_concat_and_cache_mla_grouped(&a));
    });
}

TEST_CASE("streams: int8 codes and norms past the caches") {
  const int64_t n = 5, d = 192;
  const auto rows = random_bf16(size_t(n * d), 6);
  const vector<float> weight(size_t(d), 1.5f);
  vector<float> scales(size_t(n), 0.03f);
  check_both_ways(size_t(n * d), [&](uint8_t* to) {
    auto a = make<kvops_dynamic_scaled_int8_quant_args>();
    a.input = tensor(rows, KVOPS_BF16, {n, d}), a.out = tensor(to, KVOPS_I8, {n, d});
    a.scale = tensor(scales, KVOPS_F32, {n, 1});
    CHECK_OK(kvops_dynamic_scaled_int8_quant(&a));
  });
  check_both_ways(size_t(n * d), [&](uint8_t* to) {
    auto a = make<kvops_static_scaled_int8_quant_args>();
    a.input = tensor(rows, KVOPS_BF16, {n, d}), a.out = tensor(to, KVOPS_I8, {n, d});
    a.scale = tensor(scales, KVOPS_F32, {1});
    CHECK_OK(kvops_static_scaled_int8_quant(&a));
  });
  check_both_ways(size_t(2 * n * d), [&](uint8_t* to) {
    auto a = make<kvops_rms_norm_args>();
    a.input = tensor(rows, KVOPS_BF16, {n, d}), a.out = tensor(to, KVOPS_BF16, {n, d});
    a.weight = tensor(weight, KVOPS_F32, {d}), a.epsilon = 1e-6;
    CHECK_OK(kvops_rms_norm(&a));
  });
}
