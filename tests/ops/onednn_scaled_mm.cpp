// create_onednn_scaled_mm and onednn_scaled_mm: the same arithmetic, step by step, on exact sums.
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "ops/onednn.h"

using namespace kvops;
using namespace tests;

namespace {

struct Scheme {
  bool dynamic = false, azp = false, adj = false, bias = false, per_channel = false;
};

template <class T>
struct Call {
  int64_t m, n, k;
  Scheme scheme;
  std::vector<int8_t> weight, input;  // [n][k], [m][k]
  std::vector<float> sw, sx, adj;
  std::vector<int32_t> azp, sums;
  std::vector<T> bias;
  Handle handle;

  Call(int64_t m, int64_t n, int64_t k, Scheme s) : m(m), n(n), k(k), scheme(s) {
    std::mt19937 random{unsigned(m * n + k)};
    std::normal_distribution<float> normal;
    auto byte = [&] {
      return int8_t(std::clamp(std::nearbyint(normal(random) * 40.), -128., 127.));
    };
    for (int64_t i = 0; i < n * k; ++i) weight.push_back(byte());
    for (int64_t i = 0; i < m * k; ++i) input.push_back(byte());
    weight[0] = input[0] = -128;
    for (int64_t i = 0; i < (s.per_channel ? n : 1); ++i) sw.push_back(normal(random));
    for (int64_t i = 0; i < (s.dynamic ? m : 1); ++i) {
      sx.push_back(normal(random));
      azp.push_back(int32_t(normal(random) * (i % 3 ? 100 : 1e8F)));
    }
    for (int64_t j = 0; j < n; ++j) {
      int32_t sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += weight[size_t(j * k + i)];
      sums.push_back(sum);
      adj.push_back(scale_of(j) * float(sum) * 1.5F);  // not what is computed when it is absent
      bias.push_back(from_float<T>(normal(random) * 10));
    }
  }

  float scale_of(int64_t j) const { return sw[sw.size() > 1 ? size_t(j) : 0]; }

  kvops_status create() {
    auto a = make<kvops_create_onednn_scaled_mm_args>();
    a.weight = tensor(weight, KVOPS_I8, {k, n}, {1, k});
    a.weight_scales = tensor(sw, KVOPS_F32, {int64_t(sw.size())});
    a.handle = handle.tensor();
    a.out_dtype = dtype_of<T>;
    a.dynamic_act_quant = scheme.dynamic;
    a.use_azp = scheme.azp;
    return kvops_create_onednn_scaled_mm(&a);
  }

  kvops_onednn_scaled_mm_args args(Matrix<T>& out) const {
    auto a = make<kvops_onednn_scaled_mm_args>();
    a.input = tensor(input, KVOPS_I8, {m, k});
    a.input_scale = tensor(sx, KVOPS_F32, {int64_t(sx.size())});
    if (scheme.azp) a.azp = tensor(azp, KVOPS_I32, {int64_t(azp.size())});
    if (scheme.adj) a.azp_adj = tensor(adj, KVOPS_F32, {1, n});
    if (scheme.bias) a.bias = tensor(bias, dtype_of<T>, {n});
    a.out = out.tensor();
    a.handle = handle.number;
    return a;
  }

  int32_t sum(int64_t r, int64_t c) const {
    int32_t acc = 0;
    for (int64_t i = 0; i < k; ++i)
      acc += int32_t{input[size_t(r * k + i)]} * weight[size_t(c * k + i)];
    return acc;
  }

  T expected(int64_t r, int64_t c) const {
    const auto row = size_t(scheme.dynamic ? r : 0);
    const int64_t acc = sum(r, c);
    // volatile: no step is contracted into the next.
    volatile float y;
    if (scheme.dynamic) {
      y = scale_of(c) * float(acc);
      y = sx[row] * y;
      if (scheme.azp) {
        volatile float zero = sx[row] * float(azp[row]);
        volatile float by = scheme.adj ? adj[size_t(c)] : scale_of(c) * float(sums[size_t(c)]);
        by = by * zero;
        y = y - by;
      }
    } else {
      const int64_t shift = scheme.azp ? int64_t{azp[0]} * sums[size_t(c)] : 0;
      y = scale_of(c) * float(acc - shift);
      y = sx[0] * y;
    }
    if (scheme.bias) y = y + to_float(bias[size_t(c)]);
    return from_float<T>(y);
  }

  int64_t wrong(const Matrix<T>& out) const {
    int64_t count = 0;
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 0; c < n; ++c) count += !same(out.row(r)[c], expected(r, c));
    return count;
  }
};

