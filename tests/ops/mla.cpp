// concat_mla_q: any sizes, views, addresses.
#include "ops/rows.h"

using namespace tests;
using std::vector;

namespace {

// [nope | rope] of (t, h), for 16-bit tensors.
bool concatenated(const kvops_concat_mla_q_args& a, int64_t t, int64_t h) {
  auto row = [&](const kvops_tensor& x) {
    return static_cast<const uint16_t*>(x.data) + t * x.stride[0] + h * x.stride[1];
  };
  const auto nope = size_t(a.ql_nope.shape[2]), rope = size_t(a.q_pe.shape[2]);
  return !std::memcmp(row(a.out), row(a.ql_nope), 2 * nope) &&
         !std::memcmp(row(a.out) + nope, row(a.q_pe), 2 * rope);
}

}  // namespace

TEST_CASE("concat_mla_q: transposed, sliced and odd views give the bytes of a concatenation") {
  constexpr int64_t kTokens = 5, kHeads = 4;
  auto from = random_bits<uint16_t>(kTokens * kHeads * 1700, 1);
  auto slice = random_bits<uint16_t>(kTokens * kHeads * 200, 2);
  on_every_isa([&] {
    for (int64_t nope : {512, 1024, 1536, 33, 0})
      for (int64_t rope : {64, 7})
        for (int64_t shift : {0, 1, 3}) {
          const int64_t row = nope + rope + 2 * shift;
          vector<uint16_t> out(size_t(kTokens * kHeads * row + shift), 0xBEEF);
          auto a = make<kvops_concat_mla_q_args>();
          a.ql_nope = tensor(&from[size_t(shift)], KVOPS_BF16, {kTokens, kHeads, nope},
                             {nope + shift, kTokens * (nope + shift), 1});  // of [heads, tokens, .]
          a.q_pe = tensor(&slice[size_t(128 + shift)], KVOPS_BF16, {kTokens, kHeads, rope},
                          {kHeads * 192, 192, 1});
          a.out = tensor(&out[size_t(shift)], KVOPS_BF16, {kTokens, kHeads, nope + rope},
                         {kHeads * row, row, 1});
          CHECK_OK(kvops_concat_mla_q(&a));
          bool same = true;
          for (int64_t t = 0; t < kTokens; ++t)
            for (int64_t h = 0; h < kHeads; ++h) same &= concatenated(a, t, h);
          CHECK(same);
          int64_t left = 0;  // between the rows
          for (auto x : out) left += x == 0xBEEF;
          CHECK(left >= shift + kTokens * kHeads * 2 * shift);
        }
  });
}

TEST_CASE("concat_mla_q: results larger than the caches have the same bytes") {
  constexpr int64_t kTokens = 16, kHeads = 1900, kNope = 512, kRope = 64;  // 35 MB
  constexpr int64_t kBytes = kTokens * kHeads * (kNope + kRope) * 2;
  auto nope = random_bits<uint16_t>(kTokens * kHeads * kNope, 1);
  auto rope = random_bits<uint16_t>(kTokens * kHeads * kRope, 2);
  Lines out(kBytes + 64);
  auto a = make<kvops_concat_mla_q_args>();
  a.ql_nope = tensor(nope, KVOPS_F16, {kTokens, kHeads, kNope}, {kNope, kTokens * kNope, 1});
  a.q_pe = tensor(rope, KVOPS_F16, {kTokens, kHeads, kRope});
  for (int64_t offset : {0, 2, 64}) {  // bytes: aligned, not, aligned
    std::memset(out.data, 0xFF, kBytes + 64);
    a.out = tensor(out.data + offset, KVOPS_F16, {kTokens, kHeads, kNope + kRope});
    CHECK_OK(kvops_concat_mla_q(&a));
    bool same = true;
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t h = 0; h < kHeads; ++h) same &= concatenated(a, t, h);
    CHECK(same);
  }
}

TEST_CASE("sparse: concat_mla_q") {
  constexpr int64_t kFar = (int64_t{1} << 32) + 4096;
  Sparse nope(size_t(2 * (3 * kFar + 4096))), out(size_t(2 * (3 * kFar + 4096)));
  vector<uint16_t> rope(4 * 64, 0x1234);
  for (int64_t r : {0, 1, 2, 3}) nope.at<uint16_t>(r * kFar + 511) = uint16_t(r + 1);
  auto a = make<kvops_concat_mla_q_args>();
  a.ql_nope = tensor(nope.data, KVOPS_BF16, {2, 2, 512}, {kFar, 2 * kFar, 1});
  a.q_pe = tensor(rope, KVOPS_BF16, {2, 2, 64});
  a.out = tensor(out.data, KVOPS_BF16, {2, 2, 576}, {kFar, 2 * kFar, 1});
  CHECK_OK(kvops_concat_mla_q(&a));
  for (int64_t r : {0, 1, 2, 3}) {
    CHECK(out.at<uint16_t>(r * kFar + 511) == r + 1);
    CHECK(out.at<uint16_t>(r * kFar + 575) == 0x1234);
  }
  CHECK(out.pages() == 4);
}
