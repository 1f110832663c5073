// What `kvops doctor` tries instead of golden cases, which cannot hold the number of a weight.
#pragma once
#include <string>
#include <vector>

namespace kvops {

struct ProductRun {
  const char* op;
  std::string problem;  // "" when the operator ran and was right
};

// Multiplies by packed unit matrices: what comes in must come out.
std::vector<ProductRun> run_products();

// Is this one of the operators that run_products() tries?
bool is_product(const std::string& op);

}  // namespace kvops
