// cpu_attention_with_kv_cache: which bits may change and which may not, bad input, strides.
#include "ops/cpu_attention.h"

#include <cpuid.h>

using namespace tests;
using std::vector;

namespace {

// The bits of every implementation on every instruction set, in a fixed order.
vector<Batch::Bits> all_bits(Batch& b) {
  vector<Batch::Bits> bits;
  on_every_code(b, [&](const Code&) { bits.push_back(b.run()); });
  return bits;
}

struct Kind {
  kvops_dtype type, cached;
  int64_t isa;
};

kvops_status call(Batch& b) { return kvops_cpu_attention_with_kv_cache(&b.args); }

}  // namespace

TEST_CASE("cpu_attention: unused slots and table entries change no bit") {
  each_kind([](kvops_dtype type, kvops_dtype cached, int64_t isa) {
    vector<Batch::Bits> clean;
    for (float filling : {0.0f, NAN, INFINITY}) {
      Batch b = mixed(type, cached, isa);
      b.unused = filling, b.unused_id = filling == 0 ? 0 : INT32_MAX;
      b.fill(3), b.spoil(), b.lay_out();
      const auto bits = all_bits(b);
      if (clean.empty()) clean = bits;
      REQUIRE(bits == clean);
      REQUIRE(b.faults == 0);
    }
  });
}

TEST_CASE("cpu_attention: values that are not finite reach those that see them, and nobody else") {
  for (auto type : kTypes)
    for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_AMX}) {
      if (isa == KVOPS_CPU_ISA_AMX && type == KVOPS_F32) continue;
      Batch b = small(type);
      b.isa = isa, b.requests = {{30, 90}}, b.args.window_left = 50;
      b.fill(4), b.lay_out();
      const auto clean = all_bits(b);
      vector<Batch::Bits> rows;
      on_every_code(b, [&](const Code&) {
        b.run();
        for (int64_t q = 0; q < 30; ++q) rows.push_back(row_bits(b, q, 0));
      });
      for (float bad : {NAN, INFINITY}) {
        const int64_t token = 70;  // seen by the queries at 70 to 89: 10 to 29
        Batch c = b;
        c.values.set(c.at(c.table[token / c.block], token % c.block, 0, 5), bad);
        c.lay_out();
        size_t i = 0;
        on_every_code(c, [&](const Code&) {
          c.run();
          for (int64_t q = 0; q < 30; ++q, ++i) {
            if (q < 10) REQUIRE(row_bits(c, q, 0) == rows[i]);
            const float got = c.out[q * c.heads * c.size + 5];
            if (q >= 10) REQUIRE((std::isnan(bad) ? std::isnan(got) : got == bad));
          }
        });
      }
    }
}

TEST_CASE("cpu_attention: without KV split a query's bits depend on its keys alone") {
  // In chunks of one query units have few rows, which other code may take.
  for (auto [type, cached, isa] : {Kind{KVOPS_F32, KVOPS_F32, KVOPS_CPU_ISA_VEC},
                                   {KVOPS_BF16, KVOPS_BF16, KVOPS_CPU_ISA_AMX},
                                   {KVOPS_BF16, KVOPS_BF16, KVOPS_CPU_ISA_VEC},
                                   {KVOPS_BF16, KVOPS_F8_E4M3, KVOPS_CPU_ISA_AMX},
                                   {KVOPS_BF16, KVOPS_F8_E5M2, KVOPS_CPU_ISA_VEC}}) {
    Batch b = small(type);
    b.requests = {{150, 150}, {1, 37}, {2, 900}}, b.args.window_left = 100, b.heads = 6;
    b.cached = cached, b.isa = isa, b.size = 96;
    b.fill(7), b.with_slopes(), b.lay_out();
    vector<vector<Batch::Bits>> whole;
    on_every_code(b, [&](const Code&) {
      b.run();
      for (int64_t q : {0, 49, 99, 149}) whole.push_back({row_bits(b, q, 0), row_bits(b, q, 5)});
    });
    // The first request alone, some of its queries only: each as the last, and in chunks.
    for (int32_t chunk : {1, 7, 50}) {
      size_t i = 0;
      Batch c = b;
      on_every_isa([&] {
        for (auto& code : kCodes) {
          REQUIRE(forced(code.name) == KVOPS_OK);
          for (int32_t q : {0, 49, 99, 149}) {
            const int32_t n = std::min(chunk, q + 1);
            c.requests = {{n, q + 1}}, c.starts = {0, n}, c.lens = {q + 1};
            auto a = b.args;
            c.args = a;
            c.args.query.data = static_cast<char*>(a.query.data) +
                                (q + 1 - n) * b.heads * b.size * kvops_dtype_size(type);
            c.out = Buffer(type, n * b.heads * b.size), c.lse = Buffer(KVOPS_F32, n * b.heads);
            c.args.query.shape[0] = n;
            c.args.out = tensor(c.out.data(), type, {n, b.heads, b.size});
            c.args.lse = tensor(c.lse.data(), KVOPS_F32, {n, b.heads});
            c.args.block_table.shape[0] = 1;
            c.set_lengths(), c.make_plan();
            if (call(c) == KVOPS_UNSUPPORTED) break;
            c.run();
            REQUIRE(row_bits(c, n - 1, 0) == whole[i][0]);
            REQUIRE(row_bits(c, n - 1, 5) == whole[i++][1]);
          }
        }
      });
      forced("");
      REQUIRE(i == whole.size());
    }
  }
}

