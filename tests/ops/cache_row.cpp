// Rows as fp8 codes: every f16 and bf16 over scales of every kind, on every instruction set, is the
// code of its IEEE quotient. Scales that take quotients to the middle between two codes, where one
// last place decides, are part of them.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cache_row.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_row-inl.h"

// Everything that is compiled once only.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "cpu/convert.h"
#include "cpu/isa.h"
#include "harness/isas.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

template <class S, class F8>
void quantise_row(const S* from, F8* to, int64_t n, float scale) {
  write_row(from, to, n, scale);
}

#define KVOPS_TEST_ROWS(S)                                            \
  template void quantise_row(const S*, f8_e4m3*, int64_t, float);     \
  template void quantise_row(const S*, f8_e5m2*, int64_t, float);     \
  template void quantise_row(const S*, f8_e4m3fnuz*, int64_t, float); \
  template void quantise_row(const S*, f8_e5m2fnuz*, int64_t, float);
KVOPS_TEST_ROWS(f16)
KVOPS_TEST_ROWS(bf16)

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {

template <class S, class F8>
auto quantiser(Isa isa) {
  constexpr decltype(&N_EMU128::quantise_row<S, F8>) all[] = {
      N_EMU128::quantise_row<S, F8>, N_SSE4::quantise_row<S, F8>, N_AVX2::quantise_row<S, F8>,
      N_AVX3::quantise_row<S, F8>};
  return all[int(isa)];
}

namespace {

// Powers of two, those at the ends of the quick path, what is no usual scale, any, and x / middle.
template <class S, class F8>
std::vector<float> scales() {
  const float huge = std::numeric_limits<float>::infinity();
  std::vector<float> v = {1, 0.5f, 2, 0.25f, 448, 0.0f, -1, -0.37f, huge, std::nanf(""), 0x1p-140f};
  for (float end : {0x1p-126f, 0x1p-64f, 0x1p64f, 1.0f, 0x1p120f})
    v.insert(v.end(), {end, std::nextafter(end, 0.0f), std::nextafter(end, huge)});
  std::mt19937 random(Fp8Traits<F8>::kBias + int(sizeof(S)));
  for (int i = 0; i < 24; ++i) {
    v.push_back(std::ldexp(1.0f + float(random() % 0x800000) * 0x1p-23f, int(random() % 40) - 30));
    const S x = {uint16_t(0x3000 + random() % 0x1800)};
    const F8 code = {uint8_t(random() % 0x7E)}, next = {uint8_t(code.bits + 1)};
    const float scale = to_float(x) / ((to_float(code) + to_float(next)) / 2);
    v.insert(v.end(), {scale, std::nextafter(scale, 0.0f), std::nextafter(scale, huge)});
  }
  return v;
}

template <class S, class F8>
void check_rows() {
  constexpr int64_t kAll = 0x10000;
  std::vector<S> x(size_t(kAll) + 7);  // a part of a vector is left
  for (size_t i = 0; i < x.size(); ++i) x[i] = {uint16_t(i * 40503)};
  std::vector<F8> want(x.size()), seen(x.size());
  for (float scale : scales<S, F8>()) {
    for (size_t i = 0; i < x.size(); ++i) want[i] = encode<F8>(to_float(x[i]) / scale);
    for (Isa isa : usable_isas()) {
      quantiser<S, F8>(isa)(x.data(), seen.data(), int64_t(x.size()), scale);
      int wrong = 0;
      for (size_t i = 0; i < x.size(); ++i)
        if (seen[i].bits != want[i].bits && !wrong++)
          UNSCOPED_INFO("first at " << to_float(x[i]) << ": " << int(seen[i].bits) << ", expected "
                                    << int(want[i].bits));
      CAPTURE(int(isa), scale);
      REQUIRE(wrong == 0);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("cache rows: the code of the quotient, of every 16-bit number", "[convert]",
                   f8_e4m3, f8_e5m2, f8_e4m3fnuz, f8_e5m2fnuz) {
  check_rows<f16, TestType>();
  check_rows<bf16, TestType>();
}

}  // namespace kvops::cpu
#endif
