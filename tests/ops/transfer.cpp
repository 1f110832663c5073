// convert_fp8 on all inputs against the definition of the codes; swap_blocks and its batch:
// merging, order, errors, many copies.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/copies.h"
#include "core/numeric.h"
#include "cpu/convert.h"
#include "ops/tensors.h"

using namespace tests;
using std::vector;

namespace {

struct Format {
  kvops_dtype dtype;
  int mantissa, bias;
  double largest;
  int largest_code, nan_code;
  bool fnuz;
};
constexpr Format kFormats[] = {{KVOPS_F8_E4M3, 3, 7, 448, 0x7E, 0x7F, false},
                               {KVOPS_F8_E5M2, 2, 15, 57344, 0x7B, 0x7F, false},
                               {KVOPS_F8_E4M3FNUZ, 3, 8, 240, 0x7F, 0x80, true},
                               {KVOPS_F8_E5M2FNUZ, 2, 16, 57344, 0x7F, 0x80, true}};

// The definition: y to the nearest multiple of its binade's step, ties to even.
uint8_t code_of(float y, const Format& f) {
  const double m = std::abs(double(y));
  if (std::isnan(y) || (f.fnuz && std::isinf(y))) return uint8_t(f.nan_code);
  const int sign = std::signbit(y) ? 0x80 : 0;
  if (m >= f.largest) return uint8_t(sign | f.largest_code);
  int code;
  if (m < std::ldexp(1.0, 1 - f.bias)) {
    code = int(std::nearbyint(std::ldexp(m, f.mantissa + f.bias - 1)));
  } else {
    const int e = std::ilogb(m);
    code = ((e + f.bias) << f.mantissa) + int(std::nearbyint(std::ldexp(m, f.mantissa - e))) -
           (1 << f.mantissa);
  }
  return uint8_t(f.fnuz && !code ? 0 : sign | code);
}

double value_of(uint8_t code, const Format& f) {
  const int m = code & 0x7F, exponent = m >> f.mantissa, low = m & ((1 << f.mantissa) - 1);
  if (f.fnuz ? code == 0x80 : m > f.largest_code)
    return !f.fnuz && f.mantissa == 2 && m == 0x7C ? (code & 0x80 ? -INFINITY : INFINITY) : NAN;
  const double v = std::ldexp(double(low + (exponent ? 1 << f.mantissa : 0)),
                              std::max(exponent, 1) - f.bias - f.mantissa);
  return code & 0x80 ? -v : v;
}

constexpr double kScales[] = {1, 0.1, 7.0 / 128, 1.0 / 3};

kvops_status convert(const kvops_tensor& src, const kvops_tensor& dst, double scale) {
  auto a = make<kvops_convert_fp8_args>();
  a.src = src, a.dst = dst, a.scale = scale;
  return kvops_convert_fp8(&a);
}

template <class T>
void check_all_inputs(kvops_dtype dtype) {
  vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = uint16_t(i);
  for (auto& f : kFormats)
    for (double scale : kScales) {
      vector<uint8_t> expected(all.size()), codes(all.size());
      for (size_t i = 0; i < all.size(); ++i)
        expected[i] = code_of(kvops::cpu::to_float(T{all[i]}) / float(scale), f);
      on_every_isa([&] {
        CHECK_OK(convert(tensor(all, dtype, {65536}), tensor(codes, f.dtype, {65536}), scale));
        CHECK((codes == expected));
      });
    }
}

template <class T, class U>
void check_all_codes(kvops_dtype dtype) {
  vector<uint8_t> all(256);
  for (size_t i = 0; i < all.size(); ++i) all[i] = uint8_t(i);
  for (auto& f : kFormats)
    for (double scale : kScales)
      on_every_isa([&] {
        vector<U> out(256);
        CHECK_OK(convert(tensor(all, f.dtype, {256}), tensor(out, dtype, {256}), scale));
        for (size_t i = 0; i < 256; ++i) {
          const float product = float(value_of(uint8_t(i), f)) * float(scale);
          const T expected = kvops::cpu::from_float<T>(product);
          T got;
          std::memcpy(&got, &out[i], sizeof got);
          if (std::isnan(product))
            REQUIRE(std::isnan(kvops::cpu::to_float(got)));
          else
            REQUIRE(!std::memcmp(&got, &expected, sizeof got));
        }
      });
}

vector<kvops::Copy> merged(const kvops_swap_blocks_args& a) {
  vector<kvops::Copy> copies;
  kvops::for_each_merged(a, a.block_mapping.shape[0], [&](kvops::Copy c) { copies.push_back(c); });
  return copies;
}

kvops_swap_blocks_args swap(vector<uint8_t>& src, vector<uint8_t>& dst,
                            const vector<int64_t>& pairs, int64_t block) {
  auto a = make<kvops_swap_blocks_args>();
  a.src = tensor(src, KVOPS_U8, {int64_t(src.size())});
  a.dst = tensor(dst, KVOPS_U8, {int64_t(dst.size())});
  a.block_mapping = tensor(pairs, KVOPS_I64, {int64_t(pairs.size()) / 2, 2});
  a.block_size_in_bytes = block;
  return a;
}

int64_t failing_element() {
  kvops_error e = {};
  e.struct_size = sizeof e;
  REQUIRE(kvops_get_error(&e) == KVOPS_OK);
  return e.element;
}

}  // namespace