TEST_CASE("cpu_attention: with KV split a request's bits depend on its length alone") {
  // Beside others, a request may be cut over the threads or not.
  Batch b = small();
  b.split = true, b.requests = {{1, 3000}, {1, 3000}, {5, 900}};
  b.fill(8), b.lay_out(), b.run();
  const auto row = row_bits(b, 1, 3);
  Batch c = b;
  c.requests = {{1, 3000}}, c.starts = {0, 1}, c.lens = {3000};
  c.args.query.data = static_cast<char*>(b.args.query.data) + b.heads * b.size * 2;
  c.args.block_table.data = b.table.data() + b.width, c.args.block_table.shape[0] = 1;
  c.args.query.shape[0] = 1;
  c.out = Buffer(b.type, b.heads * b.size), c.lse = Buffer(KVOPS_F32, b.heads);
  c.args.out = tensor(c.out.data(), b.type, {1, b.heads, b.size});
  c.args.lse = tensor(c.lse.data(), KVOPS_F32, {1, b.heads});
  c.set_lengths(), c.make_plan();
  CHECK(c.workspace.count > 0);
  c.run();
  CHECK(row_bits(c, 0, 3) == row);
}

TEST_CASE("cpu_attention: a bad block id weighs nothing, is counted once and leads nowhere") {
  for (auto type : {KVOPS_F32, KVOPS_BF16})
    for (int64_t isa : {KVOPS_CPU_ISA_VEC, KVOPS_CPU_ISA_AMX}) {
      if (isa == KVOPS_CPU_ISA_AMX && type == KVOPS_F32) continue;
      Batch b = small(type);
      b.isa = isa, b.requests = {{1, 200}, {70, 100}, {2, 33}, {1, 20}};
      b.args.window_left = 150;
      b.fill(9);
      const auto cell = [&](int64_t r, int64_t j) -> int32_t& {
        return b.table[size_t(r * b.width + j)];
      };
      cell(0, 0) = -3;  // before the window: not needed
      cell(0, 2) = -1, cell(0, 5) = INT32_MIN, cell(1, 1) = int32_t(b.blocks);
      cell(3, 0) = INT32_MAX;  // all that this request has
      b.lay_out(), b.with_sinks();
      on_every_code(b, [&](const Code& code) {
        b.run();
        const auto w = b.worst(code.rounds_weights);
        CHECK(w.out <= (type == KVOPS_F32 ? 32 : 0.55));
        CHECK(w.lse <= 2e-5);
        CHECK(b.faults == 4);
      });
      b.args.faults = {};
      CHECK_OK(call(b));
      kvops_set_option("debug", "bounds");
      CHECK(call(b) == KVOPS_INVALID_ARGUMENT);
      CHECK_THAT(kvops_last_error(), Catch::Contains("block_table: element 0 is -3"));
      kvops_set_option("debug", "");
    }
}

