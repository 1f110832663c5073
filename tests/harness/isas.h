// The instruction sets that this machine can run, for tests that go through all of them.
#pragma once
#include <string>
#include <vector>

#include "cpu/isa.h"

namespace kvops::cpu {

inline constexpr const char* kIsaNames[] = {"scalar", "sse4", "avx2", "avx3"};

inline std::vector<Isa> usable_isas() {
  const std::string now = isa_name();
  std::vector<Isa> all;
  for (int i = 0; i < 4; ++i)
    if (set_isa(kIsaNames[i])) all.push_back(Isa(i));
  set_isa(now);
  return all;
}

}  // namespace kvops::cpu