const Scheme kSchemes[] = {
    {},
    {.bias = true},
    {.azp = true},
    {.azp = true, .bias = true, .per_channel = true},
    {.azp = true, .adj = true},  // static: azp_adj is not read
    {.dynamic = true},
    {.dynamic = true, .bias = true, .per_channel = true},
    {.dynamic = true, .azp = true, .per_channel = true},
    {.dynamic = true, .azp = true, .adj = true, .bias = true, .per_channel = true},
    {.dynamic = true, .azp = true, .adj = true, .bias = true},
};

template <class T>
void check(int64_t m, int64_t n, int64_t k, Scheme s) {
  INFO("m " << m << " n " << n << " k " << k << " dynamic " << s.dynamic << " azp " << s.azp);
  Call<T> call(m, n, k, s);
  CHECK_OK(call.create());
  Matrix<T> out(m, n, 1, n + 3);
  const auto args = call.args(out);
  CHECK_OK(kvops_onednn_scaled_mm(&args));
  CHECK(call.wrong(out) == 0);
  CHECK(out.intact());
}

}  // namespace

TEMPLATE_TEST_CASE("onednn_scaled_mm: every scheme gives the same bits, whoever multiplies", "",
                   float, bf16, f16) {
  by_everybody([](By) {
    for (auto& s : kSchemes) {
      check<TestType>(17, 256, 128, s);
      check<TestType>(3, 1001, 15, s);
      check<TestType>(1, 1, 1, s);
    }
  });
}

TEST_CASE("onednn_scaled_mm: every scheme gives the same bits on every instruction set") {
  on_every_isa([] {
    for (auto& s : kSchemes) check<bf16>(5, 1001, 67, s);
  });
}

TEST_CASE("onednn_scaled_mm: sums are exact over panels, slabs and tails") {
  const Scheme s = {.dynamic = true, .azp = true, .per_channel = true};
  by_everybody([&](By) {
    for (int64_t m : {1, 2, 15, 16, 17, 64, 65, 130}) check<float>(m, 300, 70, s);
    for (int64_t n : {255, 256, 257, 511, 513}) check<float>(3, n, 31, s);
    check<float>(2, 20, 9000, s);
  });
}

TEST_CASE("onednn_scaled_mm: the largest sums do not overflow") {
  const int64_t k = 131071, n = 2;
  std::vector<int8_t> ones(size_t(k * n), -128);
  std::vector<float> scale = {1}, out(2);
  by_everybody([&](By) {
    Handle handle;
    auto c = make<kvops_create_onednn_scaled_mm_args>();
    c.weight = tensor(ones, KVOPS_I8, {k, n}, {1, k});
    c.weight_scales = tensor(scale, KVOPS_F32, {1});
    c.handle = handle.tensor();
    c.out_dtype = KVOPS_F32;
    CHECK_OK(kvops_create_onednn_scaled_mm(&c));
    auto a = make<kvops_onednn_scaled_mm_args>();
    a.input = tensor(ones, KVOPS_I8, {1, k});
    a.input_scale = c.weight_scales;
    a.out = tensor(out, KVOPS_F32, {1, n});
    a.handle = handle.number;
    CHECK_OK(kvops_onednn_scaled_mm(&a));
    CHECK(out[0] == float(int64_t{16384} * k));
    CHECK(out[1] == out[0]);
  });
}

TEST_CASE("onednn_scaled_mm: scales are copied, strides of input are free, bits free of threads") {
  by_everybody([](By) {
    Call<float> call(70, 600, 50, {.dynamic = true, .azp = true, .per_channel = true});
    CHECK_OK(call.create());
    auto scales = std::exchange(call.sw, std::vector<float>(600, -1.F));
    std::vector<int8_t> padded(70 * 64, 99);
    for (int64_t r = 0; r < 70; ++r)
      std::copy_n(&call.input[size_t(r * 50)], 50, &padded[size_t(r * 64)]);
    Matrix<float> out(70, 600);
    auto args = call.args(out);
    args.input = tensor(padded, KVOPS_I8, {70, 50}, {64, 1});
    for (int threads : {1, 2, 7}) {
      kvops_set_num_threads(threads);
      CHECK_OK(kvops_onednn_scaled_mm(&args));
      std::swap(call.sw, scales);
      CHECK(call.wrong(out) == 0);
      std::swap(call.sw, scales);
    }
    kvops_set_num_threads(0);
  });
}

