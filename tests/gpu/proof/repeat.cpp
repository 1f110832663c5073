// The same call very often: in one stream, in several threads, beside other work.
#include <cuda_runtime_api.h>

#include <atomic>
#include <memory>
#include <thread>

#include "proof.h"

namespace proof {
namespace {

constexpr int kCalls = 10000;
constexpr int kChain = 20;  // calls between two looks at the results: of those in place a chain

// A work on a stream of its own, and what a chain of calls makes of it.
struct Lane {
  test::Stream stream;
  Work work;
  std::vector<Bytes> expected;

  Lane(const kvops_op_info& op, const ShapeCase& c) : work(op, c, test::kGpu, stream.get()) {}
  std::string check() {
    std::vector<Bytes> got;
    auto error = work.read(&got);
    return error.empty() ? difference(work, got, expected) : error;
  }
};

std::string call(Work& work, int times) {
  for (int i = 0; i < times; ++i)
    if (work.call()) return kvops_last_error();
  return "";
}

std::string chain(Lane& lane) {
  auto error = lane.work.restore();
  if (error.empty()) error = call(lane.work, kChain);
  return error.empty() ? lane.work.read(&lane.expected) : error;
}

// The calls of one thread, turn by turn on its two streams.
std::string run(Lane& a, Lane& b) {
  std::string error;
  for (int done = 0; error.empty() && done < kCalls; done += 2 * kChain) {
    error = a.work.restore();
    if (error.empty()) error = b.work.restore();
    for (int i = 0; error.empty() && i < kChain; ++i)
      if (a.work.call() || b.work.call()) error = kvops_last_error();
    if (error.empty()) error = a.check();
    if (error.empty()) error = b.check();
  }
  return error;
}

std::string threads_case(const kvops_op_info& op, const ShapeCase& c, uint64_t seed) {
  std::vector<std::unique_ptr<Lane>> lanes;
  for (uint64_t i = 0; i < 4; ++i) {
    lanes.push_back(std::make_unique<Lane>(op, c));
    auto error = lanes.back()->work.prepare(seed + i);
    if (error.empty()) error = chain(*lanes.back());
    if (!error.empty()) return error;
  }
  std::string other, own;
  std::thread thread([&] { other = run(*lanes[2], *lanes[3]); });
  own = run(*lanes[0], *lanes[1]);
  thread.join();
  return own.empty() ? other : own;
}

// Other programs on the device may take memory in between: a leak is there every time.
std::string memory_case(const kvops_op_info& op, const ShapeCase& c, uint64_t seed) {
  Lane lane(op, c);
  auto error = lane.work.prepare(seed);
  if (error.empty()) error = chain(lane);
  for (int attempt = 0; error.empty() && attempt < 3; ++attempt) {
    size_t before = 0, after = 0, total = 0;
    if (cudaMemGetInfo(&before, &total)) return "no cudaMemGetInfo";
    error = call(lane.work, kCalls);
    lane.stream.wait();
    if (cudaMemGetInfo(&after, &total)) return "no cudaMemGetInfo";
    if (before == after) return error;
    if (error.empty() && attempt == 2)
      error = std::to_string(before) + " bytes were free, then " + std::to_string(after);
  }
  return error;
}

// Keeps the device busy with fills, copies and rows of many sizes on a stream of its own.
class Noise {
 public:
  Noise() {
    for (auto*& buffer : buffers_) test::need(kvops_malloc(test::kGpu, kBytes, &buffer));
    test::need(kvops_fill(test::kGpu, stream_.get(), buffers_[0], 0x3C, kBytes));
    thread_ = std::thread([this] {
      for (std::mt19937 random(3); !stop_;) make(random);
      kvops_stream_synchronize(test::kGpu, stream_.get());
    });
  }
  Noise(const Noise&) = delete;
  ~Noise() {
    stop_ = true;
    thread_.join();
    for (auto* buffer : buffers_) kvops_free(test::kGpu, buffer);
  }
  int64_t made() const { return made_; }

 private:
  static constexpr int64_t kBytes = 64 << 20;

  void make(std::mt19937& random) {
    const int64_t d = 128 << random() % 7,
                  rows = int64_t(random() % (kBytes / 2 / uint64_t(d))) + 1;
    const int64_t shape[] = {rows, d}, bytes = 1 + int64_t(random() % kBytes);
    auto* stream = stream_.get();
    for (int i = 0; i < 8; ++i) {
      kvops_rms_norm_args a = {};
      a.struct_size = sizeof a, a.epsilon = 1e-6;
      a.input = kvops_dense(buffers_[0], test::kGpu, stream, KVOPS_BF16, 2, shape);
      a.out = kvops_dense(buffers_[1], test::kGpu, stream, KVOPS_BF16, 2, shape);
      const uint32_t kind = random() % 3;
      made_ += !(kind == 0   ? kvops_rms_norm(&a)
                 : kind == 1 ? kvops_copy(test::kGpu, stream, buffers_[1], buffers_[0], bytes)
                             : kvops_fill(test::kGpu, stream, buffers_[1], 7, bytes));
    }
    kvops_stream_synchronize(test::kGpu, stream);
  }

  test::Stream stream_;
  void* buffers_[2] = {};
  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> made_ = 0;
  std::thread thread_;
};

std::string noise_case(const kvops_op_info& op, const ShapeCase& c, uint64_t seed) {
  Lane lane(op, c);
  auto error = lane.work.prepare(seed);
  for (int repeat = 0; error.empty() && repeat < 100; ++repeat) {
    error = lane.work.restore();
    if (error.empty()) error = call(lane.work, 1);
    if (error.empty()) error = repeat ? lane.check() : lane.work.read(&lane.expected);
  }
  return error;
}

using Case = std::string (*)(const kvops_op_info&, const ShapeCase&, uint64_t);

std::string each(const std::vector<ShapeCase>& list, const kvops_op_info& op, uint64_t seed,
                 Case prove, int* cases) {
  for (auto& c : list) {
    auto error = prove(op, c, seed + 10 * uint64_t(++*cases));
    if (!error.empty()) return c.name + " " + c.text + ": " + error;
  }
  return "";
}

}  // namespace

std::string prove_memory(const Options& o, const kvops_op_info& op, int* cases) {
  return each(sample(o, op, 1, 500'000), op, o.seed, memory_case, cases);
}

std::string prove_threads(const Options& o, const kvops_op_info& op, int* cases) {
  return each(sample(o, op, 2, 500'000), op, o.seed, threads_case, cases);
}

std::string prove_noise(const Options& o, const kvops_op_info& op, int* cases) {
  Noise noise;
  auto error = each(sample(o, op, 4, 4'000'000), op, o.seed, noise_case, cases);
  return error.empty() && !noise.made() ? "the noise made none" : error;
}

}  // namespace proof
