// Graphs timed by events, and a copy kernel: a thread moves kUnroll groups of 16 bytes that lie a
// block apart, so that a warp's accesses are dense and all loads are on their way before a store.
#include <cuda_runtime.h>

#include "graph.h"

namespace kvops {
namespace {

constexpr int kThreads = 256;

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

template <int kUnroll, bool kStreaming>
__global__ void __launch_bounds__(kThreads)
    copy_groups(uint4* __restrict__ dst, const uint4* __restrict__ src, int64_t groups) {
  const int64_t begin = int64_t(blockIdx.x) * kThreads * kUnroll + threadIdx.x;
  uint4 group[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int64_t at = begin + i * kThreads;
    if (at < groups) group[i] = kStreaming ? __ldcs(src + at) : src[at];
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int64_t at = begin + i * kThreads;
    if (at >= groups) continue;
    if constexpr (kStreaming)
      __stcs(dst + at, group[i]);
    else
      dst[at] = group[i];
  }
}

template <int kUnroll, bool kStreaming>
void launch_copy(cudaStream_t stream, void* dst, const void* src, int64_t groups) {
  constexpr int64_t kEach = kThreads * kUnroll;
  copy_groups<kUnroll, kStreaming><<<unsigned((groups + kEach - 1) / kEach), kThreads, 0, stream>>>(
      static_cast<uint4*>(dst), static_cast<const uint4*>(src), groups);
}

using Launch = void (*)(cudaStream_t, void*, const void*, int64_t);
constexpr Launch kLaunches[kCopyKernels] = {launch_copy<1, false>, launch_copy<2, false>,
                                            launch_copy<4, false>, launch_copy<8, false>,
                                            launch_copy<2, true>,  launch_copy<4, true>};

}  // namespace

// The buffers end on 256 bytes: whole groups of 16 stay within them.
bool copy_by_kernel(int kernel, void* stream, void* dst, const void* src, int64_t bytes) {
  kLaunches[kernel](stream_of(stream), dst, src, (bytes + 15) / 16);
  return cudaPeekAtLastError() == cudaSuccess;
}

void Graph::drop() {
  if (exec_) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(exec_));
  for (auto& event : events_) {
    if (event) cudaEventDestroy(static_cast<cudaEvent_t>(event));
    event = nullptr;
  }
  exec_ = nullptr;
}

bool Graph::record(const std::function<bool()>& body) {
  drop();
  const auto stream = stream_of(stream_);
  if (cudaSetDevice(device_.index) || cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal))
    return false;
  const bool ran = body();
  cudaGraph_t graph = nullptr;
  bool recorded = cudaStreamEndCapture(stream, &graph) == cudaSuccess && ran;
  cudaGraphExec_t exec = nullptr;
  recorded = recorded && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess;
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
  exec_ = exec;
  for (auto& event : events_) {
    cudaEvent_t created = nullptr;
    recorded = recorded && cudaEventCreate(&created) == cudaSuccess;
    event = created;
  }
  return recorded && replay() >= 0;
}

double Graph::replay() {
  const auto stream = stream_of(stream_);
  const auto begin = static_cast<cudaEvent_t>(events_[0]);
  const auto end = static_cast<cudaEvent_t>(events_[1]);
  float milliseconds = 0;
  if (cudaEventRecord(begin, stream) ||
      cudaGraphLaunch(static_cast<cudaGraphExec_t>(exec_), stream) ||
      cudaEventRecord(end, stream) || cudaEventSynchronize(end) ||
      cudaEventElapsedTime(&milliseconds, begin, end))
    return -1;
  return double(milliseconds) * 1e-3;
}

}  // namespace kvops
