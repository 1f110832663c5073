// Both operators on vertical-slash lists, once their arguments have become one.
#pragma once
#include "core/vertical_slash.h"

namespace kvops::cpu {

using VerticalSlash = VerticalSlashCall<int64_t>;

kvops_status convert_vertical_slash(const VerticalSlash& job);

}  // namespace kvops::cpu
