// create_onednn_mm, onednn_mm and release_dnnl_matmul_handler against products in double.
#include <atomic>
#include <thread>

#include "cpu/onednn.h"
#include "ops/onednn.h"

using namespace kvops;
using namespace tests;

namespace {

// The terms of a sum, and the sum of their magnitudes: an f32 sum of k terms in any order is within
// k + 1 roundings of 2^-24 each of that; a bf16 dot product rounds each pair once more.
struct Expected {
  double value, magnitude;
};

template <class T>
Expected expected(const Matrix<T>& input, const Matrix<T>& weight, const T* bias, int64_t r,
                  int64_t c) {
  Expected e = {bias ? to_float(bias[c]) : 0.0, bias ? std::abs(to_float(bias[c])) : 0.0};
  for (int64_t i = 0; i < input.size; ++i) {
    const double term = double(to_float(input.row(r)[i])) * double(to_float(weight.row(i)[c]));
    e.value += term, e.magnitude += std::abs(term);
  }
  return e;
}

// Wrong elements of a product.
template <class T>
int64_t wrong(const Matrix<T>& out, const Matrix<T>& input, const Matrix<T>& weight,
              const T* bias) {
  int64_t count = 0;
  for (int64_t r = 0; r < out.rows; ++r) {
    for (int64_t c = 0; c < out.size; ++c) {
      const auto e = expected(input, weight, bias, r, c);
      const double sums = std::ldexp(2.0 * double(input.size + 2) * e.magnitude, -24);
      const double rounding = sizeof(T) == 4 ? 0 : 0.5 * ulp<T>(std::abs(e.value) + sums);
      count += !(std::abs(to_float(out.row(r)[c]) - e.value) <= sums + rounding);
    }
  }
  return count;
}

struct Shape {
  int64_t n, k;
};
// vLLM's, and those where something is 1 or just past a vector, a panel, a pair.
constexpr Shape kShapes[] = {{256, 128}, {1023, 491}, {1001, 15}, {1, 1},   {1, 300},  {300, 1},
                             {16, 2},    {17, 33},    {64, 64},   {65, 31}, {257, 255}};

template <class T>
void check_shape(Shape s, std::initializer_list<int64_t> rows) {
  INFO("n " << s.n << " k " << s.k);
  auto weight = Matrix<T>(s.k, s.n).randomize(1);
  auto bias = Matrix<T>(1, s.n).randomize(2, 5);
  // Transposed, as vLLM passes it.
  Matrix<T> transposed(s.n, s.k);
  for (int64_t i = 0; i < s.k; ++i)
    for (int64_t j = 0; j < s.n; ++j) transposed.row(j)[i] = weight.row(i)[j];
  Handle handle;
  CHECK_OK(create_mm(handle, tensor(transposed.row(0), dtype_of<T>, {s.k, s.n}, {1, s.k})));
  transposed.randomize(9);  // the weight is the handle's own
  for (int64_t m : rows) {
    INFO("m " << m);
    auto input = Matrix<T>(m, s.k, 3, 2 * s.k + 1).randomize(unsigned(m));
    Matrix<T> out(m, s.n, 1, s.n + 5);
    CHECK_OK(multiply(handle.number, input.tensor(), out.tensor(), bias.tensor({s.n})));
    CHECK(wrong(out, input, weight, bias.row(0)) == 0);
    CHECK(out.intact());
    CHECK_OK(multiply(handle.number, input.tensor(), out.tensor()));
    CHECK(wrong(out, input, weight, static_cast<T*>(nullptr)) == 0);
    CHECK(out.intact());
  }
}

template <class T>
std::vector<T> product(int64_t handle, Matrix<T>& input, int64_t n) {
  Matrix<T> out(input.rows, n);
  CHECK_OK(multiply(handle, input.tensor(), out.tensor()));
  return {out.row(0), out.row(0) + input.rows * n};
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
}

}  // namespace

TEMPLATE_TEST_CASE("onednn_mm: products are right, whoever multiplies", "", float, bf16, f16) {
  by_everybody([&](By) {
    for (auto s : kShapes) {
      kvops_set_num_threads(s.n > 1000 ? 0 : 1);  // the larger ones on several
      check_shape<TestType>(s, {1, 2, 16, 17, 1, 31, 65});
    }
  });
  kvops_set_num_threads(0);
}

TEMPLATE_TEST_CASE("onednn_mm: products are right on every instruction set", "", float, bf16, f16) {
  on_every_isa([] {
    for (auto s : kShapes) check_shape<TestType>(s, {1, 3, 17});
  });
}

