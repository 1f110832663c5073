// Capture and replay. The first capture of an operator is its first call in the process.
#include <cuda_runtime_api.h>

#include "proof.h"

namespace proof {
namespace {

// What was captured on a stream since begin(); released with it.
class Graph {
 public:
  explicit Graph(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}
  Graph(const Graph&) = delete;
  ~Graph() {
    if (exec_) cudaGraphExecDestroy(exec_);
    if (graph_) cudaGraphDestroy(graph_);
  }
  // In Global mode no thread of the process may allocate or synchronise until end().
  std::string begin() {
    return text("begin", cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
  }
  std::string end() {
    auto error = cudaStreamEndCapture(stream_, &graph_);
    if (!error) error = cudaGraphInstantiate(&exec_, graph_, 0);
    return text("end", error);
  }
  std::string replay() {
    auto error = cudaGraphLaunch(exec_, stream_);
    if (!error) error = cudaStreamSynchronize(stream_);
    return text("replay", error);
  }

 private:
  static std::string text(const char* what, cudaError_t error) {
    return error ? std::string(what) + ": " + cudaGetErrorString(error) : "";
  }
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

std::string replay_once(Work& work, Graph& graph, uint64_t seed) {
  std::vector<Bytes> captured, direct;
  auto error = work.change(seed);
  work.spoil(true);  // what the CPU held was consumed by the call
  if (error.empty()) error = graph.replay();
  if (error.empty()) error = work.read(&captured);
  work.spoil(false);
  if (error.empty()) error = work.change(seed);
  if (error.empty()) error = failed(work.call());
  if (error.empty()) error = work.read(&direct);
  for (size_t i = 0; error.empty() && i < work.size(); ++i)
    if (work.tensor(i).arg->flags & KVOPS_ARG_HOST) captured[i] = direct[i];
  return error.empty() ? difference(work, captured, direct) : error;
}

std::string prove_case(const kvops_op_info& op, const ShapeCase& c, uint64_t seed, Pinned pinned) {
  test::Stream stream;
  Work work(op, c, test::kGpu, stream.get(), pinned);
  Graph graph(stream.get());
  auto error = work.prepare(seed);
  if (error.empty()) error = graph.begin();
  if (!error.empty()) return error;
  error = failed(work.call());
  auto ended = graph.end();
  if (error.empty()) error = ended;
  for (uint64_t replay = 1; error.empty() && replay <= 3; ++replay)
    error = replay_once(work, graph, seed + replay);
  return error;
}

bool copies_anywhere(const kvops_op_info& op) {
  for (size_t i = 0; i < op.num_args; ++i)
    if (op.args[i]->flags & KVOPS_ARG_ANYWHERE) return true;
  return false;
}

}  // namespace

std::string prove_graph(const Options& o, const kvops_op_info& op, int* cases) {
  std::vector<Pinned> sides = {Pinned::none};
  if (copies_anywhere(op)) sides = {Pinned::none, Pinned::source, Pinned::destination};
  for (auto& c : sample(o, op, 24, 2'000'000)) {
    for (auto side : sides) {
      ++*cases;
      auto error = prove_case(op, c, o.seed + 10 * uint64_t(*cases), side);
      if (!error.empty()) return c.name + " " + c.text + ": " + error;
    }
  }
  return "";
}

}  // namespace proof
