// sweep [--device cpu|cuda|hip] [--seed N] [--runs N] [--limit ELEMENTS] FOLDER [op [case]]
//
// A back end against the CPU, over the lines of FOLDER/<op>.txt (tests/cases) with random values:
// every result within the tolerance of its row, the same bits for every placement of the tensors
// (gaps, permuted and negative strides, bases aligned to the element only), and no stray byte.
// --device cpu compares the best instruction set with the scalar one. The seed is printed; a
// failure names it and the case. Exit status 77: no such device.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>

#include "draw.h"
#include "handles.h"
#include "plan.h"
#include "shapes.h"

extern "C" {
#include "compare.h"
#include "place.h"
}

namespace {

using harness::count;
using harness::kBehind;
using harness::ShapeCase;
using harness::Shapes;
using harness::Tensor;

struct Options {
  kvops_device device = {KVOPS_CUDA, 0};
  uint64_t seed = std::random_device{}();
  int runs = 3;
  int64_t limit = INT64_MAX;  // larger cases are left out
  std::string folder, op, name;
};

struct Totals {
  int cases = 0, calls = 0, left_out = 0, failed = 0;
};

// How the tensors of one call lie. Pages of NVFP4 have layouts of their own.
enum class Lie { dense, padded, permuted, negative, pages_nhd, pages_hnd };

class Sweep {
 public:
  Sweep(const Options& options, const kvops_op_info& op, const ShapeCase& c, uint64_t seed)
      : options_(options), op_(op), case_(c), shapes_(op, c), random_(seed) {}

  // Makes the values, runs the CPU, then the device with every placement. "" or what went wrong.
  std::string run(Totals* totals);
  double worst() const { return worst_; }
  std::string missing() const {
    std::string name;
    return shapes_.complete(&name) ? "" : name;
  }
  int64_t elements() const { return harness::elements(op_, shapes_); }

 private:
  struct Result {
    kvops_status status;
    std::string error;
    std::vector<std::vector<uint8_t>> written;  // by tensor
    std::vector<uint64_t> args;
  };
  std::vector<int64_t> strides(const Tensor& t, Lie lie);
  bool place(const Tensor& t, Lie lie, kvops_device device, void* stream, placed* p);
  Result call(Lie lie, kvops_device device, bool alias);
  std::string stray(const Tensor& t, placed& p, Result* result);
  std::string compare(const Result& got, const Result& want, bool exact);
  int aliased(const Tensor& t) const;

