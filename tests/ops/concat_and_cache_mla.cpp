// MLA records, read back from their layout alone, and the numbers that the formats promise.
#include <cmath>

#include "core/numeric.h"
#include "ops/tensors.h"

using namespace tests;
using std::vector;

namespace {

using Args = kvops_concat_and_cache_mla_args;

// One entry of one token.
vector<uint8_t> entry_of(const vector<uint16_t>& latent, const vector<uint16_t>& rope,
                         kvops_dtype dtype, int64_t bytes, int64_t format, int64_t rule = 0,
                         int64_t encoding = 0) {
  vector<uint8_t> entry(size_t(bytes), 0xEE);
  const vector<int64_t> zero = {0};
  auto a = make<Args>();
  a.kv_c = tensor(latent, dtype, {1, 512}), a.k_pe = tensor(rope, dtype, {1, 64});
  a.kv_cache = tensor(entry, KVOPS_U8, {1, 1, bytes});
  a.slot_mapping = slots(zero);
  a.format = format, a.scale_rule = rule, a.fp8_encoding = encoding;
  CHECK_OK(kvops_concat_and_cache_mla(&a));
  return entry;
}

template <class T>
T at(const vector<uint8_t>& bytes, size_t offset) {
  T x;
  std::memcpy(&x, &bytes[offset], sizeof x);
  return x;
}

vector<uint8_t> fp8_entry(uint16_t fill, kvops_dtype dtype, int64_t rule, int64_t encoding = 0) {
  vector<uint16_t> latent(512, fill), rope(64, 0x1234);
  for (size_t i = 0; i < latent.size(); i += 2) latent[i] |= 0x8000;
  return entry_of(latent, rope, dtype, 656, KVOPS_FORMAT_FP8_DS_MLA, rule, encoding);
}

}  // namespace

TEST_CASE("fp8_ds_mla: scales of f16 and bf16 tiles") {
  for (auto [dtype, one] : {std::pair{KVOPS_F16, 0x3C00}, {KVOPS_BF16, 0x3F80}}) {
    auto raw = fp8_entry(uint16_t(one), dtype, KVOPS_SCALE_AMAX);
    auto pow2 = fp8_entry(uint16_t(one), dtype, KVOPS_SCALE_POW2);
    for (size_t k = 0; k < 4; ++k) {
      CHECK(at<float>(raw, 512 + 4 * k) == 1.0f / 448);
      CHECK(at<float>(pow2, 512 + 4 * k) == 0x1p-8f);
    }
    for (size_t i = 0; i < 512; ++i) {
      REQUIRE(raw[i] == (i % 2 ? 0x7E : 0xFE));   // +-448
      REQUIRE(pow2[i] == (i % 2 ? 0x78 : 0xF8));  // +-256
    }
    for (size_t i = 0; i < 64; ++i) REQUIRE(at<uint16_t>(raw, 528 + 2 * i) == 0x1234);
    CHECK(at<float>(fp8_entry(uint16_t(one), dtype, KVOPS_SCALE_AMAX, KVOPS_FP8_FNUZ), 512) ==
          1.0f / 224);
  }
}

TEST_CASE("fp8_ds_mla: zero tiles, 336, infinities, NaN") {
  auto pow2 = fp8_entry(0, KVOPS_BF16, KVOPS_SCALE_POW2);
  CHECK(at<uint32_t>(pow2, 512) == 0x39000000);  // 2^-13
  auto raw = fp8_entry(0, KVOPS_BF16, KVOPS_SCALE_AMAX);
  CHECK(at<float>(raw, 512) == 0x1p-126f);
  CHECK(raw[0] == 0x80);  // zeros keep their sign
  CHECK(raw[1] == 0x00);
  CHECK(at<float>(fp8_entry(0x43A8, KVOPS_BF16, KVOPS_SCALE_POW2), 512) == 1.0f);  // 336 / 448
  auto nan = fp8_entry(0x7FC0, KVOPS_BF16, KVOPS_SCALE_AMAX);
  CHECK(at<float>(nan, 512) == 0x1p-126f);
  CHECK(nan[7] == 0x7F);
  vector<uint16_t> latent(512, 0x3F80);
  latent[3] = 0x7F80, latent[4] = 0xBF80;
  auto inf = entry_of(latent, vector<uint16_t>(64), KVOPS_BF16, 656, KVOPS_FORMAT_FP8_DS_MLA,
                      KVOPS_SCALE_AMAX);
  CHECK(std::isinf(at<float>(inf, 512)));
  CHECK(inf[2] == 0x00);
  CHECK(inf[3] == 0x7F);
  CHECK(inf[4] == 0x80);
}

TEST_CASE("fp8_ds_mla: the power of two is exact on both sides of every power") {
  for (int e = -13; e <= 127; ++e)
    for (int ulps = -64; ulps <= 64; ++ulps) {
      const float power = std::ldexp(1.0f, e);
      const float v = kvops::bits_float(kvops::float_bits(power) + uint32_t(ulps));
      int exponent;
      const bool exact = std::frexp(v, &exponent) == 0.5f;
      REQUIRE(kvops::pow2_ceil(v) == std::ldexp(1.0f, exponent - exact));
    }
}

