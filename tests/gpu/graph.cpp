// Graph capture: in the strictest mode, as the first thing that the process does with a kernel, and
// replayed after everything on the device has changed: slots, data and scales.
#include "graph.h"

#include <numeric>
#include <random>

using namespace test;

namespace {

std::mt19937 generator(7);

template <class T>
void randomise_bf16(std::vector<T>& values) {
  std::normal_distribution<float> normal;
  for (auto& v : values) v = T(number_bits(KVOPS_BF16, normal(generator)));
}

}  // namespace

TEST_CASE("graph: rms_norm is captured unprepared and follows its data") {
  Stream stream;
  Both<uint16_t> x(KVOPS_BF16, {33, 4096}), w(KVOPS_BF16, {4096}), y(KVOPS_BF16, {33, 4096});
  kvops_rms_norm_args a = {sizeof a, x.on_gpu(stream), w.on_gpu(stream), y.on_gpu(stream), 1e-6};
  Graph graph(stream, [&] { REQUIRE(kvops_rms_norm(&a) == KVOPS_OK); });
  for (int replay = 0; replay < 3; ++replay) {
    randomise_bf16(x.h);
    randomise_bf16(w.h);
    x.up(stream);
    w.up(stream);
    graph.replay();
    auto captured = y.down(stream);
    REQUIRE(kvops_rms_norm(&a) == KVOPS_OK);
    CHECK((captured == y.down(stream)));  // Catch would print every element
    kvops_rms_norm_args c = {sizeof c, x.on_cpu(), w.on_cpu(), y.on_cpu(), 1e-6};
    REQUIRE(kvops_rms_norm(&c) == KVOPS_OK);
    int far = 0;  // more than one unit in the last place from the CPU
    for (size_t i = 0; i < captured.size(); ++i)
      far += std::abs(int(int16_t(captured[i])) - int(int16_t(y.h[i]))) > 1;
    CHECK(far == 0);
  }
}

namespace {

constexpr int64_t kTokens = 77, kHeads = 4, kSize = 64, kBlocks = 9, kBlock = 16;

// The same call on both sides. The caches are kept as bytes, whatever their dtype.
struct Flash {
  Stream stream;
  kvops_dtype cache;
  int64_t width;
  Both<uint16_t> key{KVOPS_BF16, {kTokens, kHeads, kSize}};
  Both<uint16_t> value{KVOPS_BF16, {kTokens, kHeads, kSize}};
  Both<uint8_t> k, v;
  Both<int64_t> slots{KVOPS_I64, {kTokens}}, faults{KVOPS_I64, {1}};
  Both<float> k_scale{KVOPS_F32, {1}}, v_scale{KVOPS_F32, {1}};
  kvops_reshape_and_cache_flash_args gpu = {}, cpu = {};

  Flash(int64_t format, kvops_dtype dtype, int64_t elements)
      : cache(dtype),
        width(elements),
        k(KVOPS_U8, {kBlocks, kBlock, kHeads, elements * kvops_dtype_size(dtype)}),
        v(KVOPS_U8, {kBlocks, kBlock, kHeads, elements * kvops_dtype_size(dtype)}) {
    auto fill = [&](kvops_reshape_and_cache_flash_args& a, auto&& side) {
      a.struct_size = sizeof a;
      a.key = side(key), a.value = side(value), a.slot_mapping = side(slots);
      a.key_cache = typed(side(k)), a.value_cache = typed(side(v));
      a.k_scale = side(k_scale), a.v_scale = side(v_scale), a.faults = side(faults);
      a.format = format;
      if (format) a.v_scale_layout = KVOPS_V_SCALE_TRANSPOSED;
    };
    fill(gpu, [&](auto& t) { return t.on_gpu(stream); });
    fill(cpu, [](auto& t) { return t.on_cpu(); });
    k.up(stream), v.up(stream), faults.up(stream);
  }
  kvops_tensor typed(kvops_tensor t) const {
    int64_t shape[] = {kBlocks, kBlock, kHeads, width};
    return kvops_dense(t.data, t.device, t.stream, cache, 4, shape);
  }
  // New values and distinct slots, one of them padding and two bad.
  void change(float scale) {
    randomise_bf16(key.h);
    randomise_bf16(value.h);
    std::vector<int64_t> all(kBlocks * kBlock);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), generator);
    std::copy_n(all.begin(), kTokens, slots.h.begin());
    slots.h[3] = -1, slots.h[5] = kBlocks * kBlock, slots.h[70] = int64_t(1) << 40;
    k_scale.h[0] = scale, v_scale.h[0] = 0.021f;
    key.up(stream), value.up(stream), slots.up(stream), k_scale.up(stream), v_scale.up(stream);
  }
};

