// What `kvops doctor` and `kvops verify` try instead of golden cases: operators whose calls hang
// together through the number of a weight or through a plan, which no file can hold.
#pragma once
#include <string>
#include <vector>

namespace kvops {

struct Trial {
  const char* op;
  std::string device;   // the instruction set
  std::string problem;  // "" when the operator ran and was right
};

// Multiplies by packed unit matrices (what comes in must come out) and attends with queries of
// zeros (the mean of the values must come out), on every instruction set that is here, or on that
// of KVOPS_CPU_ISA. Sets the option cpu_isa and leaves it at its default.
std::vector<Trial> run_trials();

// Is this one of the operators that run_trials() tries?
bool has_trial(const std::string& op);

}  // namespace kvops
