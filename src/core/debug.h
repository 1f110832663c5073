// What KVOPS_DEBUG and kvops_set_option("debug", ...) switch on: bounds, log, sync.
#pragma once
#include <atomic>

#include "core/table.h"

namespace kvops {

enum DebugFlag : unsigned { kDebugBounds = 1, kDebugLog = 2, kDebugSync = 4 };
extern std::atomic<unsigned> debug_flags;
inline bool debugging() { return debug_flags.load(std::memory_order_relaxed) != 0; }

// The call, with what the flags ask for before and after it.
kvops_status debug_call(const Entry& entry, const Backend& backend, const Bound& bound,
                        const void* args);

}  // namespace kvops
