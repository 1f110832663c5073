// A captured graph of calls.
#pragma once
#include <cuda_runtime_api.h>

#include <catch2/catch.hpp>

#include "device.h"

namespace test {

// Captures body's calls on the stream; replays them as often as asked.
class Graph {
 public:
  template <class F>
  Graph(const Stream& stream, F&& body) : stream_(static_cast<cudaStream_t>(stream.get())) {
    REQUIRE(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal) == cudaSuccess);
    body();
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamEndCapture(stream_, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&exec_, graph, 0) == cudaSuccess);
    cudaGraphDestroy(graph);
  }
  ~Graph() { cudaGraphExecDestroy(exec_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void replay() {
    REQUIRE(cudaGraphLaunch(exec_, stream_) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream_) == cudaSuccess);
  }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace test
