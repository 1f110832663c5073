// The error of this thread's last failing call.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace kvops {

// Stores "<op>: <argument>: <text>" (argument may be "") and returns status. Strings op and
// argument must be static.
[[gnu::cold, gnu::format(printf, 4, 5)]] kvops_status fail(kvops_status status, const char* op,
                                                           const char* argument, const char* format,
                                                           ...);
// The same for one element of an argument: a block pair, a copy.
[[gnu::cold, gnu::format(printf, 5, 6)]] kvops_status fail_at(int64_t element, kvops_status status,
                                                              const char* op, const char* argument,
                                                              const char* format, ...);

// UNSUPPORTED: a dtype or a number outside the list that a back end has. See core/dispatch.h.
[[gnu::cold]] kvops_status fail_dtype(const char* op, const char* argument, int64_t seen,
                                      DtypeSet set);
[[gnu::cold]] kvops_status fail_value(const char* op, const char* argument, int64_t seen,
                                      const int64_t* list, size_t count);

}  // namespace kvops