  const Options& options_;
  const kvops_op_info& op_;
  const ShapeCase& case_;
  Shapes shapes_;
  std::mt19937_64 random_;
  std::vector<Tensor> tensors_;
  double worst_ = 0;
};

// Innermost first: the dimensions that must be dense, then the others as `lie` says.
std::vector<int64_t> Sweep::strides(const Tensor& t, Lie lie) {
  int rank = int(t.shape.size()), packed = first_packed(t.arg->shape, rank);
  std::vector<int> order;
  for (int i = rank - 1; i >= 0; --i) order.push_back(i);
  bool hnd = t.pages && lie == Lie::pages_hnd;
  if (hnd) order = {3, 1, 2, 0};
  if (t.pages) packed = 1;
  if (!t.pages && lie == Lie::permuted) std::reverse(order.end() - packed, order.end());
  std::vector<int64_t> strides(t.shape.size());
  int64_t next = 1;
  for (int i : order) {
    // 3: rows at odd addresses; 16: rows that stay aligned, apart from each other.
    if (i < packed && lie != Lie::dense) next += random_() % 2 ? 3 : 16;
    strides[size_t(i)] = next;
    if (t.shape[size_t(i)] > 1) next *= t.shape[size_t(i)];
    if (i < packed && !t.pages && t.shape[size_t(i)] == 1) strides[size_t(i)] = 1000003;
  }
  if (lie == Lie::negative && !t.pages)
    for (int i = 0; i < packed; ++i)
      if (random_() % 2) strides[size_t(i)] = -strides[size_t(i)];
  return strides;
}

// A buffer: guard | elements | guard, all garbage but the elements.
bool Sweep::place(const Tensor& t, Lie lie, kvops_device device, void* stream, placed* p) {
  constexpr int64_t kGuard = 256;
  static constexpr int kGarbage[] = {0xFF, 0x00, 0x7F, 0xA5};
  std::memset(p, 0, sizeof *p);
  auto& tensor = p->tensor;
  tensor.dtype = t.dtype, tensor.rank = int32_t(t.shape.size());
  p->size = kvops_dtype_size(t.dtype), p->count = count(t.shape);
  auto stride = strides(t, lie);
  int64_t low = 0, high = 0;
  for (size_t i = 0; i < t.shape.size(); ++i) {
    tensor.shape[i] = t.shape[i], tensor.stride[i] = stride[i];
    int64_t reach = (t.shape[i] - 1) * stride[i];
    if (t.shape[i] > 1) (reach < 0 ? low : high) += reach;
  }
  if (!p->count) low = high = 0;
  int64_t shift = lie == Lie::dense ? 0 : int64_t(random_() % 4) * (t.arg == &kBehind ? 4 : 1);
  p->bytes = 2 * kGuard + (high - low + 1 + shift) * p->size;
  p->offset = kGuard + (shift - low) * p->size;
  p->image = static_cast<unsigned char*>(std::malloc(size_t(p->bytes)));
  if (!p->image) return false;
  std::memset(p->image, kGarbage[random_() % 4], size_t(p->bytes));
  if (!t.elements.empty()) place_scatter(p, p->image, t.elements.data());
  auto cpu = kvops_device{KVOPS_CPU, 0};
  bool host = t.arg->flags & KVOPS_ARG_HOST;
  return !place_upload(p, host ? cpu : device, host ? nullptr : stream, 0);
}

// "alias out input": the tensor that t may be; -1: none.
int Sweep::aliased(const Tensor& t) const {
  for (size_t r = 0; r < op_.num_rules; ++r)
    for (size_t i = 0; i < tensors_.size(); ++i)
      if (op_.rules[r] == "alias " + std::string(t.arg->name) + " " + tensors_[i].arg->name &&
          t.shape == tensors_[i].shape && t.dtype == tensors_[i].dtype)
        return int(i);
  return -1;
}

// Takes the results of one tensor; "" when nothing else in its buffer has changed.
std::string Sweep::stray(const Tensor& t, placed& p, Result* result) {
  auto* image = place_download(&p);
  if (!image) return std::string(t.arg->name) + ": " + kvops_last_error();
  std::vector<uint8_t> got;
  if (t.arg->flags & KVOPS_ARG_WRITTEN) {
    got.resize(size_t(p.count * p.size));
    place_gather(&p, image, got.data());
    place_scatter(&p, p.image, got.data());
  }
  std::string error;
  if (std::memcmp(image, p.image, size_t(p.bytes)))
    error = std::string(t.arg->name) + ": a stray write";
  std::free(image);
  result->written.push_back(std::move(got));
  return error;
}

Sweep::Result Sweep::call(Lie lie, kvops_device device, bool alias) {
  Result result = {KVOPS_INTERNAL, "", {}, {}};
  std::vector<placed> items(tensors_.size());
  std::vector<uint64_t> args(op_.args_size / 8);
  auto* base = reinterpret_cast<char*>(args.data());
  std::memcpy(base, &op_.args_size, sizeof(size_t));
  void* stream = nullptr;
  bool ready = kvops_stream_create(device, &stream) == KVOPS_OK;
  std::vector<int> buffer(tensors_.size());
  std::vector<int64_t> addresses;
  for (size_t i = 0; ready && i < tensors_.size(); ++i) {
    int other = alias ? aliased(tensors_[i]) : -1;
    buffer[i] = other < 0 ? int(i) : other;
    if (std::strstr(tensors_[i].arg->name, "_ptrs") && !addresses.empty())
      std::memcpy(tensors_[i].elements.data(), addresses.data(), 8 * addresses.size());
    if (other < 0) ready = place(tensors_[i], lie, device, stream, &items[i]);
    if (tensors_[i].arg == &kBehind)
      addresses.push_back(int64_t(reinterpret_cast<intptr_t>(items[i].tensor.data)));
  }
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (tensors_[i].arg != &kBehind)
      std::memcpy(base + tensors_[i].arg->offset, &items[size_t(buffer[i])].tensor,
                  sizeof(kvops_tensor));
  shapes_.put_scalars(base);
  void* workspace = nullptr;
  if (ready && !place_workspace(&op_, base, device, stream, &workspace)) {
    result.status = kvops_call(op_.name, base);
    if (!result.status) result.status = kvops_stream_synchronize(device, stream);
  }
  if (result.status) result.error = kvops_last_error();
  for (size_t i = 0; ready && i < tensors_.size(); ++i) {
    if (std::count(buffer.begin(), buffer.end(), buffer[i]) > 1 && buffer[i] == int(i)) {
      result.written.emplace_back();  // the other one's buffer is looked at
      continue;
    }
    auto error = stray(tensors_[i], items[size_t(buffer[i])], &result);
    if (result.error.empty()) result.error = error;
  }
  for (auto& item : items) place_release(&item);
  if (workspace) kvops_free(device, workspace);
  result.args = std::move(args);
  kvops_stream_destroy(device, stream);
  return result;
}

std::string Sweep::compare(const Result& got, const Result& want, bool exact) {
  if (got.status != want.status || !got.error.empty() || !want.error.empty())
    return std::string(kvops_status_string(got.status)) + ", expected " +
           kvops_status_string(want.status) + " (" + got.error + want.error + ")";
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto& t = tensors_[i];
    if (!(t.arg->flags & KVOPS_ARG_WRITTEN)) continue;
    int64_t n = count(t.shape), row = t.shape.empty() ? 1 : t.shape.back();
    auto* x = got.written[i].data();
    auto* y = want.written[i].data();
    // Both sides may miss the exact f32 value by the tolerance.
    kvops_arg_info info = compared_in(&op_, t.arg, want.args.data());
    info.tolerance_f32 *= 2;
    auto c =
        exact ? compare_bits(t.dtype, x, y, n) : compare_elements(&info, t.dtype, x, y, n, row);
    if (!exact && c.worst > worst_) worst_ = c.worst;
    if (!c.wrong) continue;
    auto at = size_t(c.first * kvops_dtype_size(t.dtype));
    char text[256];
    std::snprintf(text, sizeof text,
                  "%s: %lld elements differ%s, the first is %lld: %.9g, not %.9g", t.arg->name,
                  (long long)c.wrong, exact ? " from another placement" : "", (long long)c.first,
                  element_value(t.dtype, x + at), element_value(t.dtype, y + at));
    return text;
  }
  return "";
}