TEST_CASE("onednn_mm: a weight may lie in any way") {
  const int64_t k = 33, n = 70;
  auto input = Matrix<bf16>(5, k).randomize(3);
  auto weight = Matrix<bf16>(k, n).randomize(4);
  struct Way {
    int64_t row, column, first, size;
  };
  // Dense, padded, transposed, both strided, backwards; a row for all, a number for all.
  const Way ways[] = {{n, 1, 0, 0},
                      {n + 9, 1, 0, 0},
                      {1, k, 0, 0},
                      {3 * n, 3, 0, 0},
                      {-n, 1, n * (k - 1), 0},
                      {n, -1, n - 1, 0},
                      {1, -k, k * (n - 1), 0},
                      {0, 1, 0, 0},
                      {0, 0, 0, 0}};
  by_everybody([&](By) {
    for (auto& way : ways) {
      INFO("strides " << way.row << " " << way.column);
      std::vector<bf16> data(size_t(4 * n * k), from_float<bf16>(77.F));
      auto at = [&](int64_t i, int64_t j) -> bf16& {
        return data[size_t(way.first + i * way.row + j * way.column)];
      };
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < n; ++j) at(i, j) = weight.row(i)[j];
      Matrix<bf16> seen(k, n);  // as it lies now: strides of 0 overwrite
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < n; ++j) seen.row(i)[j] = at(i, j);
      Handle handle;
      CHECK_OK(create_mm(handle, tensor(&at(0, 0), KVOPS_BF16, {k, n}, {way.row, way.column})));
      Matrix<bf16> out(5, n);
      CHECK_OK(multiply(handle.number, input.tensor(), out.tensor()));
      CHECK(wrong(out, input, seen, static_cast<bf16*>(nullptr)) == 0);
    }
  });
}

TEST_CASE("onednn_mm: rows of input and out may run backwards or repeat") {
  const int64_t k = 20, n = 40, m = 4;
  auto weight = Matrix<float>(k, n).randomize(1);
  by_everybody([&](By) {
    Handle handle;
    CHECK_OK(create_mm(handle, weight.tensor()));
    auto input = Matrix<float>(m, k).randomize(2);
    Matrix<float> out(m, n), all(m, n);
    CHECK_OK(multiply(handle.number, input.tensor(), all.tensor()));
    CHECK_OK(multiply(handle.number, tensor(input.row(m - 1), KVOPS_F32, {m, k}, {-k, 1}),
                      tensor(out.row(m - 1), KVOPS_F32, {m, n}, {-n, 1})));
    CHECK(wrong(out, input, weight, static_cast<float*>(nullptr)) == 0);
    CHECK(out.intact());
    CHECK_OK(
        multiply(handle.number, tensor(input.row(1), KVOPS_F32, {m, k}, {0, 1}), out.tensor()));
    for (int64_t r = 1; r < m; ++r) CHECK(!std::memcmp(out.row(0), out.row(r), size_t(n) * 4));
  });
}

TEST_CASE("onednn_mm: bits do not depend on threads, and for our product not on other rows") {
  const int64_t k = 700, n = 500;
  auto weight = Matrix<bf16>(k, n).randomize(1);
  auto input = Matrix<bf16>(40, k).randomize(2);
  by_everybody([&](By by) {
    Handle handle;
    CHECK_OK(create_mm(handle, weight.tensor()));
    kvops_set_num_threads(1);
    const auto one = product(handle.number, input, n);
    kvops_set_num_threads(2);
    const auto two = product(handle.number, input, n);
    kvops_set_num_threads(0);
    CHECK(same_bits(one, two));
    if (by == By::onednn) return;
    Matrix<bf16> last(1, k);
    std::copy(input.row(39), input.row(39) + k, last.row(0));
    const auto alone = product(handle.number, last, n);
    CHECK(!std::memcmp(alone.data(), &one[size_t(39 * n)], size_t(n) * sizeof(bf16)));
  });
}

TEST_CASE("onednn_mm: few rows are prepared, other plans are kept, the oldest goes") {
  choose(By::onednn);
  if (!has_onednn()) return;
  auto weight = Matrix<float>(64, 48).randomize(1);
  Handle handle;
  CHECK_OK(create_mm(handle, weight.tensor(), 2));
  auto made = [&](int64_t rows, int64_t gap = 0) {
    const auto before = cpu::onednn_primitives_made();
    Matrix<float> input(rows, 64, 0, 64 + gap), out(rows, 48);
    CHECK_OK(multiply(handle.number, input.randomize(1).tensor(), out.tensor()));
    return cpu::onednn_primitives_made() - before;
  };
  for (int64_t rows = 1; rows <= 16; ++rows) CHECK(made(rows) == 0);
  CHECK(made(1, 7) == 0);  // a single row has no stride
  CHECK(made(17) == 1);
  CHECK(made(17) == 0);
  CHECK(made(17, 3) == 1);
  CHECK(made(17) == 0);
  CHECK(made(40) == 1);  // the strided one goes
  CHECK(made(17) == 0);
  CHECK(made(17, 3) == 1);
}

TEST_CASE("onednn_mm: a handle says what fits it") {
  auto weight = Matrix<float>(8, 6).randomize(1);
  Handle handle;
  CHECK_OK(create_mm(handle, weight.tensor()));
  Matrix<float> input(2, 8), out(2, 6), wide(2, 7);
  Matrix<bf16> other(2, 8), result(2, 6);
  auto refused = [&](const kvops_tensor& in, const kvops_tensor& to, const char* text) {
    CHECK(multiply(handle.number, in, to) == KVOPS_INVALID_ARGUMENT);
    CHECK(std::string(kvops_last_error()) == text);
  };
  refused(wide.tensor(), out.tensor(),
          "onednn_mm: input: shape[1] is 7, expected 8 (k of the handle's weight)");
  refused(input.tensor(), wide.tensor(),
          "onednn_mm: out: shape[1] is 7, expected 6 (n of the handle's weight)");
  refused(other.tensor(), result.tensor(),
          "onednn_mm: input: dtype is bf16, expected f32 (as the weight)");
}

