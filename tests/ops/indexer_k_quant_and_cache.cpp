// The indexer's cache, read back from its layout alone: where codes and scales lie, which bytes
// they are for every dtype, group and rule, and that nothing else is touched.
#include <algorithm>
#include <cmath>

#include "core/numeric.h"
#include "ops/rows.h"

using namespace tests;
using kvops::bf16;
using kvops::f16;
using std::vector;

namespace {

using Args = kvops_indexer_k_quant_and_cache_args;

// The header's formula, one element after the other.
template <class T>
vector<uint8_t> group_of(const T* x, int64_t q, int64_t rule, bool fnuz, float* scale) {
  float amax = 0;
  for (int64_t i = 0; i < q; ++i) amax = kvops::max_number(amax, std::fabs(to_float(x[i])));
  *scale = std::max(amax, 1e-4f) / (fnuz ? 224.0f : 448.0f);
  if (rule == KVOPS_SCALE_POW2 && std::isfinite(*scale)) {
    int exponent = 0;
    const bool exact = std::frexp(*scale, &exponent) == 0.5f;
    *scale = std::ldexp(1.0f, exponent - exact);
  }
  vector<uint8_t> codes;
  for (int64_t i = 0; i < q; ++i) {
    const float y = to_float(x[i]) / *scale;
    codes.push_back(fnuz ? kvops::encode<kvops::f8_e4m3fnuz>(y).bits
                         : kvops::encode<kvops::f8_e4m3>(y).bits);
  }
  return codes;
}

struct Kind {
  int64_t d, q, rule, encoding;
};

template <class T>
Args args_of(Matrix<T>& k, const vector<int64_t>& slot, const Kind& kind) {
  auto a = make<Args>();
  a.k = k.tensor(), a.slot_mapping = slots(slot);
  a.quant_block_size = kind.q, a.scale_rule = kind.rule, a.fp8_encoding = kind.encoding;
  return a;
}

// Blocks of 3 whose stride has 11 bytes more than they need, after a guard of 5.
template <class T>
void check_bytes(const Kind& kind) {
  constexpr int64_t kRows = 7, kBlock = 3, kBlocks = 4;
  const int64_t entry = kind.d + 4 * kind.d / kind.q, stride = kBlock * entry + 11;
  auto k = Matrix<T>(kRows, kind.d, 1, kind.d + 9).randomize(unsigned(kind.d + kind.q));
  for (int64_t i = 0; i < kind.d; i += 2)
    k.row(3)[i] = from_float<T>(0), k.row(3)[i + 1] = from_float<T>(-0.0f);
  k.row(4)[1] = from_float<T>(NAN), k.row(5)[2] = from_float<T>(INFINITY);
  k.row(6)[0] = from_float<T>(30000);
  const vector<int64_t> slot = {11, -3, 0, 5, 4, 7, 9};
  vector<uint8_t> cache(size_t(5 + kBlocks * stride), 0xA5), want = cache;
  for (int64_t t = 0; t < kRows; ++t) {
    if (slot[size_t(t)] < 0) continue;
    const int64_t b = slot[size_t(t)] / kBlock, o = slot[size_t(t)] % kBlock;
    uint8_t* block = &want[size_t(5 + b * stride)];
    for (int64_t g = 0; g < kind.d / kind.q; ++g) {
      float scale = 0;
      auto codes = group_of(k.row(t) + g * kind.q, kind.q, kind.rule, kind.encoding, &scale);
      std::copy(codes.begin(), codes.end(), block + o * kind.d + g * kind.q);
      std::memcpy(block + kBlock * kind.d + 4 * (o * kind.d / kind.q + g), &scale, 4);
    }
  }
  auto a = args_of(k, slot, kind);
  a.kv_cache = tensor(&cache[5], KVOPS_U8, {kBlocks, kBlock, entry}, {stride, entry, 1});
  CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
  INFO("d " << kind.d << " q " << kind.q << " rule " << kind.rule << " " << kind.encoding);
  CHECK((cache == want));
}

}  // namespace

