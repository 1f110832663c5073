// merge_attn_states beyond what golden cases hold: strides that 32 bits cannot hold, large shapes.
#include <cmath>

#include "ops/tensors.h"

using namespace tests;
using std::vector;

namespace {

struct Sides {
  int64_t tokens, heads, size;
  vector<float> prefix, suffix, prefix_lse, suffix_lse, out, lse;

  Sides(int64_t t, int64_t h, int64_t d) : tokens(t), heads(h), size(d) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal(0, 1);
    for (auto* v : {&prefix, &suffix, &out}) v->resize(size_t(t * h * d));
    for (auto* v : {&prefix_lse, &suffix_lse, &lse}) v->resize(size_t(t * h));
    for (auto* v : {&prefix, &suffix, &prefix_lse, &suffix_lse})
      for (auto& x : *v) x = normal(random);
  }
  kvops_merge_attn_states_args args() const {
    auto a = make<kvops_merge_attn_states_args>();
    a.prefix_output = tensor(prefix, KVOPS_F32, {tokens, heads, size});
    a.suffix_output = tensor(suffix, KVOPS_F32, {tokens, heads, size});
    a.prefix_lse = tensor(prefix_lse, KVOPS_F32, {heads, tokens});
    a.suffix_lse = tensor(suffix_lse, KVOPS_F32, {heads, tokens});
    a.out = tensor(out, KVOPS_F32, {tokens, heads, size});
    a.out_lse = tensor(lse, KVOPS_F32, {heads, tokens});
    return a;
  }
};

}  // namespace

TEST_CASE("merge_attn_states: strides beyond 2^31 elements") {
  constexpr int64_t kFar = (int64_t{1} << 32) + 4096;
  Sides s(3, 2, 5);
  auto a = s.args();
  CHECK_OK(kvops_merge_attn_states(&a));
  Sparse far(size_t(4 * (3 * kFar + 8192)));
  auto at = [&](int64_t offset, int64_t t, int64_t h) {
    return reinterpret_cast<float*>(far.data) + offset + t * kFar + h * 7;
  };
  auto rows = [&](int64_t offset) {
    return tensor(at(offset, 0, 0), KVOPS_F32, {3, 2, 5}, {kFar, 7, 1});
  };
  auto sums = [&](int64_t offset) {
    return tensor(at(offset, 0, 0), KVOPS_F32, {2, 3}, {7, kFar});
  };
  a.prefix_output = rows(0), a.suffix_output = rows(100), a.out = rows(200);
  a.prefix_lse = sums(300), a.suffix_lse = sums(400), a.out_lse = sums(500);
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t d = 0; d < 5; ++d) {
        at(0, t, h)[d] = s.prefix[size_t((t * 2 + h) * 5 + d)];
        at(100, t, h)[d] = s.suffix[size_t((t * 2 + h) * 5 + d)];
      }
      *at(300, t, h) = s.prefix_lse[size_t(h * 3 + t)];
      *at(400, t, h) = s.suffix_lse[size_t(h * 3 + t)];
    }
  CHECK_OK(kvops_merge_attn_states(&a));
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t h = 0; h < 2; ++h) {
      CHECK(*at(500, t, h) == s.lse[size_t(h * 3 + t)]);
      for (int64_t d = 0; d < 5; ++d) CHECK(at(200, t, h)[d] == s.out[size_t((t * 2 + h) * 5 + d)]);
    }
}

TEST_CASE("merge_attn_states: many tokens, any number of threads") {
  Sides s(613, 48, 96);
  const auto a = s.args();
  kvops_set_num_threads(1);
  CHECK_OK(kvops_merge_attn_states(&a));
  const auto out = s.out, lse = s.lse;
  for (int64_t threads : {2, 5}) {
    kvops_set_num_threads(threads);
    std::fill(s.out.begin(), s.out.end(), NAN);
    CHECK_OK(kvops_merge_attn_states(&a));
    REQUIRE(s.out == out);
    REQUIRE(s.lse == lse);
  }
  kvops_set_num_threads(0);
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t d = i % 96, h = i / 96 % 48, t = i / 96 / 48;
    const double p = s.prefix_lse[h * 613 + t], q = s.suffix_lse[h * 613 + t];
    const double a0 = std::exp(p) / (std::exp(p) + std::exp(q));
    const double x = s.prefix[i] * a0 + s.suffix[i] * (1 - a0);
    const double most = std::abs(s.prefix[i] * a0) + std::abs(s.suffix[i] * (1 - a0));
    if (!(std::abs(out[i] - x) <= 4e-7 * most)) FAIL(d << " " << h << " " << t);
    if (d == 0 && !(std::abs(lse[h * 613 + t] - std::log(std::exp(p) + std::exp(q))) < 4e-7))
      FAIL("lse of " << h << " " << t);
  }
}
