// Bad indices: -1, the last good one, the first bad one and 2^40 in every argument that an INDEX,
// BLOCKS or GATHER rule names. The device gives the CPU's results and faults and touches no other
// byte; with debug=bounds it says what the CPU says, and writes nothing.
#include <algorithm>
#include <cstring>

#include "indices.h"
#include "proof.h"

extern "C" {
#include "compare.h"
}

namespace proof {
namespace {

constexpr kvops_device kCpu = {KVOPS_CPU, 0};

// Any other entry that is the last good one becomes padding: no two tokens write one place.
void plant(Tensor& t, int64_t bound, std::mt19937_64& random) {
  const int64_t n = harness::count(t.shape), kinds[] = {-1, bound - 1, bound, int64_t(1) << 40};
  for (int64_t i = 0; i < n; ++i)
    if (get(t, i) == bound - 1) set(t, i, -1);
  std::vector<int64_t> at(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) at[size_t(i)] = i;
  std::shuffle(at.begin(), at.end(), random);
  for (size_t k = 0; k < std::min<size_t>(4, at.size()); ++k) set(t, at[k], kinds[k]);
}

std::vector<Tensor> bad_call(const kvops_op_info& op, const ShapeCase& c, uint64_t seed) {
  Shapes shapes(op, c);
  auto tensors = harness::draw(op, shapes, seed);
  std::mt19937_64 random(seed);
  for (auto& rule : index_rules(op)) {
    double bound = 0;
    for (auto& t : tensors)
      if (rule.argument == t.arg->name && shapes.number(rule.bound, &bound))
        plant(t, int64_t(bound), random);
  }
  return tensors;
}

// Both sides may miss the exact f32 value by the tolerance.
std::string compare(Work& gpu, const std::vector<Bytes>& got, Work& cpu,
                    const std::vector<Bytes>& want) {
  auto images = gpu.images();
  for (size_t i = 0; i < gpu.size(); ++i) {
    auto& t = gpu.tensor(i);
    auto x = gpu.elements(i, got[i]);
    if (t.arg->flags & KVOPS_ARG_WRITTEN) {
      auto y = cpu.elements(i, want[i]);
      auto info = compared_in(&gpu.op(), t.arg, gpu.args());
      info.tolerance_f32 *= 2;
      const int64_t row = t.shape.empty() ? 1 : t.shape.back();
      auto result =
          compare_elements(&info, t.dtype, x.data(), y.data(), harness::count(t.shape), row);
      if (result.wrong)
        return std::string(t.arg->name) + ": element " + std::to_string(result.first) +
               " is not the CPU's";
      place_scatter(&gpu.place_of(i), images[i].data(), x.data());
    }
  }
  auto stray = difference(gpu, got, images);
  return stray.empty() ? "" : "a stray write: " + stray;
}

std::string debug_bounds(Work& work) {
  kvops_set_option("debug", "bounds");
  const auto status = work.call();
  kvops_set_option("debug", "");
  return status == KVOPS_INVALID_ARGUMENT ? kvops_last_error() : kvops_status_string(status);
}

// found: an index was refused. Where no token needs one that was planted, the call has run.
std::string prove_case(const kvops_op_info& op, const ShapeCase& c, uint64_t seed, bool* found) {
  test::Stream stream;
  Work gpu(op, c, test::kGpu, stream.get()), cpu(op, c, kCpu, nullptr);
  auto tensors = bad_call(op, c, seed);
  auto error = cpu.prepare(tensors);
  if (error.empty()) error = gpu.prepare(std::move(tensors));
  if (!error.empty()) return error;
  const auto expected = debug_bounds(cpu), message = debug_bounds(gpu);
  if (message != expected) return "debug=bounds: \"" + message + "\", not \"" + expected + "\"";
  std::vector<Bytes> got, want;
  error = gpu.read(&got);
  if (error.empty() && expected != kvops_status_string(KVOPS_OK)) {
    error = difference(gpu, got, gpu.images());
    if (!error.empty()) return "debug=bounds writes: " + error;
    *found = true;
    error = failed(cpu.call());
    if (error.empty()) error = failed(gpu.call());
    if (error.empty()) error = gpu.read(&got);
  }
  if (error.empty()) error = cpu.read(&want);
  return error.empty() ? compare(gpu, got, cpu, want) : error;
}

}  // namespace

std::string prove_bounds(const Options& o, const kvops_op_info& op, int* cases) {
  if (index_rules(op).empty()) return kNothing;
  bool found = false;
  for (auto& c : sample(o, op, 12, 500'000, true)) {
    auto error = prove_case(op, c, o.seed + 10 * uint64_t(++*cases), &found);
    if (!error.empty()) return c.name + " " + c.text + ": " + error;
  }
  return found || !*cases ? "" : "no case has a bad index";
}

}  // namespace proof
