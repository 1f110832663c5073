// `kvops bench`: median time of a call, GB/s of the bytes that it must move, and the ratio to a
// copy of as many bytes. Calls and copies alternate in one run, so that both see the same machine,
// and each works through memory that together exceeds the last-level cache, or (--resident) each
// finds its data where it left it. On a CUDA device a sample is the replay of a graph of calls back
// to back, copies are kernels in a graph of their own; what cannot be captured, and on other GPUs
// everything, is a batch of calls between two synchronisations: host time is then part of it. What
// multiplies matrices on the CPU is also measured beside oneDNN (onednn.h).
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>

#include "commands.h"
#include "copy.h"
#include "graph.h"
#include "json.h"
#include "onednn.h"

namespace kvops {
namespace {

// Small calls stay in a cache even so; what matters of them is latency.
constexpr int64_t kMaxSets = 1024;
constexpr size_t kMaxLaunches = 1024;  // of a graph

// A call that writes less than this part of its bytes is measured beside reading, too.
constexpr double kMostlyReads = 0.1;

using Clock = std::chrono::steady_clock;

struct Measurement {
  cases::Case one;
  std::string implementation, copy_kind;
  double median = 0, low = 0, high = 0, copy = 0;  // seconds a call; 10th and 90th percentile
  double onednn = 0;                               // for as many multiply-adds; 0: not compared
  double read = 0;                                 // of as many bytes; 0: not compared
  int64_t bytes = 0, memory = 0;
  size_t samples = 0, calls = 0;
  bool by_graph = false;
};

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  auto at = size_t(std::lround(q * double(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + ptrdiff_t(at), values.end());
  return values[at];
}

// Runs `call(i)` over and over; i counts on, so that each call finds other memory.
class Sampler {
 public:
  using Call = std::function<bool(size_t)>;

  Sampler(kvops_device device, void* stream, bool by_graph, Call call)
      : device_(device), stream_(stream), call_(std::move(call)) {
    if (by_graph) graph_ = std::make_unique<Graph>(device, stream);
  }

  // Seconds a call, over `calls` of them; negative: a call failed.
  double sample(size_t calls) {
    if (graph_ && calls != recorded_) record(calls);
    if (graph_) return graph_->replay() / double(calls);
    auto begin = Clock::now();
    for (size_t i = 0; i < calls; ++i)
      if (!call_(next_++)) return -1;
    if (device_.type != KVOPS_CPU && kvops_stream_synchronize(device_, stream_)) return -1;
    return std::chrono::duration<double>(Clock::now() - begin).count() / double(calls);
  }

  // Calls that make a sample of about `seconds`.
  size_t calibrate(double seconds) {
    size_t least = device_.type == KVOPS_CPU ? 1 : 20, calls = least;
    for (;;) {
      double each = sample(calls);
      if (each < 0) return 0;
      auto most = graph_ ? kMaxLaunches : SIZE_MAX;
      if (each * double(calls) > seconds / 4 || calls > std::min<size_t>(most / 2, 100000))
        return std::clamp(size_t(seconds / std::max(each, 1e-9)), least, most);
      calls *= 2;
    }
  }

  bool by_graph() const { return graph_ != nullptr; }

 private:
  // Calls that cannot be captured are launched instead.
  void record(size_t calls) {
    recorded_ = calls;
    bool done = graph_->record([&] {
      for (size_t i = 0; i < calls; ++i)
        if (!call_(next_++)) return false;
      return true;
    });
    if (!done) graph_.reset();
  }

  kvops_device device_;
  void* stream_;
  Call call_;
  std::unique_ptr<Graph> graph_;
  size_t recorded_ = 0, next_ = 0;
};

int available_threads() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options)
      : options_(options), device_(device_named(options.device)) {
    threads_ = int(options.threads ? options.threads : available_threads());
    info_.struct_size = sizeof info_;
  }
  ~Bench() {
    if (stream_) kvops_stream_destroy(device_, stream_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  bool start() {
    if (kvops_get_device_info(device_, &info_)) return false;
    if (device_.type != KVOPS_CPU && kvops_stream_create(device_, &stream_)) return false;
    return !options_.threads || !kvops_set_num_threads(options_.threads);
  }

  // "" or why there is no measurement.
  std::string measure(const kvops_op_info* op, Measurement& m) {
    auto layout = cases::lay_out(op, m.one, device_);
    if (!layout.error.empty()) return layout.error;
    m.bytes = layout.traffic;
    m.implementation = layout.query.implementation;
    int64_t cache = std::max<int64_t>(info_.cache_bytes, 8 << 20);
    int64_t span =
        std::min<int64_t>((device_.type == KVOPS_CPU ? 2 : 4) * cache, info_.memory_bytes / 16);
    auto sets = span / std::max<int64_t>(m.bytes, 1) + 2;
    int64_t own = 1;
    for (auto& t : layout.tensors) own += t.is_shared ? 0 : t.bytes;
    sets = std::min({sets, std::max<int64_t>(2, info_.memory_bytes / 8 / own), kMaxSets});
    if (device_.type != KVOPS_CPU) sets = std::min<int64_t>(sets, 256);
    if (options_.resident) sets = 1;
    span = std::min(span, kMaxSets * m.bytes);
    cases::Memory memory;
    auto problem = memory.fill(layout, device_, int(sets));
    Copies copies;
    if (problem.empty())
      problem = copies.prepare(device_, m.bytes, options_.resident ? 0 : span, threads_);
    if (!problem.empty()) return problem;
    if (double(layout.written) < kMostlyReads * double(m.bytes)) copies.add_reads();
    m.memory = memory.bytes();
    memory.use_stream(stream_);
    std::unique_ptr<OneDnn> product;
    if (device_.type == KVOPS_CPU)
      product = OneDnn::beside(layout, options_.resident ? 0 : span, threads_);
    return run(op, memory, {copies, product.get()}, m);
  }

  // The bytes of a call, or why it is none.
  std::string list(const kvops_op_info* op, Measurement& m) {
    auto layout = cases::lay_out(op, m.one, device_);
    if (layout.error.empty())
      std::printf("%-24s %-14s %12lld bytes  %s\n", op->name, m.one.name.c_str(),
                  (long long)layout.traffic, m.one.text.c_str());
    return layout.error;
  }

  const kvops_device_info& info() const { return info_; }
  int threads() const { return threads_; }

 private:
  struct Yardsticks {
    Copies& copies;
    OneDnn* product;  // NULL: none
  };
  std::string run(const kvops_op_info* op, cases::Memory& memory, Yardsticks beside,
                  Measurement& m) {
    auto& copies = beside.copies;
    Sampler call(device_, stream_, device_.type == KVOPS_CUDA, [&](size_t i) {
      return kvops_call(op->name, memory.call(i % memory.sets())) == KVOPS_OK;
    });
    if (call.sample(memory.sets()) < 0) return kvops_last_error();
    m.by_graph = call.by_graph();
    copies.use_stream(stream_, m.by_graph);
    double seconds = std::clamp(options_.seconds / 40, 0.0005, m.by_graph ? 0.004 : 0.02);
    m.calls = call.calibrate(seconds);
    auto rivals = pick(copies, seconds, m.by_graph);
    if (!m.calls || rivals.empty()) return kvops_last_error();
    Sampler product(device_, stream_, false, [&](size_t i) { return beside.product->run(i); });
    const size_t products = beside.product ? product.calibrate(seconds) : 0;
    std::vector<double> times, product_times;
    auto end = Clock::now() + std::chrono::duration<double>(options_.seconds);
    while (times.size() < 11 || Clock::now() < end) {
      times.push_back(call.sample(m.calls));
      copies.wake();
      for (auto& rival : rivals) rival.times.push_back(rival.sampler.sample(rival.calls));
      copies.sleep();
      if (products) product_times.push_back(product.sample(products));
      if (times.back() < 0 || rivals[0].times.back() < 0) return kvops_last_error();
    }
    m.samples = times.size();
    m.median = quantile(times, 0.5), m.low = quantile(times, 0.1), m.high = quantile(times, 0.9);
    // Neighbours in time are compared: a memory shared with others changes its speed meanwhile.
    auto time_of = [&](std::vector<double> others) {
      for (size_t i = 0; i < others.size(); ++i) others[i] /= times[i];
      return quantile(others, 0.5) * m.median;
    };
    if (products) m.onednn = time_of(product_times) * beside.product->share();
    for (auto& rival : rivals) {
      double median = time_of(rival.times);
      if (copies.is_read(rival.kind)) {
        m.read = m.read > 0 ? std::min(m.read, median) : median;
        continue;
      }
      if (m.copy > 0 && median >= m.copy) continue;
      m.copy = median;
      m.copy_kind = copies.name(rival.kind);
    }
    return "";
  }

  struct Rival {
    size_t kind;
    Sampler sampler;
    size_t calls;
    std::vector<double> times = {};
  };

  // The fastest kind of copy by one thread and the fastest by all, at this size, and of reads; all
  // are then measured beside the operator.
  std::vector<Rival> pick(Copies& copies, double seconds, bool by_graph) {
    std::vector<Rival> best;
    double shortest[4] = {1e30, 1e30, 1e30, 1e30};
    auto rank = [&](size_t kind) { return 2 * copies.is_read(kind) + copies.is_team(kind); };
    copies.wake();
    for (size_t kind = 0; kind < copies.kinds(); ++kind) {
      Sampler copy(device_, stream_, by_graph,
                   [&copies, kind](size_t i) { return copies.run(kind, i); });
      size_t calls = copy.calibrate(seconds);
      if (!calls) return {};
      std::vector<double> times(5);
      for (auto& time : times) time = copy.sample(calls);
      double& least = shortest[rank(kind)];
      if (quantile(times, 0.5) >= least) continue;
      least = quantile(times, 0.5);
      std::erase_if(best, [&](auto& r) { return rank(r.kind) == rank(kind); });
      best.push_back({kind, std::move(copy), calls});
    }
    copies.sleep();
    return best;
  }

  const BenchOptions& options_;
  kvops_device device_;
  int threads_;
  void* stream_ = nullptr;
  kvops_device_info info_ = {};
};

void print_row(const kvops_op_info* op, const Measurement& m) {
  auto gb = [&](double seconds) { return double(m.bytes) / seconds * 1e-9; };
  std::printf("%-24s %-14s %-40s %10.2f us  %7.2f GB/s  %5.1f %% of a %s copy", op->name,
              m.one.name.c_str(), m.one.text.c_str(), m.median * 1e6, gb(m.median),
              100 * m.copy / m.median, m.copy_kind.c_str());
  if (m.read > 0) std::printf("  %5.1f %% of reading", 100 * m.read / m.median);
  if (m.onednn > 0) std::printf("  %5.1f %% of oneDNN", 100 * m.onednn / m.median);
  std::printf("\n");
  std::fflush(stdout);
}

void add_row(Json& json, const kvops_op_info* op, const Measurement& m) {
  auto gb = [&](double seconds) { return double(m.bytes) / seconds * 1e-9; };
  json.open('{').field("op", op->name).field("case", m.one.name).key("values").open('{');
  for (auto& [name, text] : m.one.value) json.field(name.c_str(), text);
  json.close('}').field("implementation", m.implementation);
  json.field("us", m.median * 1e6).field("us_p10", m.low * 1e6).field("us_p90", m.high * 1e6);
  json.field("bytes", m.bytes).field("gb_per_s", gb(m.median));
  json.field("copy", m.copy_kind).field("copy_us", m.copy * 1e6);
  json.field("copy_gb_per_s", gb(m.copy)).field("of_copy", m.copy / m.median);
  if (m.read > 0) json.field("read_us", m.read * 1e6).field("of_read", m.read / m.median);
  if (m.onednn > 0) json.field("onednn_us", m.onednn * 1e6).field("of_onednn", m.onednn / m.median);
  json.field("by_graph", m.by_graph);
  json.field("samples", int64_t(m.samples)).field("calls_per_sample", int64_t(m.calls));
  json.field("memory_bytes", m.memory).close('}');
}

struct Job {
  const kvops_op_info* op;
  cases::Case one;
};

std::vector<Job> jobs_of(const BenchOptions& options) {
  std::vector<Job> jobs;
  size_t count = 0;
  auto* ops = kvops_ops(&count);
  auto type = device_named(options.device).type;
  for (size_t i = 0; i < count; ++i) {
    bool wanted =
        options.op == ops[i]->name || (options.op == "all" && ops[i]->backends >> type & 1);
    if (!wanted) continue;
    std::string file = data_folder(options.data) + "/cases/" + ops[i]->name + ".txt", problem;
    // Without lines: what makes or releases something is no call to repeat.
    if (options.op == "all" && !std::filesystem::exists(file)) continue;
    auto list = options.line.empty() ? harness::read_cases(file, &problem)
                                     : harness::parse_case("line " + options.line, &problem);
    if (!problem.empty()) std::fprintf(stderr, "kvops: %s\n", problem.c_str());
    auto names = harness::split(options.name, ',');
    std::erase_if(list, [&](auto& one) {
      return !names.empty() && std::find(names.begin(), names.end(), one.name) == names.end();
    });
    for (auto& one : list) jobs.push_back({ops[i], std::move(one)});
  }
  return jobs;
}

}  // namespace

int bench(const BenchOptions& options) {
  if (options.op != "all" && !cases::find_op(options.op)) {
    std::fprintf(stderr, "kvops: there is no operator \"%s\"\n", options.op.c_str());
    return 1;
  }
  auto jobs = jobs_of(options);
  if (jobs.empty()) {
    std::fprintf(stderr, "kvops: no such case in %s/cases/%s.txt; give one with --line\n",
                 data_folder(options.data).c_str(), options.op.c_str());
    return 1;
  }
  Bench bench(options);
  if (!bench.start()) {
    std::fprintf(stderr, "kvops: %s\n", kvops_last_error());
    return 1;
  }
  Json json;
  json.open('{').field("version", version_text(kvops_version())).field("device", bench.info().name);
  json.field("arch", bench.info().arch).field("threads", bench.threads()).key("results").open('[');
  int failures = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    auto& job = jobs[i];
    progress(std::to_string(i + 1) + "/" + std::to_string(jobs.size()) + ": " + job.op->name + " " +
             job.one.name + " " + job.one.text);
    Measurement m;
    m.one = job.one;
    auto problem = options.list ? bench.list(job.op, m) : bench.measure(job.op, m);
    progress("");
    if (!problem.empty()) {
      std::fprintf(stderr, "kvops: %s\n", problem.c_str());
      ++failures;
    } else if (options.list) {
      continue;
    } else if (options.json) {
      add_row(json, job.op, m);
    } else {
      print_row(job.op, m);
    }
  }
  if (options.json && !options.list) json.close(']').close('}').print();
  return failures != 0;
}

}  // namespace kvops