TEST_CASE("convert_fp8: all 65,536 f16, every format, scale and target") {
  check_all_inputs<kvops::f16>(KVOPS_F16);
}

TEST_CASE("convert_fp8: all 65,536 bf16, every format, scale and target") {
  check_all_inputs<kvops::bf16>(KVOPS_BF16);
}

TEST_CASE("convert_fp8: all 256 codes to every float") {
  check_all_codes<float, uint32_t>(KVOPS_F32);
  check_all_codes<kvops::f16, uint16_t>(KVOPS_F16);
  check_all_codes<kvops::bf16, uint16_t>(KVOPS_BF16);
}

TEST_CASE("convert_fp8: 2^26 f32 patterns", "[slow]") {
  static const uint32_t low[] = {0x00, 0x01, 0x80, 0xFF};
  vector<float> x(1 << 20);
  vector<uint8_t> codes(x.size());
  for (auto& f : {kFormats[0], kFormats[1]})
    for (uint32_t part = 0; part < 64; ++part) {
      for (uint32_t i = 0; i < x.size(); ++i) {
        const uint32_t bits = (part << 18 | i >> 2) << 8 | low[i & 3];
        std::memcpy(&x[i], &bits, 4);
      }
      CHECK_OK(convert(tensor(x, KVOPS_F32, {1 << 20}), tensor(codes, f.dtype, {1 << 20}), 1));
      size_t wrong = 0;
      for (size_t i = 0; i < x.size(); ++i) wrong += codes[i] != code_of(x[i], f);
      REQUIRE(wrong == 0);
    }
}

TEST_CASE("convert_fp8: any strides, repeated sources, nothing at all") {
  auto x = random_bf16(4096, 1, 10);
  vector<uint8_t> dense(60), spread(4096, 0xEE), all(60);
  const Extents shape = {3, 4, 5};
  auto reference = [&](const Extents& stride) {
    for (int64_t i = 0; i < 60; ++i) {
      const int64_t at = i / 20 * stride[0] + i / 5 % 4 * stride[1] + i % 5 * stride[2] + 2000;
      all[size_t(i)] = code_of(from_bf16(x[size_t(at)]) / 0.25f, kFormats[0]);
    }
  };
  for (const Extents& stride : vector<Extents>{
           {20, 5, 1}, {1, 3, 12}, {0, 5, 1}, {0, 0, 0}, {-20, 7, -1}, {500, 0, 3}, {4, 1, 12}}) {
    reference(stride);
    auto src = tensor(&x[2000], KVOPS_BF16, shape, stride);
    CHECK_OK(convert(src, tensor(dense, KVOPS_F8_E4M3, shape), 0.25));
    CHECK((dense == all));
    for (const Extents& to :
         vector<Extents>{{100, 20, 3}, {1, 3, 12}, {-100, 5, 1}, {7, 200, 30}}) {
      std::fill(spread.begin(), spread.end(), 0xEE);
      CHECK_OK(convert(src, tensor(&spread[1000], KVOPS_F8_E4M3, shape, to), 0.25));
      size_t untouched = 0;
      for (auto b : spread) untouched += b == 0xEE;
      for (int64_t i = 0; i < 60; ++i) {
        auto& code = spread[size_t(1000 + i / 20 * to[0] + i / 5 % 4 * to[1] + i % 5 * to[2])];
        REQUIRE(code == all[size_t(i)]);
        untouched += code == 0xEE;
      }
      CHECK(untouched == spread.size() - 60 + 2 * size_t(std::count(all.begin(), all.end(), 0xEE)));
    }
  }
  CHECK_OK(convert(tensor(nullptr, KVOPS_F32, {0, 4}), tensor(nullptr, KVOPS_F8_E4M3, {0, 4}), 1));
}

