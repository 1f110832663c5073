// bench_products [SECONDS]: onednn_mm beside oneDNN called directly and beside our own product, in
// turn in one run; what packing costs, and the first call with a number of rows; int8 beside bf16.
// Not a test. The direct call lets oneDNN choose the layout of the weight for each number of rows.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cpu/onednn_api.h"
#include "kvcache_ops.h"
#include "kvcache_ops/onednn.h"

using namespace kvops::cpu::dnnl;

namespace {

using Clock = std::chrono::steady_clock;
double seconds = 0.4;

double time_of(auto&& f) {
  const auto begin = Clock::now();
  f();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + long(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// Medians of several things, measured in turn.
std::vector<double> compare(const std::vector<std::function<void()>>& things) {
  std::vector<std::vector<double>> times(things.size());
  for (auto& f : things) f();
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    for (size_t i = 0; i < things.size(); ++i) times[i].push_back(time_of(things[i]));
  } while (Clock::now() < end || times[0].size() < 5);
  std::vector<double> medians;
  for (auto& t : times) medians.push_back(median(t));
  return medians;
}

void must(kvops_status status) {
  if (status) std::printf("%s\n", kvops_last_error()), std::exit(1);
}
void must_dnnl(int status) {
  if (status) std::printf("oneDNN: status %d\n", status), std::exit(1);
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

// oneDNN as its documentation says: a primitive, a packed weight, memory objects that stay.
struct Direct {
  const Library& l = library();
  OwnedDesc input{l}, any{l}, out{l};
  OwnedAttributes attributes{l};
  OwnedPrimitiveDesc desc{l};
  OwnedPrimitive primitive{l};
  OwnedStream stream{l};
  OwnedMemory x{l}, w{l}, y{l}, scratch{l};
  std::vector<char> packed, temporary;

  Direct(Shape s, int64_t m, std::vector<char>& weight, std::vector<char>& in,
         std::vector<char>& result) {
    const int dtype = onednn_dtype(s.dtype);
    input = matrix(l, m, s.k, s.k, dtype);
    out = matrix(l, m, s.n, s.n, dtype);
    const Dims dims = {s.k, s.n};
    must_dnnl(l.api.memory_desc_create_with_tag(any.out(), 2, dims, dtype, kAnyLayout));
    must_dnnl(l.api.primitive_attr_create(attributes.out()));
    l.api.primitive_attr_set_scratchpad_mode(attributes.get(), kUserScratchpad);
    must_dnnl(l.api.matmul_primitive_desc_create(desc.out(), l.engine, input.get(), any.get(),
                                                 nullptr, out.get(), attributes.get()));
    must_dnnl(l.api.primitive_create(primitive.out(), desc.get()));
    must_dnnl(l.api.stream_create(stream.out(), l.engine, kInOrder));
    auto* layout = l.api.primitive_desc_query_md(desc.get(), kWeightsDesc, 0);
    auto* scratch_layout = l.api.primitive_desc_query_md(desc.get(), kScratchpadDesc, 0);
    packed.resize(l.api.memory_desc_get_size(layout) + 64);
    temporary.resize(l.api.memory_desc_get_size(scratch_layout) + 64);
    auto aligned = [](std::vector<char>& v) {
      return v.data() + (64 - reinterpret_cast<uintptr_t>(v.data()) % 64) % 64;
    };
    x = memory(l, input.get(), in.data()), y = memory(l, out.get(), result.data());
    w = memory(l, layout, aligned(packed));
    scratch = memory(l, scratch_layout, aligned(temporary));
    auto plain = matrix(l, s.k, s.n, s.n, dtype);
    auto from = memory(l, plain.get(), weight.data());
    OwnedPrimitiveDesc reorder(l);
    OwnedPrimitive pack(l);
    must_dnnl(l.api.reorder_primitive_desc_create(reorder.out(), plain.get(), l.engine, layout,
                                                  l.engine, nullptr));
    must_dnnl(l.api.primitive_create(pack.out(), reorder.get()));
    const Argument arguments[] = {{kFrom, from.get()}, {kTo, w.get()}};
    must_dnnl(l.api.primitive_execute(pack.get(), stream.get(), 2, arguments));
  }
  void run() {
    const Argument arguments[] = {
        {kSource, x.get()}, {kWeights, w.get()}, {kOut, y.get()}, {kScratchpad, scratch.get()}};
    must_dnnl(l.api.primitive_execute(primitive.get(), stream.get(), 4, arguments));
  }
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

void bench(Shape s, const std::vector<int64_t>& rows) {
  auto weight = random_bytes(s.k * s.n, s.dtype);
  const bool direct = library().engine && s.dtype != KVOPS_F16;
  double packing = 0, own_packing = 0;
  const int64_t handle = create("", s, weight, &packing);
  const int64_t own = create("onednn_mm:highway", s, weight, &own_packing);
  std::vector<char> copy(weight.size());
  const double copying = time_of([&] { copy = weight; });
  std::printf("%s k %lld n %lld: packing %.1f ms, our own %.1f ms, memcpy %.1f ms\n", s.name,
              (long long)s.k, (long long)s.n, packing * 1e3, own_packing * 1e3, copying * 1e3);
  for (int64_t m : rows) {
    auto in = random_bytes(m * s.k, s.dtype), out = random_bytes(m * s.n, s.dtype);
    kvops_onednn_mm_args a = {};
    a.struct_size = sizeof a;
    a.input = tensor(in.data(), s.dtype, m, s.k);
    a.out = tensor(out.data(), s.dtype, m, s.n);
    auto run = [&](int64_t number) {
      a.handle = number;
      must(kvops_onednn_mm(&a));
    };
    const double first = time_of([&] { run(handle); });
    std::vector<std::function<void()>> things = {[&] { run(handle); }, [&] { run(own); }};
    std::unique_ptr<Direct> one;
    if (direct) {
      one = std::make_unique<Direct>(s, m, weight, in, out);
      things.push_back([&] { one->run(); });
    }
    const auto t = compare(things);
    const double flops = 2.0 * double(m) * double(s.k) * double(s.n);
    std::printf("  m %4lld  onednn_mm %9.1f us %7.1f GFLOP/s, first call +%.2f ms", (long long)m,
                t[0] * 1e6, flops / t[0] * 1e-9, (first - t[0]) * 1e3);
    if (direct) std::printf("  direct %9.1f us, ratio %.3f", t[2] * 1e6, t[0] / t[2]);
    std::printf("  highway %9.1f us, %.0f %%\n", t[1] * 1e6, 100 * (direct ? t[2] : t[0]) / t[1]);
    std::fflush(stdout);
  }
  release(handle), release(own);
}

void bench_i8(int64_t k, int64_t n, const std::vector<int64_t>& rows) {
  auto weight = random_bytes(k * n, KVOPS_I8);
  std::vector<float> scales(size_t(std::max<int64_t>(n, rows.back())), 0.01F);
  int64_t handles[2] = {};
  for (int i = 0; i < 2; ++i) {
    must(kvops_set_option("impl", i ? "onednn_scaled_mm:highway" : ""));
    kvops_create_onednn_scaled_mm_args a = {};
    a.struct_size = sizeof a;
    a.weight = tensor(weight.data(), KVOPS_I8, k, n);
    a.weight_scales = tensor(scales.data(), KVOPS_F32, 1, n);
    a.handle = tensor(&handles[i], KVOPS_I64, 1, 1);
    a.handle.rank = 1;
    a.out_dtype = KVOPS_BF16, a.dynamic_act_quant = 1;
    must(kvops_create_onednn_scaled_mm(&a));
  }
  must(kvops_set_option("impl", ""));
  std::printf("i8 -> bf16 k %lld n %lld\n", (long long)k, (long long)n);
  for (int64_t m : rows) {
    auto in = random_bytes(m * k, KVOPS_I8), out = random_bytes(m * n, KVOPS_BF16);
    kvops_onednn_scaled_mm_args a = {};
    a.struct_size = sizeof a;
    a.input = tensor(in.data(), KVOPS_I8, m, k);
    a.input_scale = tensor(scales.data(), KVOPS_F32, m, 1);
    a.out = tensor(out.data(), KVOPS_BF16, m, n);
    auto run = [&](int64_t handle) {
      a.handle = handle;
      must(kvops_onednn_scaled_mm(&a));
    };
    const auto t = compare({[&] { run(handles[0]); }, [&] { run(handles[1]); }});
    const double ops = 2.0 * double(m) * double(k) * double(n);
    std::printf("  m %4lld  onednn_scaled_mm %9.1f us %7.1f Gop/s  highway %9.1f us, %.0f %%\n",
                (long long)m, t[0] * 1e6, ops / t[0] * 1e-9, t[1] * 1e6, 100 * t[0] / t[1]);
    std::fflush(stdout);
  }
  release(handles[0]), release(handles[1]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seconds = std::atof(argv[1]);
  std::printf("oneDNN %s\n", kvops_onednn_library());
  bench({"bf16", 4096, 4096, KVOPS_BF16}, {1, 16, 17, 128, 500});
  bench({"bf16", 491, 1023, KVOPS_BF16}, {1, 31});
  bench({"f32", 4096, 4096, KVOPS_F32}, {1, 16, 128});
  bench({"f16", 4096, 4096, KVOPS_F16}, {1, 16, 128});
  bench_i8(4096, 4096, {1, 16, 128, 500});
  return 0;
}