// Codes, copies and NVFP4 pages: bytes equal to the CPU's after every replay.
void check_flash(int64_t format, kvops_dtype cache, int64_t width) {
  Flash flash(format, cache, width);
  Graph graph(flash.stream,
              [&] { REQUIRE(kvops_reshape_and_cache_flash(&flash.gpu) == KVOPS_OK); });
  for (int replay = 1; replay <= 3; ++replay) {
    flash.change(0.013f * float(replay));
    graph.replay();
    REQUIRE(kvops_reshape_and_cache_flash(&flash.cpu) == KVOPS_OK);
    CHECK((flash.k.down(flash.stream) == flash.k.h));
    CHECK((flash.v.down(flash.stream) == flash.v.h));
    CHECK(flash.faults.down(flash.stream)[0] == 2 * replay);
    CHECK(flash.faults.h[0] == 2 * replay);
  }
}

}  // namespace

TEST_CASE("graph: reshape_and_cache_flash follows slots, data and scales") {
  SECTION("bf16") { check_flash(KVOPS_FORMAT_PLAIN, KVOPS_BF16, 64); }
  SECTION("fp8") { check_flash(KVOPS_FORMAT_PLAIN, KVOPS_F8_E4M3, 64); }
  SECTION("nvfp4") { check_flash(KVOPS_FORMAT_NVFP4_4OVER6, KVOPS_U8, 36); }
}

TEST_CASE("graph: checks that synchronise are inert while a stream captures") {
  Stream stream;
  Both<uint16_t> key(KVOPS_BF16, {2, 1, 8}), cache(KVOPS_BF16, {1, 2, 1, 8});
  Both<int64_t> slots(KVOPS_I64, {2});
  slots.h = {0, 2};  // of 2
  slots.up(stream);
  kvops_reshape_and_cache_flash_args a = {};
  a.struct_size = sizeof a;
  a.key = key.on_gpu(stream), a.value = a.key;
  a.key_cache = cache.on_gpu(stream), a.value_cache = cache.on_gpu(stream);
  Both<uint16_t> other(KVOPS_BF16, {1, 2, 1, 8});
  a.value_cache = other.on_gpu(stream);
  a.slot_mapping = slots.on_gpu(stream);
  REQUIRE(kvops_set_option("debug", "bounds,sync") == KVOPS_OK);
  CHECK(kvops_reshape_and_cache_flash(&a) == KVOPS_INVALID_ARGUMENT);
  Graph graph(stream, [&] { CHECK(kvops_reshape_and_cache_flash(&a) == KVOPS_OK); });
  kvops_set_option("debug", "");
  graph.replay();
}

namespace {

// A call that reads `in` and writes `out`, in place where they are the same: captured, and replayed
// on new data with the bits of a direct call.
template <class T, class F>
void check_replays(const Stream& stream, Both<uint16_t>& in, Both<T>& out, F&& call) {
  auto* same = static_cast<void*>(&in) == static_cast<void*>(&out) ? &in : nullptr;
  Graph graph(stream, [&] { REQUIRE(call() == KVOPS_OK); });
  for (int replay = 0; replay < 3; ++replay) {
    randomise_bf16(in.h);
    in.up(stream);
    if (!same) out.up(stream);
    graph.replay();
    auto captured = out.down(stream);
    in.up(stream);
    if (!same) out.up(stream);
    REQUIRE(call() == KVOPS_OK);
    CHECK((captured == out.down(stream)));
    CHECK((captured != out.h));
  }
}

}  // namespace

