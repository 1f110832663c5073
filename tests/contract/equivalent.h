// Mutants that no call can tell from the original.
#pragma once
#include <string>

#include "core/contract.h"

// The proof, or nullptr: some call could tell.
const char* equivalent(const kvops::Contract& contract, const std::string& mutant);
