// Process-wide settings: the environment, read once at load, and kvops_set_option().
#pragma once
#include <string>

namespace kvops {

// The implementation that "impl" forces for an operator ("portable"), or "".
std::string forced_implementation(const char* op);

// Sends a line to the callback of kvops_set_log(), else to stderr.
void log_line(const char* line);

}  // namespace kvops
