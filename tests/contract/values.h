// Calls for rules about what is in memory: INDEX, BLOCKS, GATHER, SCALES.
#pragma once
#include <vector>

#include "contract/calls.h"
#include "core/contract.h"

// From a legal call: one whose device-side indices are all 0 and whose scales are 1, and one per
// INDEX, BLOCKS, GATHER or SCALES rule in which they are far too large, or negative. None when the
// call has no such tensors, or some of strange strides.
std::vector<ArgsCall> calls_with_values(const kvops::Contract& c, const ArgsCall& base);
