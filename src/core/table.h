// The operators of src/ops.def without their types: what a generic call needs to know about one.
#pragma once
#include <span>

#include "core/backend.h"
#include "core/contract.h"

namespace kvops {

struct Entry {
  Contract contract;
  uint64_t backends;  // bit i: the table says that it exists for device type i
  bool (*has)(const Backend&);
  kvops_status (*call)(const Backend&, const void* args);
  int64_t (*bytes)(const Backend&, const void* args);  // nullptr: no sized argument
};

// In the order of src/ops.def, which is that of the enum.
enum class Id : size_t {
#define KVOPS_OP(op, ...) op,
#include "ops.def"
  count
};
inline constexpr size_t kNumOps = size_t(Id::count);
extern const Entry kEntries[kNumOps];

// nullptr: no such operator.
const Entry* find_entry(const char* op);

}  // namespace kvops
