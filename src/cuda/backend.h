// The CUDA column of the dispatch table.
#pragma once
#include "core/backend.h"

namespace kvops::cuda {

// nullptr, with the reason in *why, when no driver of CUDA 13 (580 or newer) or no device is there.
// Looked up once; creates no context.
const Backend* backend(const char** why);

}  // namespace kvops::cuda
