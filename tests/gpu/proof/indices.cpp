// See indices.h.
#include "indices.h"

#include <algorithm>
#include <cstring>

namespace proof {

std::vector<IndexRule> index_rules(const kvops_op_info& op) {
  std::vector<IndexRule> all;
  for (size_t r = 0; r < op.num_rules; ++r) {
    auto words = harness::words(op.rules[r]);
    if (words.size() > 2 && (words[0] == "index" || words[0] == "blocks" || words[0] == "gather"))
      all.push_back({words[0], words[1], words[2]});
  }
  return all;
}

int64_t get(const Tensor& t, int64_t i) {
  if (t.dtype == KVOPS_I64) {
    int64_t value;
    std::memcpy(&value, &t.elements[size_t(i) * 8], 8);
    return value;
  }
  int32_t value;
  std::memcpy(&value, &t.elements[size_t(i) * 4], 4);
  return value;
}

void set(Tensor& t, int64_t i, int64_t value) {
  if (t.dtype == KVOPS_I64) {
    std::memcpy(&t.elements[size_t(i) * 8], &value, 8);
    return;
  }
  const auto narrow = int32_t(std::clamp<int64_t>(value, INT32_MIN, INT32_MAX));
  std::memcpy(&t.elements[size_t(i) * 4], &narrow, 4);
}

}  // namespace proof
