// The comparisons of the golden runner: they must see what they exist to see.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <vector>

extern "C" {
#include "harness/compare.h"
#include "harness/place.h"
}

namespace {

kvops_arg_info row(int kind, double f32, double narrow) {
  return {"x", 0, 0, 0, 0, "", "", kind, f32, narrow};
}

}  // namespace

TEST_CASE("harness: values of every float code") {
  auto value = [](kvops_dtype d, unsigned bits) { return element_value(d, &bits); };
  CHECK(value(KVOPS_F32, 0x3f800000) == 1);
  CHECK(value(KVOPS_F16, 0x0001) == std::ldexp(1, -24));
  CHECK(value(KVOPS_F16, 0xfbff) == -65504);
  CHECK(std::isinf(value(KVOPS_F16, 0x7c00)));
  CHECK(value(KVOPS_BF16, 0x3f81) == 1 + std::ldexp(1, -7));
  CHECK(value(KVOPS_F8_E4M3, 0x7e) == 448);
  CHECK(std::isnan(value(KVOPS_F8_E4M3, 0xff)));
  CHECK(value(KVOPS_F8_E5M2, 0x7b) == 57344);
  CHECK(std::isinf(value(KVOPS_F8_E5M2, 0xfc)));
  CHECK(value(KVOPS_F8_E4M3FNUZ, 0x7f) == 240);
  CHECK(std::isnan(value(KVOPS_F8_E4M3FNUZ, 0x80)));
  CHECK(value(KVOPS_F8_E5M2FNUZ, 0x7f) == 57344);
  CHECK(value(KVOPS_I8, 0xff) == -1);
}

TEST_CASE("harness: units in the last place") {
  CHECK(element_ulp(KVOPS_F32, 1) == std::ldexp(1, -23));
  CHECK(element_ulp(KVOPS_F32, -0.75) == std::ldexp(1, -24));
  CHECK(element_ulp(KVOPS_F32, 0) == std::ldexp(1, -149));
  CHECK(element_ulp(KVOPS_BF16, 3) == std::ldexp(1, -6));
  CHECK(element_ulp(KVOPS_F8_E4M3, 0.001) == std::ldexp(1, -9));
}

TEST_CASE("harness: one step too many is seen, one allowed is not") {
  float want[] = {1, -3, 0, 1e-40f}, got[4];
  auto info = row(KVOPS_COMPARE_ULP, 2, 1);
  for (int steps : {2, 3}) {
    std::memcpy(got, want, sizeof got);
    for (int i = 0; i < steps; ++i) got[1] = std::nextafter(got[1], -9.f);
    auto c = compare_elements(&info, KVOPS_F32, got, want, 4, 4);
    CHECK(c.wrong == (steps > 2));
    CHECK(c.worst == steps);
    if (c.wrong) CHECK(c.first == 1);
  }
}

TEST_CASE("harness: NaN and infinities match only themselves") {
  float inf = INFINITY, nan = NAN;
  auto info = row(KVOPS_COMPARE_ULP, 1e30, 1e30);
  struct {
    float got, want;
    int wrong;
  } const cases[] = {{nan, nan, 0},  {nan, 1, 1},     {1, nan, 1},    {inf, inf, 0},
                     {-inf, inf, 1}, {3e38f, inf, 1}, {inf, 3e38f, 1}};
  for (auto& c : cases)
    CHECK(compare_elements(&info, KVOPS_F32, &c.got, &c.want, 1, 1).wrong == c.wrong);
}

TEST_CASE("harness: exact means bits, and codes of 8-bit NaN are bits, too") {
  auto info = row(KVOPS_COMPARE_EXACT, 0, 0);
  float zero = 0, minus = -0.f;
  CHECK(compare_elements(&info, KVOPS_F32, &zero, &minus, 1, 1).wrong == 1);
  uint32_t a = 0x7fc00000, b = 0xffc00001;
  CHECK(compare_elements(&info, KVOPS_F32, &a, &b, 1, 1).wrong == 0);
  uint8_t p = 0x7f, q = 0xff;
  CHECK(compare_elements(&info, KVOPS_F8_E4M3, &p, &q, 1, 1).wrong == 1);
}

TEST_CASE("harness: rows are measured by their own largest magnitude") {
  float want[] = {1000, 1e-3f, 1, 1e-3f}, got[] = {1000, 1.05e-3f, 1, 1.05e-3f};
  auto info = row(KVOPS_COMPARE_ROWS, 2, 2);
  CHECK(compare_elements(&info, KVOPS_F32, got, want, 4, 2).wrong == 1);  // the second row
  auto sets = row(KVOPS_COMPARE_SET, 0, 0);
  int32_t x[] = {3, 1, 2, 4, 4, 5}, y[] = {1, 2, 3, 4, 5, 5};
  auto c = compare_elements(&sets, KVOPS_I32, x, y, 6, 3);
  CHECK(c.wrong == 1);
  CHECK(c.first == 3);
}

TEST_CASE("harness: placements keep to the row, and put every element at its own place") {
  CHECK(first_packed("blocks block! entry!", 3) == 1);
  CHECK(first_packed("... d!", 4) == 3);
  CHECK(first_packed("d! | ...0 d!", 2) == 1);
  CHECK(first_packed("rows ...!", 4) == 1);
  CHECK(first_packed("[] | 1 | heads!", 1) == 0);
  CHECK(first_packed("blocks heads size/x block x", 5) == 5);
  std::vector<float> values(2 * 3 * 4), back(values.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i);
  int64_t shape[] = {2, 3, 4};
  for (auto l : {LAYOUT_DENSE, LAYOUT_PADDED, LAYOUT_PERMUTED, LAYOUT_NEGATIVE}) {
    placed p = {};
    REQUIRE(place(&p, "a b c!", KVOPS_F32, 3, shape, values.data(), l, 0xff, nullptr) == 0);
    CHECK(p.tensor.stride[2] == 1);
    CHECK((p.tensor.stride[0] < 0) == (l == LAYOUT_NEGATIVE));
    CHECK((p.tensor.stride[0] == 12) == (l == LAYOUT_DENSE));
    place_gather(&p, p.image, back.data());
    CHECK(back == values);
    place_release(&p);
  }
}