TEST_CASE("swap_blocks: consecutive pairs are one copy") {
  vector<uint8_t> src(256 * 48), dst(300 * 48);
  vector<int64_t> pairs;
  for (int64_t i = 0; i < 256; ++i) pairs.insert(pairs.end(), {i, i + 7});
  auto a = swap(src, dst, pairs, 48);
  auto copies = merged(a);
  REQUIRE(copies.size() == 1);
  CHECK(copies[0].bytes == 256 * 48);
  std::swap(pairs[100], pairs[102]);
  CHECK(merged(a).size() == 4);
  pairs = {5, 5, 6, 6, 7, 7};
  a = swap(dst, dst, pairs, 48);
  CHECK(merged(a).empty());  // onto themselves
}

TEST_CASE("swap_blocks: chains in one tensor take effect in order") {
  for (int64_t shift : {1, 2, 5, -1, -3}) {
    vector<int64_t> pairs;
    for (int64_t i = 0; i < 40; ++i) {
      const int64_t from = shift > 0 ? i : 49 - i;
      pairs.insert(pairs.end(), {from, from + shift, i, i % 7});
    }
    if (shift % 2)  // one direction alone: the pairs continue each other
      for (size_t i = 0; i < pairs.size(); i += 4) pairs[i + 2] = pairs[i + 3] = 0;
    auto memory = random_bits<uint8_t>(50 * 24, 5), expected = memory;
    for (size_t i = 0; i < pairs.size(); i += 2)
      std::memmove(&expected[size_t(pairs[i + 1] * 24)], &expected[size_t(pairs[i] * 24)], 24);
    auto a = swap(memory, memory, pairs, 24);
    CHECK_OK(kvops_swap_blocks(&a));
    CHECK((memory == expected));
  }
}

TEST_CASE("swap_blocks: src and dst may overlap by part of a block") {
  auto memory = random_bits<uint8_t>(50 * 24, 5), expected = memory;
  vector<int64_t> pairs = {0, 1, 1, 2, 2, 3, 9, 8, 8, 7};
  auto a = swap(memory, memory, pairs, 24);
  a.dst.data = &memory[10], a.dst.shape[0] -= 10;
  for (size_t i = 0; i < pairs.size(); i += 2)
    std::memmove(&expected[size_t(pairs[i + 1] * 24 + 10)], &expected[size_t(pairs[i] * 24)], 24);
  CHECK_OK(kvops_swap_blocks(&a));
  CHECK((memory == expected));
}

TEST_CASE("swap_blocks: the last of many writers of a block wins") {
  auto src = random_bits<uint8_t>(1000 * 4096, 1);
  vector<uint8_t> dst(7 * 4096);
  vector<int64_t> pairs;
  for (int64_t i = 0; i < 1000; ++i) pairs.insert(pairs.end(), {i, i % 7});
  auto a = swap(src, dst, pairs, 4096);
  CHECK_OK(kvops_swap_blocks(&a));
  for (int64_t b = 0; b < 7; ++b)
    CHECK(!std::memcmp(&dst[size_t(b * 4096)], &src[size_t((999 - (999 - b) % 7) * 4096)], 4096));
}