TEST_CASE("cpu_attention: strides of query, out, lse and table are followed") {
  Batch b = small();
  b.fill(13), b.lay_out();
  const auto bits = b.run();
  const int64_t n = b.tokens(), h = b.heads, d = b.size, pitch = 3 * h * d + 16;
  Buffer qkv(b.type, n * pitch), out(b.type, h * n * (d + 8)), lse(KVOPS_F32, n * h * 3);
  out.poison();
  for (int64_t t = 0; t < n; ++t)
    for (int64_t i = 0; i < h * d; ++i) qkv.set(t * pitch + i, b.query[t * h * d + i]);
  vector<int32_t> table(size_t(b.reqs() * (b.width + 5)), -7);
  for (int64_t r = 0; r < b.reqs(); ++r)
    std::copy_n(b.table.begin() + r * b.width, b.width, table.begin() + r * (b.width + 5));
  b.args.query = tensor(qkv.data(), b.type, {n, h, d}, {pitch, d, 1});
  b.args.out = tensor(out.data(), b.type, {n, h, d}, {d + 8, n * (d + 8), 1});
  b.args.lse = tensor(lse.data(), KVOPS_F32, {n, h}, {3, 3 * n});
  b.args.block_table = tensor(table, KVOPS_I32, {b.reqs(), b.width}, {b.width + 5, 1});
  CHECK_OK(call(b));
  for (int64_t t = 0; t < n; ++t)
    for (int64_t k = 0; k < h; ++k) {
      CHECK(lse[t * 3 + k * 3 * n] == b.lse[t * h + k]);
      for (int64_t i = 0; i < d + 8; ++i) {
        const float got = out[k * n * (d + 8) + t * (d + 8) + i];
        if (i < d) REQUIRE(got == b.out[(t * h + k) * d + i]);
        if (i >= d) REQUIRE(std::isnan(got));
      }
    }
}

TEST_CASE("cpu_attention: block strides beyond 2^31 elements") {
  Batch b = small();
  b.requests = {{1, 40}}, b.fill(14), b.lay_out();
  const auto bits = b.run();
  const int64_t page = (int64_t{1} << 31) + 64;
  Sparse cache(size_t(b.blocks * page * 2));
  const Extents shape = {b.blocks, b.kv_heads, b.block, b.size};
  const Extents strides = {page, b.block * b.size, b.size, 1};
  b.args.key_cache = tensor(cache.data, b.cached, shape, strides);
  b.write_cache(b.keys, b.args.key_cache, true);
  CHECK(b.run() == bits);
}

TEST_CASE("cpu_attention: no keys give zeros, rows past the last query stay") {
  for (bool sinks : {false, true}) {
    Batch b = small(KVOPS_F32);
    b.requests = {{2, 0}, {1, 3}, {0, 5}}, b.fill(15), b.lay_out();
    if (sinks) b.with_sinks();
    const int64_t row = b.heads * b.size;
    Buffer out(b.type, (b.tokens() + 2) * row), query(b.type, out.count);
    out.poison();
    b.args.out = tensor(out.data(), b.type, {b.tokens() + 2, b.heads, b.size});
    b.args.query = tensor(query.data(), b.type, {b.tokens() + 2, b.heads, b.size});
    Buffer lse(KVOPS_F32, (b.tokens() + 2) * b.heads);
    b.args.lse = tensor(lse.data(), KVOPS_F32, {b.tokens() + 2, b.heads});
    CHECK_OK(call(b));
    for (int64_t i = 0; i < 2 * row; ++i) REQUIRE(out[i] == 0);
    for (int64_t i = 3 * row; i < 5 * row; ++i) REQUIRE(std::isnan(out[i]));
    for (int64_t h = 0; h < 2 * b.heads; ++h)
      CHECK(lse[h] == (sinks ? b.sinks[size_t(h % b.heads)] : -INFINITY));
  }
}

TEST_CASE("cpu_attention: sinks in bf16 are those in f32, for any number of heads") {
  for (int64_t heads : {1, 17, 40}) {
    Batch b = small();
    b.heads = heads, b.kv_heads = 1, b.fill(16), b.lay_out();
    vector<uint16_t> narrow;
    for (auto& s : b.sinks) {
      s = rounded(KVOPS_BF16, s);
      uint32_t bits;
      std::memcpy(&bits, &s, 4);
      narrow.push_back(uint16_t(bits >> 16));
    }
    b.with_sinks();
    const auto bits = b.run();
    b.args.sinks = tensor(narrow, KVOPS_BF16, {heads});
    CHECK(b.run() == bits);
  }
}