std::string Sweep::run(Totals* totals) {
  if (auto name = missing(); !name.empty()) return "the line does not give " + name;
  tensors_ = harness::draw(op_, shapes_, random_());
  harness::fill_plan(op_, shapes_, tensors_);
  bool pages = false, can_alias = false;
  for (auto& t : tensors_) pages = pages || t.pages, can_alias = can_alias || aliased(t) >= 0;
  auto cpu = kvops_device{KVOPS_CPU, 0};
  bool on_cpu = options_.device.type == KVOPS_CPU;
  std::vector<Lie> lies = {Lie::dense, Lie::padded, Lie::permuted, Lie::negative};
  if (pages) lies = {random_() % 2 ? Lie::pages_nhd : Lie::pages_hnd};
  if (elements() > 8'000'000) lies = {lies[random_() % lies.size()]};
  if (on_cpu) kvops_set_option("cpu_isa", "scalar");
  auto want = call(pages ? lies[0] : Lie::dense, cpu, false);
  if (on_cpu) kvops_set_option("cpu_isa", "");
  ++totals->calls;
  if (want.status) return "the CPU refuses the case: " + want.error;
  Result first;
  for (size_t i = 0; i < lies.size(); ++i) {
    auto got = call(lies[i], options_.device, can_alias && random_() % 3 == 0);
    ++totals->calls;
    auto error = compare(got, want, false);
    if (error.empty() && i) error = compare(got, first, true);
    if (!error.empty()) return error + " (placement " + std::to_string(int(lies[i])) + ")";
    if (!i) first = std::move(got);
  }
  return "";
}

