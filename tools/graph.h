// Calls on a CUDA stream, recorded as a graph and timed by events when it is replayed: what a GPU
// needs for them back to back, without the host that launches them.
#pragma once
#include <cstdint>
#include <functional>

#include "kvcache_ops.h"

namespace kvops {

#if KVOPS_HAS_CUDA
class Graph {
 public:
  Graph(kvops_device device, void* stream) : device_(device), stream_(stream) {}
  ~Graph() { drop(); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Records what body puts on the stream, and replays it once. false: body failed or cannot be
  // captured; the stream is as before.
  bool record(const std::function<bool()>& body);
  // Seconds; negative when it failed.
  double replay();

 private:
  void drop();
  kvops_device device_;
  void* stream_;
  void* exec_ = nullptr;
  void* events_[2] = {};
};

// Kernels that copy, the yardstick of a kernel that computes: large memcpy nodes take a slower
// path. Which of them is the fastest depends on the size.
inline constexpr int kCopyKernels = 6;
bool copy_by_kernel(int kernel, void* stream, void* dst, const void* src, int64_t bytes);
#else
class Graph {  // nothing can be recorded
 public:
  Graph(kvops_device, void*) {}
  bool record(const std::function<bool()>&) { return false; }
  double replay() { return -1; }
};

inline constexpr int kCopyKernels = 0;
inline bool copy_by_kernel(int, void*, void*, const void*, int64_t) { return false; }
#endif

}  // namespace kvops