TEST_CASE("cpu_attention: prefix and suffix through merge_attn_states are the whole") {
  for (auto type : {KVOPS_F32, KVOPS_BF16})
    for (int32_t prefix : {64, 256}) {
      Batch b = small(type);
      const int32_t queries = 24, length = 300;
      b.requests = {{queries, length}}, b.heads = 6, b.size = 64;
      b.fill(17), b.lay_out(), b.run();
      // All queries see the whole prefix; the suffix is causal.
      Batch first = b, last = b;
      first.requests = {{queries, prefix}}, first.lens = {prefix}, first.args.causal = 0;
      last.requests = {{queries, length - prefix}}, last.lens = {length - prefix};
      last.args.block_table.data = b.table.data() + prefix / b.block;
      last.args.block_table.shape[1] -= prefix / b.block;
      for (auto* half : {&first, &last}) {
        half->args.out.data = half->out.data(), half->args.lse.data = half->lse.data();
        half->set_lengths(), half->make_plan(), half->run();
      }
      auto m = make<kvops_merge_attn_states_args>();
      Buffer out = b.out, lse(KVOPS_F32, queries * b.heads);
      const Extents swapped = {b.heads, queries};
      auto lse_of = [&](Buffer& x) { return tensor(x.data(), KVOPS_F32, swapped, {1, b.heads}); };
      m.prefix_output = first.args.out, m.prefix_lse = lse_of(first.lse);
      m.suffix_output = last.args.out, m.suffix_lse = lse_of(last.lse);
      m.out = b.args.out, m.out.data = out.data();
      m.out_lse = lse_of(lse);
      CHECK_OK(kvops_merge_attn_states(&m));
      std::swap(b.out, out), std::swap(b.lse, lse);
      const auto w = b.worst();
      // Both parts are rounded to the dtype before they are merged: a unit and a half.
      CHECK(w.out <= (type == KVOPS_F32 ? 32 : 2.5));
      CHECK(w.lse <= 2e-5);
    }
}

TEST_CASE("cpu_attention: implementations by name") {
  CHECK(forced("no_such") == KVOPS_UNSUPPORTED);
  CHECK_THAT(kvops_last_error(), Catch::Contains("expected a list of operator:implementation"));
  CHECK(forced("portable,cpu_attention_with_kv_cache:") == KVOPS_UNSUPPORTED);
  Batch b = small();
  b.fill(18), b.lay_out();
  for (auto& code : kCodes) {
    CHECK(forced(code.name) == KVOPS_OK);
    const auto status = call(b);
    CHECK((status == KVOPS_OK || status == KVOPS_UNSUPPORTED));
    if (status) CHECK_THAT(kvops_last_error(), Catch::Contains(code.name));
  }
  // Tiles are for bf16 caches of the amx packing.
  CHECK(forced("amx") == KVOPS_OK);
  CHECK(call(b) == KVOPS_UNSUPPORTED);
  CHECK_THAT(kvops_last_error(), Catch::Contains("the implementation amx is forced"));
  Batch f = small(KVOPS_F16);
  f.isa = KVOPS_CPU_ISA_AMX, f.fill(18), f.lay_out();
  CHECK(call(f) == KVOPS_UNSUPPORTED);
  CHECK(forced("portable") == KVOPS_OK);
  CHECK(call(b) == KVOPS_OK);
  forced("");
}

TEST_CASE("cpu_attention: tiles are what runs where there are any, and are let go after a call") {
  // cpuid's leaf 7: AMX-BF16 and AMX-TILE; leaf 13.1: xgetbv tells what is in use.
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
  const bool tells = __get_cpuid_count(13, 1, &a, &b, &c, &d) && (a >> 2 & 1);
  Batch x = small();
  x.isa = KVOPS_CPU_ISA_AMX, x.requests = {{40, 70}, {1, 90}}, x.size = 96;
  x.fill(19), x.lay_out();
  const auto chosen = x.run();
  CHECK(forced("amx") == KVOPS_OK);
  kvops_set_num_threads(1);
  const auto status = call(x);
  if (tells) {
    unsigned low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    CHECK((low >> 17 & 3) == 0);
  }
  kvops_set_num_threads(0);
  // A system may keep tiles from us.
  CHECK((status == KVOPS_OK || status == KVOPS_UNSUPPORTED));
  if (!tiles) CHECK(status == KVOPS_UNSUPPORTED);
  if (status == KVOPS_OK) CHECK(x.run() == chosen);
  forced("");
}
