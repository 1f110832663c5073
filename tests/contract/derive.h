// Calls derived from the table: one illegal change of one argument of a legal call.
#pragma once
#include "contract/calls.h"

enum class Expect {
  refused,  // INVALID_ARGUMENT that names an argument
  taken,    // still legal
  free,     // either: the row alone does not decide
};
struct Derived {
  ArgsCall call;
  Expect expect;
  const kvops_arg_info* arg;  // the one that was changed
  std::string change;         // "rank 7"
};

std::vector<Derived> derive(const ArgsCall& base);
