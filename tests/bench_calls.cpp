// bench_calls FOLDER [OPERATOR]: the host's nanoseconds in one call on a GPU, from validation to
// launch, for every operator of the CUDA column: the smallest case of FOLDER/<op>.txt (tests/cases)
// that has something to do. Beside it the launches alone: the kernels of the call, taken from a
// captured graph, queued again with the same arguments by the driver's cuLaunchKernelEx and by the
// runtime's cudaLaunchKernelExC. What the call takes beyond the latter is ours. The three take
// turns, so that they see the same machine; medians of batches that the device's queue takes
// without waiting. A benchmark, not a test.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>

#include "gpu/device.h"
#include "work.h"

namespace {

using namespace proof;

constexpr int kBatch = 40, kBatches = 301;

template <class F>
F* driver(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  cudaGetDriverEntryPointByVersion(name, &function, CUDART_VERSION, cudaEnableDefault, &result);
  return reinterpret_cast<F*>(function);
}

using Call = std::function<bool()>;

// Nanoseconds of each of the calls; negative: it fails.
std::vector<double> medians(const test::Stream& stream, const std::vector<Call>& calls) {
  std::vector<std::vector<double>> samples(calls.size());
  for (int b = 0; b < kBatches * int(calls.size()); ++b) {
    const size_t which = size_t(b) % calls.size();
    const auto begin = std::chrono::steady_clock::now();
    bool ok = true;
    for (int i = 0; i < kBatch; ++i) ok = calls[which]() && ok;
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    samples[which].push_back(ok ? took.count() / kBatch : -1e9);
    stream.wait();
  }
  std::vector<double> all;
  for (auto& s : samples) {
    std::nth_element(s.begin(), s.begin() + kBatches / 2, s.end());
    all.push_back(s[kBatches / 2]);
  }
  return all;
}

// A kernel as a graph holds it. Clusters are no part of its node's parameters.
struct Kernel {
  CUDA_KERNEL_NODE_PARAMS node = {};
  CUlaunchAttribute cluster = {};
  unsigned attributes() const { return cluster.value.clusterDim.x ? 1 : 0; }
};

// The kernels of one call; empty when it has other nodes as well. The graph must live as long.
std::vector<Kernel> kernels_of(cudaGraph_t graph) {
  static auto* params =
      driver<CUresult(CUgraphNode, CUDA_KERNEL_NODE_PARAMS*)>("cuGraphKernelNodeGetParams");
  static auto* attribute =
      driver<CUresult(CUgraphNode, CUlaunchAttributeID, CUlaunchAttributeValue*)>(
          "cuGraphKernelNodeGetAttribute");
  size_t count = 0;
  cudaGraphGetNodes(graph, nullptr, &count);
  std::vector<cudaGraphNode_t> nodes(count);
  cudaGraphGetNodes(graph, nodes.data(), &count);
  std::vector<Kernel> kernels(count);
  for (size_t i = 0; i < count; ++i) {
    auto& k = kernels[i];
    if (!params || params(nodes[i], &k.node) || !k.node.func || !k.node.kern) return {};
    k.cluster.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    if (!attribute || attribute(nodes[i], k.cluster.id, &k.cluster.value)) k.cluster.value = {};
  }
  return kernels;
}

bool launch_by_driver(Kernel& k, cudaStream_t stream) {
  static auto* launch =
      driver<CUresult(const CUlaunchConfig*, CUfunction, void**, void**)>("cuLaunchKernelEx");
  const auto& n = k.node;
  CUlaunchConfig config = {};
  config.gridDimX = n.gridDimX, config.gridDimY = n.gridDimY, config.gridDimZ = n.gridDimZ;
  config.blockDimX = n.blockDimX, config.blockDimY = n.blockDimY, config.blockDimZ = n.blockDimZ;
  config.sharedMemBytes = n.sharedMemBytes, config.hStream = stream;
  config.attrs = &k.cluster, config.numAttrs = k.attributes();
  return launch && !launch(&config, n.func, n.kernelParams, n.extra);
}

bool launch_by_runtime(Kernel& k, cudaStream_t stream) {
  const auto& n = k.node;
  const auto& size = k.cluster.value.clusterDim;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = size.x, cluster.val.clusterDim.y = size.y;
  cluster.val.clusterDim.z = size.z;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(n.gridDimX, n.gridDimY, n.gridDimZ);
  config.blockDim = dim3(n.blockDimX, n.blockDimY, n.blockDimZ);
  config.dynamicSmemBytes = n.sharedMemBytes, config.stream = stream;
  config.attrs = &cluster, config.numAttrs = k.attributes();
  return !cudaLaunchKernelExC(&config, n.kern, n.kernelParams);
}

// What any launch takes here: of a kernel that does nothing, with nothing and with 4000 bytes of
// arguments.
void measure_empty() {
  constexpr const char* kText =
      ".version 7.8\n.target sm_75\n.address_size 64\n"
      ".visible .entry empty() { ret; }\n"
      ".visible .entry filled(.param .align 8 .b8 data[4000]) { ret; }\n";
  auto* load = driver<CUresult(CUmodule*, const void*)>("cuModuleLoadData");
  auto* find = driver<CUresult(CUfunction*, CUmodule, const char*)>("cuModuleGetFunction");
  test::Stream stream;
  auto* s = static_cast<cudaStream_t>(stream.get());
  CUmodule module = nullptr;
  if (!load || !find || load(&module, kText)) return;
  for (const char* name : {"empty", "filled"}) {
    char data[4000] = {};
    void* arguments[] = {data};
    Kernel k;
    auto& n = k.node;
    n.gridDimX = n.gridDimY = n.gridDimZ = n.blockDimY = n.blockDimZ = 1, n.blockDimX = 128;
    n.kernelParams = arguments;
    if (find(&n.func, module, name)) return;
    std::printf("%-32s %6.0f ns by the driver\n", name,
                medians(stream, {[&] { return launch_by_driver(k, s); }})[0]);
  }
}

bool measure(const Options& o, const kvops_op_info& op) {
  auto list = sample(o, op, 1000, 3'000'000);
  auto size = [&](const ShapeCase& c) { return harness::elements(op, Shapes(op, c)); };
  auto smaller = [&](auto& a, auto& b) { return size(a) < size(b); };
  if (list.empty()) return std::printf("%-32s has no case\n", op.name), false;
  auto& c = *std::min_element(list.begin(), list.end(), smaller);
  test::Stream stream;
  auto* s = static_cast<cudaStream_t>(stream.get());
  Work work(op, c, test::kGpu, s);
  const auto error = work.prepare(o.seed);
  if (!error.empty()) return std::printf("%-32s %s\n", op.name, error.c_str()), false;
  cudaGraph_t graph = nullptr;
  cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
  const bool called = !work.call();
  if (cudaStreamEndCapture(s, &graph) || !called)
    return std::printf("%-32s %s\n", op.name, kvops_last_error()), false;
  auto kernels = kernels_of(graph);
  std::vector<Call> calls = {[&] { return !work.call(); }};
  for (auto launch : {launch_by_driver, launch_by_runtime})
    calls.push_back([&kernels, launch, s] {
      return std::all_of(kernels.begin(), kernels.end(), [&](auto& k) { return launch(k, s); });
    });
  if (kernels.empty()) calls.resize(1);
  const auto ns = medians(stream, calls);
  cudaGraphDestroy(graph);
  std::printf("%-32s %6.0f ns", op.name, ns[0]);
  if (ns.size() > 1)
    std::printf(", %zu launches: driver %5.0f, runtime %5.0f; ours %4.0f", kernels.size(), ns[1],
                ns[2], ns[0] - ns[2]);
  std::printf("   %s %s\n", c.name.c_str(), c.text.c_str());
  return ns[0] > 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: bench_calls FOLDER [OPERATOR]\n"), 2;
  Options o;
  o.folder = argv[1];
  int32_t devices = 0;
  kvops_device_count(KVOPS_CUDA, &devices);
  if (!devices) return std::printf("skipped: there is no CUDA device\n"), 77;
  measure_empty();
  size_t count = 0;
  auto* ops = kvops_ops(&count);
  bool ok = true;
  for (size_t i = 0; i < count; ++i)
    if (ops[i]->backends >> KVOPS_CUDA & 1 && (argc < 3 || !std::strcmp(argv[2], ops[i]->name)))
      ok = measure(o, *ops[i]) && ok;
  return !ok;
}