TEST_CASE("swap_blocks: a bad pair is named, and nothing is copied") {
  vector<uint8_t> src(10 * 16 + 15, 1), dst(8 * 16, 2);
  const auto untouched = dst;
  for (auto [element, from, to] : {std::array<int64_t, 3>{3, 10, 0},
                                   {0, -1, 0},
                                   {4, 0, 8},
                                   {2, 0, -1},
                                   {1, INT64_MAX, 0},
                                   {1, 0, INT64_MIN}}) {
    vector<int64_t> pairs = {0, 0, 1, 1, 2, 2, 3, 3, 9, 7};
    pairs[size_t(2 * element)] = from, pairs[size_t(2 * element + 1)] = to;
    auto a = swap(src, dst, pairs, 16);
    CHECK(kvops_swap_blocks(&a) == KVOPS_INVALID_ARGUMENT);
    CHECK(failing_element() == element);
    CHECK((dst == untouched));
  }
  // A tensor with gaps spans what its strides reach; block_mapping may have strides of its own.
  vector<int64_t> spread = {9, -5, 7, -5, 0, -5, 0, -5};
  auto a = swap(src, dst, spread, 16);
  a.src = tensor(src, KVOPS_U8, {2, 4}, {171, 1});
  a.block_mapping = tensor(spread, KVOPS_I64, {2, 2}, {4, 2});
  CHECK_OK(kvops_swap_blocks(&a));
  CHECK(dst[7 * 16] == 1);
  spread[0] = 10;
  CHECK(kvops_swap_blocks(&a) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("swap_blocks_batch: 100,000 copies, merged where they continue each other") {
  auto src = random_bits<uint8_t>(100000 * 9, 1);
  vector<uint8_t> dst(src.size()), expected(src.size());
  vector<int64_t> from, to, sizes;
  for (int64_t i = 0; i < 100000; ++i) {
    const int64_t j = i * 7919 % 100000, bytes = i % 10;
    from.push_back(int64_t(reinterpret_cast<uintptr_t>(&src[size_t(9 * i)])));
    to.push_back(int64_t(reinterpret_cast<uintptr_t>(&dst[size_t(9 * j)])));
    sizes.push_back(bytes);
    std::memcpy(&expected[size_t(9 * j)], &src[size_t(9 * i)], size_t(bytes));
  }
  auto a = make<kvops_swap_blocks_batch_args>();
  a.queue = tensor(nullptr, KVOPS_U8, {0});
  a.src_ptrs = slots(from), a.dst_ptrs = slots(to), a.sizes = slots(sizes);
  CHECK_OK(kvops_swap_blocks_batch(&a));
  CHECK((dst == expected));
  for (size_t i = 0; i < from.size(); ++i) to[i] = to[0] + int64_t(9 * i), sizes[i] = 9;
  int runs = 0;
  kvops::for_each_merged(a, 100000, [&](kvops::Copy c) { runs += c.bytes == 900000; });
  CHECK(runs == 1);
}

TEST_CASE("swap_blocks_batch: a bad size or address is named, and nothing is copied") {
  vector<uint8_t> src(64, 1), dst(64, 2);
  const int64_t from = int64_t(reinterpret_cast<uintptr_t>(src.data()));
  const int64_t to = int64_t(reinterpret_cast<uintptr_t>(dst.data()));
  vector<int64_t> froms = {from, from, 0, 0}, tos = {to, to + 8, to, 0}, sizes = {8, 8, 0, -1};
  auto a = make<kvops_swap_blocks_batch_args>();
  a.queue = tensor(dst, KVOPS_U8, {64});
  a.src_ptrs = slots(froms), a.dst_ptrs = slots(tos), a.sizes = slots(sizes);
  CHECK(kvops_swap_blocks_batch(&a) == KVOPS_INVALID_ARGUMENT);
  CHECK(failing_element() == 3);
  sizes = {8, 8, 8, 0};
  CHECK(kvops_swap_blocks_batch(&a) == KVOPS_INVALID_ARGUMENT);
  CHECK(failing_element() == 2);
  CHECK(dst == vector<uint8_t>(64, 2));
  sizes = {8, 8, 0, 0};
  CHECK_OK(kvops_swap_blocks_batch(&a));
  CHECK(dst[15] == 1);
}
