// bench_products: what a weight costs before products run at the speed that `kvops bench onednn_mm`
// shows: packing it, for oneDNN and for our own product, beside a memcpy; and what the first call
// with a number of rows adds to later ones. Not a test.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kvcache_ops.h"
#include "kvcache_ops/onednn.h"

namespace {

using Clock = std::chrono::steady_clock;

double time_of(auto&& f) {
  const auto begin = Clock::now();
  f();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
// The median of five.
double usual_time_of(auto&& f) {
  double times[5];
  for (auto& t : times) t = time_of(f);
  std::nth_element(times, times + 2, times + 5);
  return times[2];
}

void must(kvops_status status) {
  if (status) std::printf("%s\n", kvops_last_error()), std::exit(1);
}

std::vector<char> random_bytes(int64_t count, kvops_dtype dtype) {
  std::vector<char> data(size_t(count * kvops_dtype_size(dtype)));
  uint64_t state = 1;
  auto* halves = reinterpret_cast<uint16_t*>(data.data());
  auto* floats = reinterpret_cast<float*>(data.data());
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto bits = uint32_t(state >> 33);
    if (dtype == KVOPS_F32) floats[i] = float(bits) / float(1u << 30) - 1;
    if (dtype == KVOPS_BF16) halves[i] = uint16_t((bits & 0x807F) | 125 << 7);
    if (dtype == KVOPS_F16) halves[i] = uint16_t((bits & 0x83FF) | 13 << 10);
    if (dtype == KVOPS_I8) data[size_t(i)] = char(bits);
  }
  return data;
}

kvops_tensor tensor(void* data, kvops_dtype dtype, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, columns};
  return kvops_dense(data, {KVOPS_CPU, 0}, nullptr, dtype, 2, shape);
}

struct Shape {
  const char* name;
  int64_t k, n;
  kvops_dtype dtype;
};

int64_t create(const char* impl, Shape s, std::vector<char>& weight, double* time) {
  must(kvops_set_option("impl", impl));
  int64_t handle = 0;
  auto number = tensor(&handle, KVOPS_I64, 1, 1);
  number.rank = 0;
  *time = time_of([&] {
    kvops_create_onednn_mm_args a = {};
    a.struct_size = sizeof a;
    a.weight = tensor(weight.data(), s.dtype, s.k, s.n);
    a.handle = number;
    must(kvops_create_onednn_mm(&a));
  });
  must(kvops_set_option("impl", ""));
  return handle;
}

void release(int64_t handle) {
  kvops_release_dnnl_matmul_handler_args a = {};
  a.struct_size = sizeof a;
  a.handle = handle;
  must(kvops_release_dnnl_matmul_handler(&a));
}

// Packing is timed three times, the shortest counts: the first touches new memory.
double packing_of(const char* impl, Shape s, std::vector<char>& weight) {
  double shortest = 1e30;
  for (int i = 0; i < 3; ++i) {
    double time = 0;
    release(create(impl, s, weight, &time));
    shortest = std::min(shortest, time);
  }
  return shortest;
}

void bench(Shape s, const std::vector<int64_t>& rows) {
  auto weight = random_bytes(s.k * s.n, s.dtype);
  std::vector<char> copy(weight.size());
  const double copying = usual_time_of([&] { copy = weight; });
  const double packing = packing_of("", s, weight);
  const double own = packing_of("onednn_mm:highway", s, weight);
  std::printf("%s k %lld n %lld: packing %.2f ms, our own %.2f ms (%.1f memcpys of %.2f ms)\n",
              s.name, (long long)s.k, (long long)s.n, packing * 1e3, own * 1e3, own / copying,
              copying * 1e3);
  double time = 0;
  const int64_t handle = create("", s, weight, &time);
  for (int64_t m : rows) {
    auto in = random_bytes(m * s.k, s.dtype), out = random_bytes(m * s.n, s.dtype);
    kvops_onednn_mm_args a = {};
    a.struct_size = sizeof a;
    a.input = tensor(in.data(), s.dtype, m, s.k);
    a.out = tensor(out.data(), s.dtype, m, s.n);
    a.handle = handle;
    auto run = [&] { must(kvops_onednn_mm(&a)); };
    const double first = time_of(run), later = usual_time_of(run);
    std::printf("  m %4lld  %9.1f us, first call +%.2f ms\n", (long long)m, later * 1e6,
                (first - later) * 1e3);
  }
  release(handle);
}

}  // namespace

int main() {
  std::printf("oneDNN %s\n", kvops_onednn_library());
  bench({"bf16", 4096, 4096, KVOPS_BF16}, {1, 16, 17, 128, 500});
  bench({"bf16", 491, 1023, KVOPS_BF16}, {1, 31});
  bench({"f32", 4096, 4096, KVOPS_F32}, {1, 16, 128});
  bench({"f16", 4096, 4096, KVOPS_F16}, {1, 16, 128});
  return 0;
}
