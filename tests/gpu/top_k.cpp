// top_k_per_row on a GPU: values and lengths that a shape list does not draw, against the CPU; the
// replay of a graph after the lengths have changed; offsets past 2^31 elements.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "device.h"
#include "graph.h"

using namespace test;

namespace {

std::mt19937 generator(11);
float normal() { return std::normal_distribution<float>()(generator); }
float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// A workspace of the CPU's begins at a multiple of 64 bytes.
struct Room {
  std::vector<uint8_t> memory;

  explicit Room(int64_t bytes) : memory(size_t(bytes + 64)) {}
  kvops_tensor tensor() {
    const auto skip = -reinterpret_cast<uintptr_t>(memory.data()) % 64;
    const int64_t bytes = int64_t(memory.size()) - 64;
    return kvops_dense(memory.data() + skip, kCpu, nullptr, KVOPS_U8, 1, &bytes);
  }
};

// Decode rows with lengths of their own, on both sides.
struct Rows {
  Stream stream;
  Both<float> logits;
  Both<int32_t> lengths, out;
  Both<uint8_t> gpu_room;
  Room cpu_room;
  kvops_top_k_per_row_decode_args gpu = {}, cpu = {};

  Rows(int64_t rows, int64_t columns, int64_t k)
      : logits(KVOPS_F32, {rows, columns}),
        lengths(KVOPS_I32, {rows}),
        out(KVOPS_I32, {rows, k}),
        gpu_room(KVOPS_U8, {bytes(kGpu, rows, columns, k)}),
        cpu_room(bytes(kCpu, rows, columns, k)) {
    gpu = args(stream.get(), kGpu, rows, columns, k), cpu = args(nullptr, kCpu, rows, columns, k);
    gpu.logits = logits.on_gpu(stream), cpu.logits = logits.on_cpu();
    gpu.seq_lens = lengths.on_gpu(stream), cpu.seq_lens = lengths.on_cpu();
    gpu.indices = out.on_gpu(stream), cpu.indices = out.on_cpu();
    gpu.workspace = gpu_room.on_gpu(stream), cpu.workspace = cpu_room.tensor();
    std::fill(lengths.h.begin(), lengths.h.end(), int32_t(columns));
  }
  static kvops_top_k_per_row_decode_args args(void* stream, kvops_device device, int64_t rows,
                                              int64_t columns, int64_t k) {
    static int64_t place[8];
    kvops_top_k_per_row_decode_args a = {};
    a.struct_size = sizeof a;
    const int64_t wide[] = {rows, columns}, narrow[] = {rows, k};
    a.logits = kvops_dense(place, device, stream, KVOPS_F32, 2, wide);
    a.seq_lens = kvops_dense(place, device, stream, KVOPS_I32, 1, wide);
    a.indices = kvops_dense(place, device, stream, KVOPS_I32, 2, narrow);
    a.next_n = 1;
    return a;
  }
  static int64_t bytes(kvops_device device, int64_t rows, int64_t columns, int64_t k) {
    auto a = args(nullptr, device, rows, columns, k);
    a.order = KVOPS_TOP_K_BY_VALUE;
    int64_t n = 0;
    need(kvops_top_k_per_row_decode_workspace(&a, &n));
    return std::max<int64_t>(n, 64);
  }
  void fill(const std::function<float(int64_t)>& f) {
    for (size_t i = 0; i < logits.h.size(); ++i) logits.h[i] = f(int64_t(i));
  }
  void up() {
    logits.up(stream), lengths.up(stream);
    std::fill(out.h.begin(), out.h.end(), -77);
    out.up(stream);
  }
  // Unordered results of a GPU ascend, and so are those of BY_INDEX.
  bool equal(int64_t order) {
    cpu.order = order == KVOPS_TOP_K_UNORDERED ? int64_t(KVOPS_TOP_K_BY_INDEX) : order;
    REQUIRE(kvops_top_k_per_row_decode(&cpu) == KVOPS_OK);
    return out.down(stream) == out.h;
  }
  void check() {
    for (int64_t order : {KVOPS_TOP_K_UNORDERED, KVOPS_TOP_K_BY_VALUE, KVOPS_TOP_K_BY_INDEX}) {
      CAPTURE(order);
      up();
      gpu.order = order;
      REQUIRE(kvops_top_k_per_row_decode(&gpu) == KVOPS_OK);
      CHECK(equal(order));
    }
  }
};

}  // namespace