TEST_CASE("fp8_ds_mla: no code is further from its element than half a step") {
  auto latent = random_bf16(512, 4, 3), rope = random_bf16(64, 5);
  for (int64_t rule : {KVOPS_SCALE_POW2, KVOPS_SCALE_AMAX}) {
    auto entry = entry_of(latent, rope, KVOPS_BF16, 656, KVOPS_FORMAT_FP8_DS_MLA, rule);
    for (size_t i = 0; i < 512; ++i) {
      const float s = at<float>(entry, 512 + i / 128 * 4), x = from_bf16(latent[i]);
      const int c = entry[i], exponent = c >> 3 & 15;
      const float y =
          std::ldexp(exponent ? 8.0f + float(c & 7) : float(c & 7), std::max(exponent, 1) - 10) *
          (c & 0x80 ? -s : s);
      // Half a step is 2^-4 of the element, and never less than half the smallest subnormal.
      REQUIRE(std::abs(x - y) <= std::max(std::abs(x) / 16, s * 0x1p-10f) * 1.0001f);
    }
    CHECK(!std::memcmp(&entry[528], rope.data(), 128));
  }
}

TEST_CASE("nvfp4_ds_mla: a reader of the record finds the elements") {
  auto latent = random_bf16(512, 4, 3), rope = random_bf16(64, 5, 20);
  auto entry = entry_of(latent, rope, KVOPS_BF16, 352, KVOPS_FORMAT_NVFP4_DS_MLA);
  static const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  double error2 = 0, x2 = 0;
  for (size_t i = 0; i < 512; ++i) {
    const size_t g = i / 16;
    const kvops::f8_e4m3 scale = {entry[320 + 8 * (g % 4) + g / 4]};
    const int code = i % 2 ? entry[i / 2] >> 4 : entry[i / 2] & 15;
    const float s = kvops::decode(scale), x = from_bf16(latent[i]);
    const float y = (code & 8 ? -values[code & 7] : values[code & 7]) * s;
    REQUIRE(std::abs(x) <= 6 * s);           // scales are rounded up: nothing saturates
    REQUIRE(std::abs(x - y) <= s * 1.001f);  // the widest step is 2
    error2 += (x - y) * (x - y), x2 += x * x;
  }
  CHECK(std::sqrt(error2 / x2) < 0.12);
  for (size_t i = 0; i < 64; ++i)
    CHECK(entry[256 + i] == kvops::encode<kvops::f8_e4m3>(from_bf16(rope[i])).bits);
}

TEST_CASE("nvfp4_ds_mla: vectors equal the scalar arithmetic on any bits") {
  on_every_isa([&] {
    for (unsigned seed = 0; seed < 40; ++seed) {
      auto latent = random_bits<uint16_t>(512, seed), rope = random_bits<uint16_t>(64, seed + 99);
      if (seed % 2) latent = random_bf16(512, seed, std::ldexp(1.0f, int(seed) - 20));
      auto entry = entry_of(latent, rope, KVOPS_BF16, 352, KVOPS_FORMAT_NVFP4_DS_MLA);
      for (size_t g = 0; g < 32; ++g) {
        float amax = 0;
        for (size_t i = 0; i < 16; ++i)
          amax = kvops::max_number(amax, kvops::magnitude(from_bf16(latent[16 * g + i])));
        auto scale = kvops::nvfp4_ds_mla_scale(amax);
        REQUIRE(entry[320 + 8 * (g % 4) + g / 4] == scale.bits);
        for (size_t i = 0; i < 16; ++i) {
          const float x = from_bf16(latent[16 * g + i]);
          const int code = kvops::encode_e2m1(x * (1 / kvops::decode(scale)));
          REQUIRE((entry[8 * g + i / 2] >> i % 2 * 4 & 15) == code);
        }
      }
    }
  });
}

TEST_CASE("concat_and_cache_mla: entries of a longer pitch keep what is between them") {
  const int64_t latent = 33, rope = 7, pitch = 55, blocks = 3, block = 4;
  auto c = random_bits<uint16_t>(5 * 40 + 1, 1), p = random_bits<uint16_t>(5 * 9, 2);
  vector<uint16_t> cache(size_t(blocks * (block * pitch + 3)), 0xBEEF);
  auto expected = cache;
  const vector<int64_t> slot = {11, -7, 0, 5, 4};
  auto a = make<Args>();
  a.kv_c = tensor(const_cast<uint16_t*>(&c[1]), KVOPS_BF16, {5, latent}, {40, 1});
  a.k_pe = tensor(p, KVOPS_BF16, {5, rope}, {9, 1});
  a.kv_cache =
      tensor(cache, KVOPS_BF16, {blocks, block, latent + rope}, {block * pitch + 3, pitch, 1});
  a.slot_mapping = slots(slot);
  for (size_t t = 0; t < 5; ++t) {
    if (slot[t] < 0) continue;
    auto at = size_t(slot[t] / block * (block * pitch + 3) + slot[t] % block * pitch);
    std::memcpy(&expected[at], &c[1 + 40 * t], 66);
    std::memcpy(&expected[at + 33], &p[9 * t], 14);
  }
  CHECK_OK(kvops_concat_and_cache_mla(&a));
  CHECK((cache == expected));
}
