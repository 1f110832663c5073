// Plain copies on the CPU's threads.
#pragma once
#include <vector>

#include "core/copies.h"

namespace kvops::cpu {

// Runs the copies, cut into pieces, on all threads: they must not depend on each other.
void copy_all(const std::vector<Copy>& copies);

}  // namespace kvops::cpu
