// Packed weights for calls that take a handle: random ones of the shapes and dtypes that the call's
// tensors imply.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kvcache_ops.h"

namespace harness {

// The integer argument `handle` of an operator; NULL: it has none.
const kvops_arg_info* handle_argument(const kvops_op_info& op);

// Bytes of the weight that a call multiplies with; 0: none.
int64_t weight_bytes(const kvops_op_info& op, const void* args);

class Handles {
 public:
  Handles() = default;
  Handles(const Handles&) = delete;
  ~Handles() { clear(); }

  // Gives the call the number of a new weight that fits it, or, with `share`, of one that an
  // earlier call got. False, and nothing changed, when no weight can fit, or it takes none.
  bool give(const kvops_op_info& op, void* args, bool share);
  // Takes over what a call has created: it is released in the end.
  void keep(const kvops_op_info& op, const void* args);
  void clear();

 private:
  std::map<std::string, int64_t> shared_;
  std::vector<int64_t> all_;
};

}  // namespace harness
