// The changes that turn a legal call into another one, legal or not.
#pragma once
#include "contract/calls.h"
#include "fuzz/random.h"

// A call on its way to be run: tensors have no memory yet.
struct Draft {
  ArgsCall call;
  bool wild_values = false;  // index tensors hold numbers out of range, too
  // Per argument: index of the argument whose memory it uses, or -1; bytes into it.
  std::vector<int> shares;
  std::vector<int> shift;
  std::vector<bool> null;  // data stays NULL

  explicit Draft(const ArgsCall& base);
};

inline constexpr int kNumChanges = 13;
extern const char* const kChanges[kNumChanges];

// Changes one field; returns which kind. Addresses that nobody could check stay what they are.
int change(Draft& draft, Random& random);

// Does this argument hold addresses, or the sizes of what is there?
bool holds_addresses(const kvops_op_info* op, const kvops_arg_info* a);
