// One call, whatever the operator: struct_size, bind(), back end.
#pragma once
#include "core/table.h"

namespace kvops {

// Room for the largest args struct; table.cpp fails to compile when it is too small.
inline constexpr size_t kMaxArgsSize = 2048;

kvops_status call(const Entry& entry, const void* args) noexcept;
// The size of the workspace or plan argument.
kvops_status ask_bytes(const Entry& entry, const void* args, int64_t* bytes) noexcept;
kvops_status query(const Entry& entry, const void* args, kvops_query_result* result) noexcept;

}  // namespace kvops
