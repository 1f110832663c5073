// Does the golden runner see what it exists to see? A back end whose rms_norm is right, or wrong in
// one way at a time.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <string>

#include "contract/test_backend.h"
#include "harness/golden.h"

using std::string;

namespace {

enum class Fault {
  none,
  value,      // one element is off by more than the tolerance
  nan,        // one element is NaN
  unwritten,  // the last element is not written
  before,     // a byte before the first element
  gap,        // the byte after a row, which only grown strides leave
  input,      // changes what it only reads
  weight,     // reads past the weight's row when strides are grown
  status,     // fails
  lie,        // fails for negative strides only
  in_place,   // is wrong when out is input
  unaligned,  // other bits at an address that is not a multiple of 16
};
Fault fault;

char* bytes(const kvops_tensor& t) { return static_cast<char*>(t.data); }

float* row(const kvops_tensor& t, int64_t i) {
  return static_cast<float*>(t.data) + i * t.stride[0];
}

void break_memory(const kvops_rms_norm_args& a) {
  int64_t n = a.input.shape[0], d = a.input.shape[1];
  char* out = bytes(a.out);
  if (fault == Fault::before) out[-1] ^= 1;
  if (fault == Fault::gap && std::abs(a.out.stride[0]) > d) bytes(a.out)[d * 4] ^= 1;
  if (fault == Fault::input && a.input.data != a.out.data) *row(a.input, n - 1) += 1;
  if (fault == Fault::value) *row(a.out, n / 2) *= 1.00001f;
  if (fault == Fault::nan) *row(a.out, n - 1) = NAN;
  if (fault == Fault::in_place && a.input.data == a.out.data) *row(a.out, 0) += 1;
  if (fault == Fault::unaligned && reinterpret_cast<uintptr_t>(out) % 16)
    *row(a.out, 0) = std::nextafter(*row(a.out, 0), 9.f);
}

kvops_status rms_norm(const kvops_rms_norm_args& a) {
  if (fault == Fault::status) return KVOPS_INVALID_ARGUMENT;
  if (fault == Fault::lie && a.input.stride[0] < 0) return KVOPS_UNSUPPORTED;
  int64_t n = a.input.shape[0], d = a.input.shape[1];
  auto* weight = static_cast<const float*>(a.weight.data);
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    float *x = row(a.input, i), *y = row(a.out, i);
    for (int64_t j = 0; j < d; ++j) sum += double(x[j]) * x[j];
    double scale = 1 / std::sqrt(sum / double(d) + a.epsilon);
    int64_t end = fault == Fault::unwritten && i == n - 1 ? d - 1 : d;
    int64_t shift = fault == Fault::weight && reinterpret_cast<uintptr_t>(weight) % 16;
    for (int64_t j = 0; j < end; ++j) y[j] = float(x[j] * scale * weight[j + shift]);
  }
  break_memory(a);
  return KVOPS_OK;
}

struct Seen {
  int passed = 0, failed = 0;
  string text;
};

Seen run(Fault f) {
  fault = f;
  rms_norm_hook = rms_norm;
  Seen seen;
  auto report = [](void* context, const golden_result* r) {
    auto* s = static_cast<Seen*>(context);
    ++(r->outcome == GOLDEN_PASSED ? s->passed : s->failed);
    if (r->outcome == GOLDEN_FAILED) s->text = r->text;
  };
  golden_options o = {KVOPS_TEST_GOLDEN, "rms_norm", "weighted-f32", KVOPS_CPU, report, &seen};
  CHECK(golden_run(&o) == seen.failed);
  rms_norm_hook = nullptr;
  return seen;
}

}  // namespace

TEST_CASE("golden: a correct operator passes") {
  auto seen = run(Fault::none);
  CHECK(seen.failed == 0);
  CHECK(seen.passed >= 1);
}

TEST_CASE("golden: every way to be wrong is seen, and said") {
  struct {
    Fault fault;
    const char* says;
  } const cases[] = {
      {Fault::value, "out: 1 of "},
      {Fault::nan, "out: 1 of "},
      {Fault::unwritten, "out: 1 of "},
      {Fault::before, "out: a stray write, -1 bytes"},
      {Fault::gap, "out: a stray write, 768 bytes"},
      {Fault::input, "input: a stray write"},
      {Fault::weight, "elements are off"},
      {Fault::status, "KVOPS_INVALID_ARGUMENT, expected KVOPS_OK"},
      {Fault::lie, "negative strides: rms_norm: KVOPS_UNSUPPORTED, expected KVOPS_OK"},
      {Fault::in_place, "in place: out: 1 of "},
      {Fault::unaligned, "padded: out: 1 elements have other bits than in the first variant"},
  };
  for (auto& c : cases) {
    auto seen = run(c.fault);
    INFO("says: " << seen.text << ", expected: " << c.says);
    CHECK(seen.passed == 0);
    CHECK(seen.text.find(c.says) != string::npos);
  }
}

TEST_CASE("golden: a case that is not there is an error") {
  golden_options o = {
      KVOPS_TEST_GOLDEN, "rms_norm", "no-such", 0, [](void*, const golden_result*) {}, nullptr};
  CHECK(golden_run(&o) == -1);
}
