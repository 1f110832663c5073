// The arguments of a call that hold indices, by the rules of kvops_ops().
#pragma once
#include "work.h"

namespace proof {

// "index slot_mapping blocks*block", "blocks block_table blocks seq_lens", "gather ...".
struct IndexRule {
  std::string verb, argument, bound;
};
std::vector<IndexRule> index_rules(const kvops_op_info& op);

// Values of an i32 or i64 tensor; set() keeps to the range of its dtype.
int64_t get(const Tensor& t, int64_t i);
void set(Tensor& t, int64_t i, int64_t value);

}  // namespace proof
