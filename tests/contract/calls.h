// Calls as text: the lines of tests/contract/*.txt.
//
//   <op> name=value ...       a legal call: the base of the lines below it
//     ok  name=value ...      the base with changes, legal too
//     bad name=value ...      illegal: the message must name the first change, or, after "->",
//                             another argument; the status is INVALID_ARGUMENT, or follows ":"
//
// Values   bf16[7,64], strides bf16[7,64]/128,1, then any of: @cuda:0 device, #5 stream, &input at
//          the address of another argument, ~3 that many bytes further, ? NULL data; - absent;
//          numbers; names of constants and dtypes. A backslash continues a line.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "kvcache_ops.h"

// The arguments of one call. Tensors lie at invented addresses, 2^32 bytes apart.
struct ArgsCall {
  const kvops_op_info* op;
  std::vector<char> bytes;

  explicit ArgsCall(const kvops_op_info* op);
  const kvops_arg_info* find(const std::string& name) const;  // nullptr: no such argument
  kvops_tensor tensor(const kvops_arg_info* a) const { return get<kvops_tensor>(a); }
  int64_t integer(const kvops_arg_info* a) const { return get<int64_t>(a); }
  bool present(const kvops_arg_info* a) const {
    auto t = tensor(a);
    return t.rank || t.data;
  }
  template <class T>
  T get(const kvops_arg_info* a) const {
    T value;
    std::memcpy(&value, bytes.data() + a->offset, sizeof value);
    return value;
  }
  template <class T>
  void put(const kvops_arg_info* a, const T& value) {
    std::memcpy(bytes.data() + a->offset, &value, sizeof value);
  }
  void* address(const kvops_arg_info* a) const;
  void set_size(size_t size);
  // "name=value"; false when there is no such argument.
  bool set(const std::string& assignment);

 private:
  kvops_tensor parse_tensor(const kvops_arg_info* a, const std::string& text) const;
  int64_t parse_integer(const kvops_arg_info* a, const std::string& text) const;
};

struct Case {
  ArgsCall call;
  std::string line;
  bool legal;
  std::string blamed;  // argument; "none": the call as a whole
  std::string status;
};

// Exits with a message when a line makes no sense.
std::vector<Case> read_cases(const std::vector<std::string>& paths);

const kvops_op_info* find_op(const std::string& name);