TEST_CASE("graph: gated activations follow their data") {
  Stream stream;
  Both<uint16_t> in(KVOPS_BF16, {33, 1000}), out(KVOPS_BF16, {33, 500});
  kvops_silu_and_mul_args a = {sizeof a, in.on_gpu(stream), out.on_gpu(stream)};
  check_replays(stream, in, out, [&] { return kvops_silu_and_mul(&a); });
  check_replays(stream, in, out, [&] { return kvops_mul_and_silu(&a); });
  check_replays(stream, in, out, [&] { return kvops_gelu_and_mul(&a); });
  check_replays(stream, in, out, [&] { return kvops_gelu_tanh_and_mul(&a); });
  kvops_fatrelu_and_mul_args f = {sizeof f, a.input, a.out, 0.25};
  check_replays(stream, in, out, [&] { return kvops_fatrelu_and_mul(&f); });
  kvops_swigluoai_and_mul_args s = {sizeof s, a.input, a.out, 1.702, 7};
  check_replays(stream, in, out, [&] { return kvops_swigluoai_and_mul(&s); });
  kvops_silu_and_mul_with_clamp_args c = {sizeof c, a.input, a.out, 7, 1, 0};
  check_replays(stream, in, out, [&] { return kvops_silu_and_mul_with_clamp(&c); });
}

TEST_CASE("graph: fused_add_rms_norm and convert_fp8 follow their data") {
  Stream stream;
  Both<uint16_t> x(KVOPS_BF16, {33, 4096}), residual(KVOPS_BF16, {33, 4096});
  kvops_fused_add_rms_norm_args a = {sizeof a, x.on_gpu(stream), residual.on_gpu(stream), {}, 1e-6};
  check_replays(stream, x, residual, [&] { return kvops_fused_add_rms_norm(&a); });
  Both<uint8_t> codes(KVOPS_F8_E4M3, {33, 4096});
  kvops_convert_fp8_args c = {sizeof c, x.on_gpu(stream), codes.on_gpu(stream), 0.25};
  check_replays(stream, x, codes, [&] { return kvops_convert_fp8(&c); });
}

TEST_CASE("graph: rotary_embedding follows positions and counts bad ones once each") {
  Stream stream;
  constexpr int64_t kRows = 300, kAll = 40;  // 32 heads of query, 8 of key, in one tensor
  Both<uint16_t> qk(KVOPS_BF16, {kRows, kAll, 128});
  Both<float> cache(KVOPS_F32, {64, 128});
  Both<int64_t> positions(KVOPS_I64, {kRows}), faults(KVOPS_I64, {1});
  std::normal_distribution<float> normal;
  for (auto& v : cache.h) v = normal(generator);
  cache.up(stream);
  faults.up(stream);
  auto part = [&](kvops_tensor t, int64_t first, int64_t heads) {
    t.data = static_cast<uint16_t*>(t.data) + first * 128;
    t.shape[1] = heads;
    return t;
  };
  kvops_rotary_embedding_args a = {};
  a.struct_size = sizeof a;
  a.positions = positions.on_gpu(stream), a.faults = faults.on_gpu(stream);
  a.query = part(qk.on_gpu(stream), 0, 32), a.key = part(qk.on_gpu(stream), 32, 8);
  a.cos_sin_cache = cache.on_gpu(stream);
  a.head_size = 128, a.is_neox = 1;
  auto cpu = a;
  cpu.positions = positions.on_cpu(), cpu.faults = faults.on_cpu();
  cpu.query = part(qk.on_cpu(), 0, 32), cpu.key = part(qk.on_cpu(), 32, 8);
  cpu.cos_sin_cache = cache.on_cpu();
  Graph graph(stream, [&] { REQUIRE(kvops_rotary_embedding(&a) == KVOPS_OK); });
  for (int replay = 1; replay <= 3; ++replay) {
    randomise_bf16(qk.h);
    for (auto& p : positions.h) p = int64_t(generator() % 64);
    positions.h[0] = 64, positions.h[7] = -1, positions.h[299] = int64_t(1) << 40;
    qk.up(stream), positions.up(stream);
    graph.replay();
    CHECK(faults.down(stream)[0] == 2 * replay);
    auto got = qk.down(stream);
    REQUIRE(kvops_rotary_embedding(&cpu) == KVOPS_OK);
    int far = 0;  // more than one unit in the last place from the CPU
    for (size_t i = 0; i < got.size(); ++i)
      far += std::abs(int(int16_t(got[i])) - int(int16_t(qk.h[i]))) > 1;
    CHECK(far == 0);
  }
}
