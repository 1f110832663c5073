// KVOPS_DEBUG=bounds: the rules of the table about values (INDEX, BLOCKS, GATHER, SCALES, LIST).
#pragma once
#include "core/backend.h"
#include "core/contract.h"

namespace kvops {

// Waits for the stream, reads the index tensors of a call that bind() accepted, and reports the
// first value out of its range.
kvops_status check_indices(const Contract& contract, const void* args, const DeviceApi& device,
                           const Bound& bound);

}  // namespace kvops