TEST_CASE("top-k on a GPU: distributions that ties, bins and samples fear") {
  const float kInf = INFINITY;
  const std::function<float(int64_t)> kinds[] = {
      [](int64_t) { return 1.5f; }, [](int64_t i) { return float(i % 131072); },
      [](int64_t i) { return -float(i % 131072); }, [](int64_t) { return float(generator() % 10); },
      [](int64_t) { return from_bits(0x3F900000 | (generator() & 1023)); },
      [](int64_t) { return from_bits(0xBF900000 | (generator() & 1)); },
      [=](int64_t i) { return i % 97 ? -kInf : float(i); },
      [](int64_t) { return from_bits(uint32_t(generator())); },
      [](int64_t) { return std::max(0.0f, normal()); },
      [](int64_t) { return generator() & 1 ? 0.0f : -0.0f; },
      [](int64_t) { return 1000 + normal(); },
      [](int64_t) {
        return generator() % 3 ? normal() : from_bits(0x7FC00000 | generator() << 31);
      },
      // What a sample of runs of four at equal distances sees is not what there is.
      [](int64_t i) { return i % 128 < 4 ? 9.0f : float(i % 7); }};
  int number = 0;
  for (auto& kind : kinds) {
    INFO("kind " << number++);
    for (auto [rows, columns, k] : {std::array<int64_t, 3>{3, 8192, 2048},
                                    {3, 30000, 2048},
                                    {2, 131072, 2048},
                                    {150, 20000, 100},
                                    {1, 140000, 9000}}) {
      CAPTURE(rows, columns, k);
      Rows r(rows, columns, k);
      r.fill(kind);
      r.check();
    }
  }
}

TEST_CASE("top-k on a GPU: lengths around k and around every size that the code knows") {
  Rows r(40, 170000, 2048);
  r.fill([](int64_t) { return normal(); });
  const int32_t lengths[] = {-5,   0,     1,     2047,  2048,  2049,  4097,   8189,   8191,  8192,
                             8193, 16380, 16383, 16384, 16385, 32769, 131072, 131199, 163839};
  for (size_t i = 0; i < r.lengths.h.size(); ++i)
    r.lengths.h[i] = i < std::size(lengths) ? lengths[i] : int32_t(generator() % 180000);
  r.check();
}

TEST_CASE("top-k on a GPU: more columns than a bitmap, k up to 2^20") {
  Rows r(1, 3'000'000, 1 << 20);
  r.fill([](int64_t) { return normal(); });
  r.check();
  Rows few(1, 3'000'000, 5);
  few.fill([](int64_t i) { return float(i % 1001); });
  few.check();
}

TEST_CASE("graph: top_k_per_row_decode follows lengths and logits") {
  for (int64_t rows : {2, 200}) {
    Rows r(rows, 40000, 700);
    r.gpu.order = KVOPS_TOP_K_UNORDERED;
    r.up();
    Graph graph(r.stream, [&] { REQUIRE(kvops_top_k_per_row_decode(&r.gpu) == KVOPS_OK); });
    for (int64_t most : {40000, 600, 8000, 17000}) {
      for (auto& n : r.lengths.h) n = int32_t(most - int64_t(generator() % 100));
      r.fill([&](int64_t i) { return most == 8000 ? float(i % 5) : normal(); });
      r.up();
      graph.replay();
      CHECK(r.equal(KVOPS_TOP_K_UNORDERED));
    }
  }
}

TEST_CASE("top_k_per_row_prefill on a GPU: offsets past 2^31 elements") {
  Stream stream;
  constexpr int64_t kStride = (int64_t(1) << 31) + 13, kColumns = 20000, kK = 100;
  void* data = nullptr;
  if (kvops_malloc(kGpu, (kStride + kColumns) * 4, &data)) return;  // needs 8 GiB
  Both<float> rows(KVOPS_F32, {2, kColumns});
  Both<int32_t> starts(KVOPS_I32, {2}), ends(KVOPS_I32, {2}), out(KVOPS_I32, {2, kK});
  for (auto& x : rows.h) x = normal();
  starts.h = {7, 11}, ends.h = {int32_t(kColumns), 19000};
  rows.up(stream), starts.up(stream), ends.up(stream);
  kvops_top_k_per_row_prefill_args a = {};
  a.struct_size = sizeof a;
  a.order = KVOPS_TOP_K_BY_INDEX;
  a.logits = rows.on_gpu(stream);
  for (int64_t r = 0; r < 2; ++r)
    need(kvops_copy(kGpu, stream.get(), static_cast<float*>(data) + r * kStride,
                    static_cast<float*>(a.logits.data) + r * kColumns, kColumns * 4));
  a.logits.data = data, a.logits.stride[0] = kStride;
  a.row_starts = starts.on_gpu(stream), a.row_ends = ends.on_gpu(stream);
  a.indices = out.on_gpu(stream);
  CHECK(kvops_top_k_per_row_prefill(&a) == KVOPS_OK);
  const auto got = out.down(stream);
  a.logits = rows.on_cpu(), a.row_starts = starts.on_cpu(), a.row_ends = ends.on_cpu();
  a.indices = out.on_cpu();
  int64_t bytes = 0;
  need(kvops_top_k_per_row_prefill_workspace(&a, &bytes));
  Room room(bytes);
  a.workspace = room.tensor();
  CHECK(kvops_top_k_per_row_prefill(&a) == KVOPS_OK);
  CHECK((got == out.h));
  need(kvops_free(kGpu, data));
}