TEMPLATE_TEST_CASE("indexer keys: every byte, for any group, rule, encoding and stride",
                   "[indexer]", float, f16, bf16) {
  on_every_isa([] {
    for (int64_t rule : {KVOPS_SCALE_POW2, KVOPS_SCALE_AMAX})
      for (int64_t encoding : {KVOPS_FP8_OCP, KVOPS_FP8_FNUZ})
        for (auto [d, q] :
             {std::pair{128, 128}, {256, 128}, {32, 32}, {64, 16}, {96, 12}, {20, 4}, {44, 44}})
          check_bytes<TestType>({d, q, rule, encoding});
  });
}

// A group's first element is its largest; the others are all smaller bf16, of either sign.
TEST_CASE("indexer keys: every bf16 below the largest of its group", "[indexer]") {
  constexpr int64_t kSize = 128;
  for (float most : {1.75f, 1.0f, 448.0f, 3e38f, 0x1p-10f, 2e-5f})
    for (int64_t encoding : {KVOPS_FP8_OCP, KVOPS_FP8_FNUZ}) {
      const uint16_t top = from_float<bf16>(most).bits;
      const int64_t rows = 2 * top / (kSize - 1) + 1;
      auto k = Matrix<bf16>(rows, kSize);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < kSize; ++i) {
          const int64_t n = std::min<int64_t>(r * (kSize - 1) + i - 1, 2 * top - 1);
          k.row(r)[i] = {i ? uint16_t(n / 2 | (n % 2 ? 0x8000 : 0)) : top};
        }
      vector<int64_t> slot;
      for (int64_t r = 0; r < rows; ++r) slot.push_back(r);
      vector<uint8_t> cache(size_t(rows * 132));
      auto a = args_of(k, slot, {kSize, kSize, KVOPS_SCALE_POW2, encoding});
      a.kv_cache = tensor(cache, KVOPS_U8, {rows, 1, 132});
      on_every_isa([&] {
        CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
        bool right = true;
        for (int64_t r = 0; r < rows; ++r) {
          float scale = 0;
          auto want = group_of(k.row(r), kSize, KVOPS_SCALE_POW2, encoding != 0, &scale);
          right &= std::equal(want.begin(), want.end(), cache.begin() + r * 132) &&
                   !std::memcmp(&cache[size_t(r * 132 + 128)], &scale, 4);
        }
        CHECK(right);
      });
    }
}

TEST_CASE("indexer keys: codes and scales of a slot lie where the layout says", "[indexer]") {
  struct {
    int64_t block, slot, code, scale;
  } const known[] = {{64, 70, 9216, 16664}, {4, 5, 656, 1044}};
  for (auto& at : known) {
    auto k = Matrix<bf16>(1, 128);
    std::fill(k.row(0), k.row(0) + 128, from_float<bf16>(1.75f));
    vector<uint8_t> cache(size_t(3 * at.block * 132), 0xEE);
    const vector<int64_t> slot = {at.slot};
    auto a = args_of(k, slot, {128, 128, KVOPS_SCALE_POW2, KVOPS_FP8_OCP});
    a.kv_cache = tensor(cache, KVOPS_U8, {3, at.block, 132});
    CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
    float scale = 0;
    std::memcpy(&scale, &cache[size_t(at.scale)], 4);
    CHECK(scale == 0x1p-8f);  // 1.75 / 448, a power of two as it is
    CHECK(cache[size_t(at.code)] == 0x7E);
    CHECK(std::count(cache.begin(), cache.end(), 0xEE) == int64_t(cache.size()) - 132);
  }
}

TEST_CASE("indexer keys: zeros have scale 2^-22, NaN counts for nothing", "[indexer]") {
  for (float x : {0.0f, NAN}) {
    auto k = Matrix<bf16>(1, 128);
    std::fill(k.row(0), k.row(0) + 128, from_float<bf16>(x));
    vector<uint8_t> cache(132);
    const vector<int64_t> slot = {0};
    for (int64_t rule : {KVOPS_SCALE_POW2, KVOPS_SCALE_AMAX}) {
      auto a = args_of(k, slot, {128, 128, rule, KVOPS_FP8_OCP});
      a.kv_cache = tensor(cache, KVOPS_U8, {1, 1, 132});
      CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
      float scale = 0;
      std::memcpy(&scale, &cache[128], 4);
      CHECK(scale == (rule == KVOPS_SCALE_POW2 ? 0x1p-22f : 1e-4f / 448));
      CHECK(cache[17] == (std::isnan(x) ? 0x7F : 0));
    }
  }
}

