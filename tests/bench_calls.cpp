// bench_calls FOLDER [OPERATOR]: the host's nanoseconds in one call on a GPU, from validation to
// launch, for every operator of the CUDA column: the smallest case of FOLDER/<op>.txt (tests/cases)
// that works on something. Beside it those of the driver alone: the kernels of the call, taken from
// a captured graph, launched again by cuLaunchKernel with the same arguments. What is left is ours
// and the CUDA runtime's. Medians of batches that the device's queue takes without waiting; a
// benchmark, not a test.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "gpu/device.h"
#include "work.h"

namespace {

using namespace proof;

constexpr int kBatch = 50, kBatches = 401;

template <class F>
F* driver(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  cudaGetDriverEntryPointByVersion(name, &function, CUDART_VERSION, cudaEnableDefault, &result);
  return reinterpret_cast<F*>(function);
}

// Nanoseconds of one of a batch's calls.
template <class Call>
double median_ns(const test::Stream& stream, Call&& call) {
  std::vector<double> samples;
  for (int b = 0; b < kBatches; ++b) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kBatch; ++i)
      if (!call()) return -1;
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    samples.push_back(took.count() / kBatch);
    stream.wait();
  }
  std::nth_element(samples.begin(), samples.begin() + kBatches / 2, samples.end());
  return samples[kBatches / 2];
}

// The kernels of one call; empty when it has other nodes as well.
std::vector<CUDA_KERNEL_NODE_PARAMS> kernels_of(cudaGraph_t graph) {
  static auto* params =
      driver<CUresult(CUgraphNode, CUDA_KERNEL_NODE_PARAMS*)>("cuGraphKernelNodeGetParams");
  size_t count = 0;
  cudaGraphGetNodes(graph, nullptr, &count);
  std::vector<cudaGraphNode_t> nodes(count);
  cudaGraphGetNodes(graph, nodes.data(), &count);
  std::vector<CUDA_KERNEL_NODE_PARAMS> kernels(count);
  for (size_t i = 0; i < count; ++i)
    if (!params || params(nodes[i], &kernels[i])) return {};
  return kernels;
}

double launches_ns(const test::Stream& stream, Work& work) {
  static auto* launch =
      driver<CUresult(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                      unsigned, CUstream, void**, void**)>("cuLaunchKernel");
  auto* s = static_cast<cudaStream_t>(stream.get());
  cudaGraph_t graph = nullptr;
  cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
  const bool called = !work.call();
  if (cudaStreamEndCapture(s, &graph) || !called) return -1;
  const auto kernels = kernels_of(graph);
  auto one = [&](const CUDA_KERNEL_NODE_PARAMS& k) {
    auto function = k.func ? k.func : reinterpret_cast<CUfunction>(k.kern);
    return !launch(function, k.gridDimX, k.gridDimY, k.gridDimZ, k.blockDimX, k.blockDimY,
                   k.blockDimZ, k.sharedMemBytes, s, k.kernelParams, k.extra);
  };
  const double ns = kernels.empty() || !launch ? -1 : median_ns(stream, [&] {
    return std::all_of(kernels.begin(), kernels.end(), one);
  });
  cudaGraphDestroy(graph);
  return ns;
}

bool measure(const Options& o, const kvops_op_info& op) {
  auto list = sample(o, op, 1000, 3'000'000);
  auto size = [&](const ShapeCase& c) { return harness::elements(op, Shapes(op, c)); };
  auto smaller = [&](auto& a, auto& b) { return size(a) < size(b); };
  if (list.empty()) return std::printf("%-32s has no case\n", op.name), false;
  auto& c = *std::min_element(list.begin(), list.end(), smaller);
  test::Stream stream;
  Work work(op, c, test::kGpu, stream.get());
  const auto error = work.prepare(o.seed);
  if (!error.empty()) return std::printf("%-32s %s\n", op.name, error.c_str()), false;
  const double all = median_ns(stream, [&] { return !work.call(); });
  const double theirs = launches_ns(stream, work);
  if (all < 0) return std::printf("%-32s %s\n", op.name, kvops_last_error()), false;
  std::printf("%-32s %6.0f ns", op.name, all);
  if (theirs > 0) std::printf(", of which the driver %6.0f, ours %6.0f", theirs, all - theirs);
  return std::printf("   %s %s\n", c.name.c_str(), c.text.c_str()), true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: bench_calls FOLDER [OPERATOR]\n"), 2;
  Options o;
  o.folder = argv[1];
  int32_t devices = 0;
  kvops_device_count(KVOPS_CUDA, &devices);
  if (!devices) return std::printf("skipped: there is no CUDA device\n"), 77;
  size_t count = 0;
  auto* ops = kvops_ops(&count);
  bool ok = true;
  for (size_t i = 0; i < count; ++i)
    if (ops[i]->backends >> KVOPS_CUDA & 1 && (argc < 3 || !std::strcmp(argv[2], ops[i]->name)))
      ok = measure(o, *ops[i]) && ok;
  return !ok;
}
