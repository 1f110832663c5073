// exp, tanh and erf of every target against libm's double functions: every 251st float in the quick
// run, every float in the slow one. The bounds are those that cpu/math-inl.h states.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/math.cpp"
#include <hwy/foreach_target.h>

#include "cpu/math-inl.h"

// Everything that is compiled once only.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "core/dtype.h"
#include "cpu/isa.h"
#include "harness/isas.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

#define KVOPS_TEST_MATH(f)                                                                  \
  void f##_all(const float* x, float* y, int64_t n) {                                       \
    const hn::ScalableTag<float> d;                                                         \
    const auto lanes = int64_t(hn::Lanes(d));                                               \
    for (int64_t i = 0; i < n; i += lanes) hn::StoreU(f(d, hn::LoadU(d, x + i)), d, y + i); \
  }
KVOPS_TEST_MATH(exp)
KVOPS_TEST_MATH(tanh)
KVOPS_TEST_MATH(erf)

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
namespace {

using Kernel = void (*)(const float*, float*, int64_t);
struct Function {
  const char* name;
  double (*exact)(double);
  Kernel targets[4];
  double bound;  // in units of the last place of the exact result
};
#define KVOPS_TEST_FUNCTION(f, bound)                                                             \
  {                                                                                               \
#f, [](double x) { return std::f(x); }, {N_EMU128::f##_all, N_SSE4::f##_all, N_AVX2::f##_all, \
                                             N_AVX3::f##_all },                                   \
                                             bound                                                \
  }
const Function kFunctions[] = {KVOPS_TEST_FUNCTION(exp, 1.1), KVOPS_TEST_FUNCTION(tanh, 3),
                               KVOPS_TEST_FUNCTION(erf, 1.5)};

// |seen - exact| in units of the last place that a float near `exact` has.
double ulps(float seen, double exact) {
  if (std::isnan(exact)) return std::isnan(seen) ? 0 : HUGE_VAL;
  if (float(exact) == seen) return std::signbit(seen) == std::signbit(exact) ? 0 : HUGE_VAL;
  if (!std::isfinite(seen)) return HUGE_VAL;
  int exponent = 0;
  std::frexp(exact, &exponent);
  return std::fabs(double(seen) - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

// The worst error of a function over the floats first, first + step, ..., per target.
void check(const Function& f, uint32_t step) {
  constexpr int64_t kBatch = 4096;
  std::vector<float> x(kBatch), y(kBatch);
  std::vector<double> exact(kBatch);
  double worst[4] = {};
  float where[4] = {};
  const auto isas = usable_isas();
  for (uint64_t first = 0; first < uint64_t{1} << 32; first += kBatch * uint64_t{step}) {
    for (int64_t i = 0; i < kBatch; ++i) {
      x[size_t(i)] = std::bit_cast<float>(uint32_t(first + uint64_t(i) * step));
      exact[size_t(i)] = f.exact(x[size_t(i)]);
    }
    for (Isa isa : isas) {
      f.targets[int(isa)](x.data(), y.data(), kBatch);
      for (size_t i = 0; i < size_t(kBatch); ++i) {
        const double error = ulps(y[i], exact[i]);
        if (error > worst[int(isa)]) worst[int(isa)] = error, where[int(isa)] = x[i];
      }
    }
  }
  for (Isa isa : isas) {
    INFO(f.name << " on target " << int(isa) << " at " << where[int(isa)]);
    CHECK(worst[int(isa)] <= f.bound);
    if (std::getenv("KVOPS_TEST_REPORT"))
      WARN(f.name << " target " << int(isa) << " worst " << worst[int(isa)] << " at "
                  << where[int(isa)]);
  }
}

}  // namespace

TEST_CASE("math: exp, tanh, erf are accurate at every 251st float", "[math]") {
  for (const Function& f : kFunctions) check(f, 251);
}

TEST_CASE("math: exp, tanh, erf are accurate at every float", "[math][slow]") {
  for (const Function& f : kFunctions) check(f, 1);
}

}  // namespace kvops::cpu
#endif
