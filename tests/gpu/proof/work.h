// One call of an operator with its memory: a case of tests/cases, random elements, every tensor in
// a buffer of its own with garbage around it.
#pragma once
#include "draw.h"

extern "C" {
#include "place.h"
}

namespace proof {

using harness::ShapeCase;
using harness::Shapes;
using harness::Tensor;
using Bytes = std::vector<uint8_t>;

// Where one side of a copy lies when the other is on the device.
enum class Pinned { none, source, destination };

class Work {
 public:
  // The stream is the caller's; on the CPU it is nullptr. The case must outlive the work.
  Work(const kvops_op_info& op, const ShapeCase& c, kvops_device device, void* stream,
       Pinned pinned = Pinned::none);
  Work(const Work&) = delete;
  ~Work();

  // Memory for the call and its workspace, with the elements of the seed; "" or what went wrong.
  std::string prepare(uint64_t seed) { return prepare(harness::draw(op_, shapes_, seed)); }
  std::string prepare(std::vector<Tensor> tensors);
  // Other elements in the same memory; tensors that a call reads from the CPU's stay as they are.
  std::string change(uint64_t seed);
  // All tensors that a call writes are as they were after prepare(), queued on the stream.
  std::string restore();
  // Garbage in the tensors that a call consumes before it returns, or what they held.
  void spoil(bool spoilt);

  kvops_status call() { return kvops_call(op_.name, args_.data()); }
  // All bytes of all buffers, once the stream is done; "" or what went wrong.
  std::string read(std::vector<Bytes>* all);
  // Also before the first call: what read() would give.
  std::vector<Bytes> images() const;

  const kvops_op_info& op() const { return op_; }
  size_t size() const { return tensors_.size(); }
  const Tensor& tensor(size_t i) const { return tensors_[i]; }
  const placed& place_of(size_t i) const { return items_[i]; }
  void* args() { return args_.data(); }
  // The elements of tensor i out of what read() gave, in C order.
  Bytes elements(size_t i, const Bytes& image) const;

 private:
  std::string lay(size_t i);
  std::string upload(size_t i);
  void point();

  const kvops_op_info& op_;
  Shapes shapes_;
  kvops_device device_;
  void* stream_;
  Pinned pinned_;
  std::vector<Tensor> tensors_;
  std::vector<placed> items_;
  std::vector<void*> backups_;
  std::vector<uint64_t> args_;
  void* workspace_ = nullptr;
};

// "key_cache: byte 17 of 4096 is 3, not 5", or "".
std::string difference(const Work& work, const std::vector<Bytes>& got,
                       const std::vector<Bytes>& want);

// What a proof is told: which operators, which cases of each.
struct Options {
  std::string folder, op;
  uint64_t seed = 1;
  kvops_device device = {KVOPS_CUDA, 0};
};

// At most `most` cases of the operator that have something to do, with `limit` elements at most,
// spread over its file. With `faults`: of operators that count them, and they do.
std::vector<ShapeCase> sample(const Options& o, const kvops_op_info& op, size_t most, int64_t limit,
                              bool faults = false);

}  // namespace proof