TEST_CASE("onednn_scaled_mm: temporaries are panels, not the product") {
  by_everybody([](By) {
    // Sums of 64 MiB; a child's peak may grow by its pages of the 32 MiB that it writes.
    const int64_t m = 2048, n = 8192, k = 16;
    Call<bf16> call(1, n, k, {});
    CHECK_OK(call.create());
    std::vector<int8_t> input(size_t(m * k), 1);
    Matrix<bf16> out(m, n);
    auto args = call.args(out);
    args.out.shape[0] = 1;
    CHECK_OK(kvops_onednn_scaled_mm(&args));  // what the first call loads and makes is no temporary
    args.out.shape[0] = m;
    args.input = tensor(input, KVOPS_I8, {m, k});
    CHECK(true_in_child([&] {
      rusage before = {}, after = {};
      getrusage(RUSAGE_SELF, &before);
      const auto status = kvops_onednn_scaled_mm(&args);
      getrusage(RUSAGE_SELF, &after);
      return !status && after.ru_maxrss - before.ru_maxrss < (8 << 10) + m * n * 2 / 1024;
    }));
  });
}

TEST_CASE("onednn_scaled_mm: a handle says what fits it") {
  Call<bf16> call(4, 6, 8, {.dynamic = true});
  CHECK_OK(call.create());
  Call<bf16> fixed(4, 6, 8, {});
  CHECK_OK(fixed.create());
  Matrix<bf16> out(4, 6);
  Matrix<float> other(4, 6);
  std::vector<int32_t> zero = {1};
  auto refused = [](const kvops_onednn_scaled_mm_args& a, const char* text) {
    CHECK(kvops_onednn_scaled_mm(&a) == KVOPS_INVALID_ARGUMENT);
    CHECK(std::string(kvops_last_error()) == std::string("onednn_scaled_mm: ") + text);
  };
  auto a = call.args(out);
  a.input_scale = tensor(call.sx, KVOPS_F32, {1});
  refused(a, "input_scale: has 1 elements, expected 4 (a handle for dynamic quantisation)");
  a = call.args(out);
  a.out = other.tensor();
  refused(a, "out: dtype is f32, expected bf16 (out_dtype of the handle)");
  a = fixed.args(out);
  a.input_scale = tensor(call.sx, KVOPS_F32, {4});
  refused(a, "input_scale: has 4 elements, expected 1 (a handle for static quantisation)");
  a = fixed.args(out);
  a.azp = tensor(zero, KVOPS_I32, {1});
  refused(a, "azp: is given, expected none (a static handle without use_azp)");

  auto weight = Matrix<bf16>(8, 6).randomize(1);
  Handle plain;
  CHECK_OK(create_mm(plain, weight.tensor()));
  a = call.args(out);
  a.handle = plain.number;
  refused(a, "handle: is of create_onednn_mm, expected create_onednn_scaled_mm");
  auto input = Matrix<bf16>(4, 8).randomize(2);
  CHECK(multiply(call.handle.number, input.tensor(), out.tensor()) == KVOPS_INVALID_ARGUMENT);
  CHECK(std::string(kvops_last_error()) ==
        "onednn_mm: handle: is of create_onednn_scaled_mm, expected create_onednn_mm");
}

TEST_CASE("onednn_scaled_mm: a host's pool gets the work") {
  static std::atomic<int64_t> tasks;
  tasks = 0;
  Call<float> call(70, 600, 500, {.dynamic = true});
  CHECK_OK(call.create());
  Matrix<float> out(70, 600);
  const auto args = call.args(out);
  kvops_set_parallel_for(
      [](void*, int64_t n, kvops_task task, void* context) {
        tasks += n;
        std::thread other([&] {
          for (int64_t i = 0; i < n; i += 2) task(context, i);
        });
        for (int64_t i = 1; i < n; i += 2) task(context, i);
        other.join();
      },
      nullptr);
  const auto status = kvops_onednn_scaled_mm(&args);
  // Weights that are packed now are multiplied on the pool, too.
  auto weight = Matrix<float>(200, 600).randomize(1), input = Matrix<float>(64, 200).randomize(2);
  Handle handle;
  const auto created = create_mm(handle, weight.tensor());
  const auto before = tasks.load();
  Matrix<float> result(64, 600);
  const auto multiplied = multiply(handle.number, input.tensor(), result.tensor());
  kvops_set_parallel_for(nullptr, nullptr);
  CHECK(status == KVOPS_OK);
  CHECK(created == KVOPS_OK);
  CHECK(multiplied == KVOPS_OK);
  CHECK(before > 0);
  CHECK(tasks > before);
  CHECK(call.wrong(out) == 0);
}
