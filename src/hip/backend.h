// The HIP column of the dispatch table.
#pragma once
#include "core/backend.h"

namespace kvops::hip {

// nullptr, with the reason in *why, when there is no libamdhip64 or no device. The library is
// looked for once, by the first call.
const Backend* backend(const char** why);

}  // namespace kvops::hip
