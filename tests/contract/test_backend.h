// A CPU back end that has every operator and runs none: it remembers the call.
#pragma once
#include <string>
#include <vector>

#include "kvcache_ops.h"

struct Recorded {
  std::string op;  // "" when no back end was reached
  std::vector<char> args;
};
extern Recorded recorded;
extern bool recording;

// What rms_norm does instead; nullptr: nothing.
extern kvops_status (*rms_norm_hook)(const kvops_rms_norm_args& args);

// What every size function answers.
inline constexpr long long kTestBytes = 4096;
