// The error of this thread's last failing call; names of status codes and dtypes.
#include "core/error.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "core/dtype.h"

namespace kvops {
namespace {

struct Error {
  const char* op = "";
  const char* argument = "";
  int64_t element = -1;
  kvops_status status = KVOPS_OK;
  char message[512] = "";
};
thread_local Error error;

kvops_status store(int64_t element, kvops_status status, const char* op, const char* argument,
                   const char* format, va_list list) {
  error.op = op, error.argument = argument, error.element = element, error.status = status;
  int n = std::snprintf(error.message, sizeof error.message, "%s: %s%s", op, argument,
                        *argument ? ": " : "");
  if (n >= 0 && size_t(n) < sizeof error.message)
    std::vsnprintf(error.message + n, sizeof error.message - size_t(n), format, list);
  return status;
}

}  // namespace

kvops_status fail(kvops_status status, const char* op, const char* argument, const char* format,
                  ...) {
  va_list list;
  va_start(list, format);
  store(-1, status, op, argument, format, list);
  va_end(list);
  return status;
}

kvops_status fail_at(int64_t element, kvops_status status, const char* op, const char* argument,
                     const char* format, ...) {
  va_list list;
  va_start(list, format);
  store(element, status, op, argument, format, list);
  va_end(list);
  return status;
}

// Appends to a line, cutting what does not fit.
struct Line {
  char text[256] = "";
  size_t size = 0;
  [[gnu::format(printf, 2, 3)]] void add(const char* format, ...) {
    va_list list;
    va_start(list, format);
    int n = std::vsnprintf(text + size, sizeof text - size, format, list);
    va_end(list);
    size = std::min(size + size_t(std::max(n, 0)), sizeof text - 1);
  }
};

kvops_status fail_dtype(const char* op, const char* argument, int64_t seen, DtypeSet set) {
  Line line;
  line.add("dtype is %s, expected one of", dtype(seen).name);
  for (int d = 0; d < kNumDtypes; ++d)
    if (set >> d & 1) line.add(" %s", dtype(d).name);
  return fail(KVOPS_UNSUPPORTED, op, argument, "%s", line.text);
}

kvops_status fail_value(const char* op, const char* argument, int64_t seen, const int64_t* list,
                        size_t count) {
  Line line;
  line.add("is %lld, expected one of", (long long)seen);
  for (size_t i = 0; i < count; ++i) line.add(" %lld", (long long)list[i]);
  return fail(KVOPS_UNSUPPORTED, op, argument, "%s", line.text);
}

}  // namespace kvops

using namespace kvops;

extern "C" {

const char* kvops_last_error(void) { return error.message; }

void kvops_clear_error(void) { error = {}; }

kvops_status kvops_get_error(kvops_error* out) {
  if (!out || out->struct_size < sizeof(size_t)) return KVOPS_INVALID_ARGUMENT;
  kvops_error e = {out->struct_size, error.op,      error.argument,
                   error.message,    error.element, error.status};
  std::memcpy(out, &e, std::min(out->struct_size, sizeof e));
  return KVOPS_OK;
}

const char* kvops_status_string(kvops_status status) {
  static const char* const names[] = {
      "KVOPS_OK",          "KVOPS_INVALID_ARGUMENT", "KVOPS_UNSUPPORTED",
      "KVOPS_UNAVAILABLE", "KVOPS_OUT_OF_MEMORY",    "KVOPS_DEVICE_ERROR",
      "KVOPS_INTERNAL"};
  return status >= 0 && size_t(status) < sizeof names / sizeof *names ? names[status] : "KVOPS_?";
}

const char* kvops_dtype_name(kvops_dtype d) { return dtype(d).name; }
int64_t kvops_dtype_size(kvops_dtype d) { return dtype(d).size; }

}  // extern "C"
