// A CPU back end that has every operator and runs none: it remembers the call.
#pragma once
#include <string>
#include <vector>

struct Recorded {
  std::string op;  // "" when no back end was reached
  std::vector<char> args;
};
extern Recorded recorded;
extern bool recording;

// What every size function answers.
inline constexpr long long kTestBytes = 4096;