// Addresses, block numbers, handles: random values are none. Such lines are for the benchmark.
bool reads_host_values(const kvops_op_info& op) {
  for (size_t i = 0; i < op.num_args; ++i)
    if (op.args[i]->flags & KVOPS_ARG_HOST) return true;
  return harness::handle_argument(op) != nullptr;
}

void sweep_op(const Options& o, const kvops_op_info& op, Totals* totals) {
  if (reads_host_values(op)) return;
  std::string error;
  auto cases = harness::read_cases(o.folder + "/" + op.name + ".txt", &error);
  if (!error.empty()) std::printf("%s\n", error.c_str()), ++totals->failed;
  double worst = 0;
  int before = totals->cases;
  for (auto& c : cases) {
    if (!o.name.empty() && c.name != o.name) continue;
    for (int run = 0; run < o.runs; ++run) {
      // The case's own seed: a single case can be run again.
      auto seed = o.seed + std::hash<std::string>{}(c.name + c.text) + uint64_t(run);
      Sweep sweep(o, op, c, seed);
      if (sweep.missing().empty() && sweep.elements() > o.limit) {
        ++totals->left_out;
        break;
      }
      if (run && sweep.elements() > 8'000'000) break;
      ++totals->cases;
      error = sweep.run(totals);
      worst = std::max(worst, sweep.worst());
      if (error.empty()) continue;
      ++totals->failed;
      std::printf("%s %s %s: run %d: %s\n", op.name, c.name.c_str(), c.text.c_str(), run,
                  error.c_str());
    }
  }
  std::printf("%-28s %6d cases, worst %.3g ulp\n", op.name, totals->cases - before, worst);
}

bool parse(int argc, char** argv, Options* o) {
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    bool more = i + 1 < argc;
    if (word == "--device" && more) {
      word = argv[++i];
      o->device.type = word == "cuda" ? KVOPS_CUDA : word == "hip" ? KVOPS_HIP : KVOPS_CPU;
    } else if (word == "--seed" && more) {
      o->seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (word == "--runs" && more) {
      o->runs = std::atoi(argv[++i]);
    } else if (word == "--limit" && more) {
      o->limit = std::atoll(argv[++i]);
    } else {
      (o->folder.empty() ? o->folder : o->op.empty() ? o->op : o->name) = word;
    }
  }
  return !o->folder.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  if (!parse(argc, argv, &o)) {
    std::fprintf(stderr,
                 "usage: sweep [--device cpu|cuda|hip] [--seed N] [--runs N] "
                 "[--limit ELEMENTS] FOLDER [op [case]]\n");
    return 2;
  }
  int32_t devices = 0;
  kvops_device_count(o.device.type, &devices);
  if (!devices) return std::printf("skipped: there is no such device\n"), 77;
  std::printf("seed %llu\n", (unsigned long long)o.seed);
  Totals totals;
  size_t num_ops = 0;
  auto ops = kvops_ops(&num_ops);
  for (size_t i = 0; i < num_ops; ++i) {
    auto& op = *ops[i];
    bool both = op.backends >> KVOPS_CPU & 1 && op.backends >> o.device.type & 1;
    if (!both || (!o.op.empty() && o.op != op.name)) continue;
    if (std::filesystem::exists(o.folder + "/" + op.name + ".txt")) sweep_op(o, op, &totals);
  }
  std::printf("%d cases, %d calls, %d too large, %d failed\n", totals.cases, totals.calls,
              totals.left_out, totals.failed);
  return totals.failed || !totals.cases;
}
