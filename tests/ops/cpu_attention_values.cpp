// The values of cpu_attention_with_kv_cache against double precision: dtypes, packings, sizes,
// groups, lengths and options, on every implementation and instruction set.
#include "ops/cpu_attention.h"

using namespace tests;

namespace {

// f32: the error of a logit, a chain of `size` products, is the relative error of its weight. Of 16
// bits
// half a unit is the rounding of the exact value, the rest is for ties.
double bound(const Batch& b, bool bf16_weights) {
  if (bf16_weights) return 0.55;  // exp's 3e-6 comes on top
  return b.type != KVOPS_F32 ? 0.51 : b.size <= 256 ? 32 : 64;
}

void check(Batch& b) {
  on_every_code(b, [&](const Code& code) {
    INFO(code.name << " " << kvops_dtype_name(b.type) << " " << kvops_dtype_name(b.cached)
                   << " packing " << b.isa << " size " << b.size << " block " << b.block
                   << " heads " << b.heads << "/" << b.kv_heads);
    b.run();
    const auto w = b.worst(code.rounds_weights);
    CHECK(w.out <= bound(b, code.rounds_weights));
    CHECK(w.lse <= (code.rounds_weights ? 2e-5 : 4e-6));
    CHECK(b.faults == 0);
  });
}

}  // namespace

TEST_CASE("cpu_attention: every dtype and packing") {
  each_kind([](kvops_dtype type, kvops_dtype cached, int64_t isa) {
    {
      Batch b;
      b.type = type, b.cached = cached, b.isa = isa, b.split = isa != KVOPS_CPU_ISA_VEC;
      b.requests = {{1, 600}, {5, 5}, {3, 64}, {20, 131}, {1, 1}, {0, 0}, {2, 0}, {1, 130}};
      b.args.k_scale = 0.7, b.args.v_scale = 1.3;
      b.fill(1), b.spoil(), b.lay_out(), check(b);
    }
  });
}

TEST_CASE("cpu_attention: every head size") {
  for (int64_t size = 16; size <= 576; size += size < 160 ? 16 : 48) {
    Batch b;
    const bool odd = size % 32;
    b.type = b.cached = kTypes[size / 16 % 3], b.size = size, b.heads = 3, b.kv_heads = 1;
    b.isa = odd || b.type == KVOPS_F32 ? KVOPS_CPU_ISA_VEC16 : KVOPS_CPU_ISA_AMX;
    if (size % 64 == 0) b.cached = size % 128 ? KVOPS_F8_E4M3 : KVOPS_F8_E5M2;
    b.requests = {{6, 41}, {1, 33}};
    b.fill(unsigned(size)), b.spoil(), b.lay_out(), check(b);
    if (size % 64) continue;
    b.type = b.cached = KVOPS_BF16;
    b.fill(unsigned(size)), b.spoil(), b.lay_out(), check(b);
  }
}

TEST_CASE("cpu_attention: every group of query heads, one query and many") {
  for (int64_t group : {1, 2, 3, 5, 8, 17, 63, 65, 130})
    for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_AMX}) {
      Batch b;
      b.heads = 2 * group, b.isa = isa, b.split = group % 2 == 0, b.type = b.cached = KVOPS_BF16,
      b.size = 64;
      b.requests = {{1, 21}, {1, group > 20 ? 70 : 600}, {5, 13}};
      b.fill(unsigned(group)), b.with_sinks(), b.lay_out(), check(b);
    }
}

TEST_CASE("cpu_attention: block sizes and lengths around blocks and tiles") {
  for (int64_t block : {16, 32, 48, 272})
    for (auto type : {KVOPS_F32, KVOPS_BF16}) {
      Batch b;
      b.type = b.cached = type, b.block = block, b.heads = 3, b.kv_heads = 3;
      b.isa = block % 32          ? KVOPS_CPU_ISA_VEC16
              : type == KVOPS_F32 ? KVOPS_CPU_ISA_VEC
                                  : KVOPS_CPU_ISA_AMX;
      b.requests.clear();
      for (int length : {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 300})
        b.requests.push_back({length % 3 ? 1 : std::min(length, 70), length});
      b.fill(unsigned(block)), b.spoil(), b.lay_out(), check(b);
    }
}

TEST_CASE("cpu_attention: causal or not, per request, windows, softcap, ALiBi, sinks") {
  struct {
    int64_t causal, left, right;
    double softcap;
    bool slopes, sinks, dynamic;
  } const options[] = {
      {1, -1, -1, 0, false, false, false}, {0, -1, -1, 0, false, false, false},
      {1, 25, -1, 0, false, true, false},  {0, 20, 30, 0, false, false, false},
      {0, -1, 3, 0, true, false, false},   {0, 0, 0, 0, false, true, false},
      {1, 0, 5, 3, false, false, false},   {1, -1, -1, 50, true, true, false},
      {0, 40, 10, 5, true, true, true},    {1, 90, 90, 0, true, false, true},
      {1, 600, 0, 0, false, false, true},
  };
  unsigned seed = 1;
  for (auto& o : options)
    for (auto type : kTypes) {
      Batch b;
      b.type = b.cached = type, b.split = seed % 2, b.heads = 6, b.size = 96;
      b.isa = type == KVOPS_F32 ? KVOPS_CPU_ISA_VEC : KVOPS_CPU_ISA_AMX;
      b.requests = {{20, 150}, {1, 600}, {7, 100}, {1, 17}};
      b.args.causal = o.causal, b.args.window_left = o.left, b.args.window_right = o.right;
      b.args.softcap = o.softcap;
      if (o.dynamic) b.dynamic = {0, 1, 7, 0};
      b.fill(seed++), b.spoil(), b.lay_out();
      if (o.slopes) b.with_slopes();
      if (o.sinks) b.with_sinks();
      check(b);
    }
}

TEST_CASE("cpu_attention: an encoder, queries of the whole length that see all of it") {
  for (auto type : kTypes)
    for (int64_t window : {-1, 63}) {
      Batch b;
      b.type = b.cached = type, b.size = 64, b.args.causal = 0;
      b.args.window_left = b.args.window_right = window;
      b.requests = {{1, 1}, {145, 145}, {36, 36}};
      b.fill(7), b.spoil(), b.lay_out(), check(b);
    }
}

TEST_CASE("cpu_attention: more keys than one range, with every count of queries") {
  for (auto type : {KVOPS_F32, KVOPS_BF16})
    for (bool split : {false, true}) {
      Batch b;
      b.type = b.cached = type, b.split = split, b.heads = 8, b.size = 64;
      b.requests = {{1, 2100}, {2, 1500}, {16, 600}, {17, 530}};
      b.fill(8), b.lay_out(), check(b);
    }
}

TEST_CASE("cpu_attention: softcap saturates, and large logits do not overflow") {
  for (auto type : {KVOPS_F32, KVOPS_BF16})
    for (double softcap : {0.0, 0.5, 30.0}) {
      Batch b;
      b.type = b.cached = type, b.args.scale = 200, b.args.softcap = softcap;
      b.fill(9), b.lay_out();
      on_every_code(b, [&](const Code& code) {
        b.run();
        for (int64_t i = 0; i < b.out.count; ++i) REQUIRE(std::isfinite(b.out[i]));
        // Logits of hundreds have f32 errors of 1e-4 of a unit each.
        if (softcap != 0) CHECK(b.worst(code.rounds_weights).lse <= 2e-5);
      });
    }
}
