// From a case line (tests/harness/shapes.h) to a call without memory: dtypes, extents, which
// optional tensors are given, the workspace's size, and the bytes that the call must at least move.
#pragma once
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvcache_ops.h"
#include "shapes.h"

namespace kvops::cases {

using Case = harness::ShapeCase;

// What the names of an expression mean; "bytes(key_cache)" is one, too.
using Lookup = std::function<std::optional<int64_t>(const std::string& name)>;
// Nothing when a name is unknown or the value is not whole.
std::optional<int64_t> evaluate(const std::string& text, const Lookup& lookup);

// One tensor argument that is given.
struct Tensor {
  const kvops_arg_info* info;
  kvops_tensor shape;      // without data
  int64_t bytes = 0;       // of all elements
  int64_t read = 0;        // what a call must read of them,
  int64_t written = 0;     // and what it must write
  int64_t bound = 0;       // indices: values lie in [0, bound)
  bool is_length = false;  // ... and are all bound - 1
  int64_t rows = 0;        // first rows of requests, which share these rows evenly
  bool is_shared = false;  // an index chooses a small part: calls may use the same memory
};

struct Layout {
  const kvops_op_info* op = nullptr;
  std::vector<std::byte> args;  // the struct, shapes in place, data NULL
  std::vector<Tensor> tensors;
  int64_t run = 1;      // slots come in aligned runs of this many
  int64_t batch = 0;    // requests of a gather
  int64_t traffic = 0;  // least bytes read and written by one call
  int64_t written = 0;  // of them
  int64_t behind = 0;   // bytes of the cache behind each address of an argument
  kvops_query_result query{};
  std::string error;  // why there is no such call; "" when there is
};

// The call of a case on a device.
Layout lay_out(const kvops_op_info* op, const Case& one, kvops_device device);

// Where an argument lies in a struct.
kvops_tensor& tensor_at(std::byte* args, const kvops_arg_info* info);

const kvops_op_info* find_op(const std::string& name);

// Sets the bytes and bounds of the tensors, and the traffic; lookup gives the call's symbols.
void count_traffic(Layout& layout, const Lookup& lookup);

std::string without(std::string text, const char* characters);

}  // namespace kvops::cases