TEST_CASE("release_dnnl_matmul_handler: numbers are never used again, stale ones are refused") {
  auto weight = Matrix<float>(8, 6).randomize(1);
  Matrix<float> input(2, 8), out(2, 6);
  std::vector<int64_t> old;
  for (int i = 0; i < 100; ++i) {
    Handle handle;
    CHECK_OK(create_mm(handle, weight.tensor()));
    for (auto number : old) REQUIRE(number != handle.number);
    old.push_back(handle.number);
    CHECK_OK(handle.release());
  }
  old.insert(old.end(), {-1, 1, 7, int64_t{1} << 24, INT64_MAX, INT64_MIN});
  auto a = make<kvops_release_dnnl_matmul_handler_args>();
  for (auto number : old) {
    a.handle = number;
    CHECK(kvops_release_dnnl_matmul_handler(&a) == KVOPS_INVALID_ARGUMENT);
    CHECK(multiply(number, input.tensor(), out.tensor()) == KVOPS_INVALID_ARGUMENT);
  }
  a.handle = 0;
  CHECK_OK(kvops_release_dnnl_matmul_handler(&a));
  CHECK(multiply(0, input.tensor(), out.tensor()) == KVOPS_INVALID_ARGUMENT);
}

TEST_CASE("release_dnnl_matmul_handler: running products keep their weight, on any threads") {
  const int64_t k = 64, n = 256;
  auto weight = Matrix<float>(k, n).randomize(1);
  by_everybody([&](By) {
    std::atomic<int64_t> current{0};
    std::atomic<bool> stop{false};
    std::atomic<int> bad{0}, done{0};
    auto worker = [&](unsigned seed) {
      auto input = Matrix<float>(3 + seed, k).randomize(seed);
      Matrix<float> out(3 + seed, n);
      while (!stop) {
        const auto status = multiply(current, input.tensor(), out.tensor());
        if (status == KVOPS_OK)
          bad += wrong(out, input, weight, static_cast<float*>(nullptr)) != 0, ++done;
        else
          bad += status != KVOPS_INVALID_ARGUMENT;
      }
    };
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; ++i) threads.emplace_back(worker, i);
    for (int i = 0; i < 20 || done < 3; ++i) {
      Handle handle;
      CHECK_OK(create_mm(handle, weight.tensor()));
      current = handle.number;
      // Two threads release it at once: exactly one may.
      std::atomic<int> released{0};
      auto release = [&, number = handle.number] {
        auto a = make<kvops_release_dnnl_matmul_handler_args>();
        a.handle = number;
        released += kvops_release_dnnl_matmul_handler(&a) == KVOPS_OK;
      };
      std::this_thread::yield();
      std::thread one(release), two(release);
      one.join(), two.join();
      CHECK(released == 1);
      handle.number = 0;
    }
    stop = true;
    for (auto& t : threads) t.join();
    CHECK(bad == 0);
  });
}

TEST_CASE("onednn_mm: a forked child multiplies") {
  auto weight = Matrix<float>(100, 90).randomize(1);
  auto input = Matrix<float>(20, 100).randomize(2);
  by_everybody([&](By) {
    Handle handle;
    CHECK_OK(create_mm(handle, weight.tensor()));
    const auto here = product(handle.number, input, 90);
    CHECK(true_in_child([&] {
      Matrix<float> out(20, 90);
      return !multiply(handle.number, input.tensor(), out.tensor()) &&
             !wrong(out, input, weight, static_cast<float*>(nullptr));
    }));
  });
}

TEST_CASE("onednn: the option and the implementation are obeyed") {
  choose(By::absent);
  CHECK(std::string(kvops_onednn_library()).rfind("none: /nowhere/libdnnl.so.3", 0) == 0);
  auto weight = Matrix<float>(8, 6).randomize(1);
  Handle handle;
  CHECK_OK(kvops_set_option("impl", "onednn_mm:onednn"));
  CHECK(create_mm(handle, weight.tensor()) == KVOPS_UNAVAILABLE);
  CHECK(handle.number == 0);
  CHECK_OK(kvops_set_option("impl", ""));
  CHECK_OK(kvops_set_option("onednn", "off"));
  CHECK(std::string(kvops_onednn_library()) == "none: it is turned off");
  // Another library than oneDNN, which every machine has.
  CHECK_OK(kvops_set_option("onednn", "libc.so.6"));
  CHECK(std::string(kvops_onednn_library()) == "none: libc.so.6: it has no dnnl_version");
  CHECK_OK(create_mm(handle, weight.tensor()));
  choose(By::onednn);
  CHECK(kvops_is_onednn_acl_supported() == 0);
}