TEST_CASE("indexer keys: decoded, a key is off by at most 16 scales", "[indexer]") {
  for (int64_t block : {16, 64})
    for (int64_t rows : {1, 4, 8, 17}) {
      auto k = Matrix<bf16>(rows, 128).randomize(unsigned(rows));
      vector<uint8_t> cache(size_t(2 * block * 132));
      vector<int64_t> slot;
      for (int64_t t = 0; t < rows; ++t) slot.push_back(2 * block - 1 - t);
      auto a = args_of(k, slot, {128, 128, KVOPS_SCALE_POW2, KVOPS_FP8_OCP});
      a.kv_cache = tensor(cache, KVOPS_U8, {2, block, 132});
      CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
      for (int64_t t = 0; t < rows; ++t) {
        const int64_t b = slot[size_t(t)] / block, o = slot[size_t(t)] % block;
        const uint8_t* base = &cache[size_t(b * block * 132)];
        float scale = 0;
        std::memcpy(&scale, base + block * 128 + 4 * o, 4);
        for (int64_t i = 0; i < 128; ++i) {
          const float y = kvops::decode(kvops::f8_e4m3{base[o * 128 + i]}) * scale;
          REQUIRE(std::fabs(y - to_float(k.row(t)[i])) <= 16 * scale);
        }
      }
    }
}

TEST_CASE("indexer keys: bad slots are counted, the shorter of rows and slots rules", "[indexer]") {
  auto k = Matrix<bf16>(5, 128).randomize(1);
  vector<uint8_t> memory(64 + 6 * 132 + 64, 0xEE);
  const vector<int64_t> slot = {-1, 5, 6, int64_t{1} << 40, -(int64_t{1} << 40), 0, 1, 99};
  int64_t faults = 40;
  auto a = args_of(k, slot, {128, 128, KVOPS_SCALE_POW2, KVOPS_FP8_OCP});
  a.kv_cache = tensor(&memory[64], KVOPS_U8, {2, 3, 132});
  a.faults = tensor(&faults, KVOPS_I64, {1});
  CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
  CHECK(faults == 42);
  auto ours = [](uint8_t b) { return b != 0xEE; };
  auto block = memory.begin() + 64 + 3 * 132;
  CHECK(std::all_of(block + 2 * 128, block + 3 * 128, ours));
  CHECK(std::count_if(memory.begin(), memory.end(), ours) == 132);
  a.slot_mapping = tensor(slot, KVOPS_I64, {2});  // one token: rows past the slots are not read
  CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
  CHECK(faults == 42);
}

TEST_CASE("sparse: indexer_k_quant_and_cache") {
  constexpr int64_t kFar = (int64_t{1} << 32) + 4096;
  Sparse k(size_t(2 * (kFar + 4096))), cache(size_t(2 * kFar + 4096));
  for (int64_t t : {0, 1}) k.at<uint16_t>(t * kFar + 127) = uint16_t(0x3F80 + 0x80 * t);
  const vector<int64_t> slot = {5, 1};
  auto a = make<Args>();
  a.k = tensor(k.data, KVOPS_BF16, {2, 128}, {kFar, 1});
  a.kv_cache = tensor(cache.data, KVOPS_U8, {3, 2, 132}, {kFar, 132, 1});
  a.slot_mapping = slots(slot), a.quant_block_size = 128;
  CHECK_OK(kvops_indexer_k_quant_and_cache(&a));
  CHECK(cache.at<uint8_t>(2 * kFar + 255) == 0x78);  // 1 / 2^-8
  CHECK(cache.at<uint8_t>(255) == 0x78);             // 2 / 2^-7
  float scale = 0;
  std::memcpy(&scale, &cache.at<uint8_t>(260), 4);
  CHECK(scale == 0x1p-7f);
  CHECK(cache.pages() == 2);
}
