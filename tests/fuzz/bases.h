// Legal calls to start from: the lines of tests/contract/*.txt, made small.
#pragma once
#include "contract/calls.h"
#include "fuzz/random.h"

// `each` calls per operator that this build has for the CPU, all accepted by kvops_query().
std::vector<ArgsCall> make_bases(const std::vector<std::string>& paths, int each, Random& random);

// Bytes that the elements of a tensor span, and how many lie before `data`. false: no legal tensor,
// or a large one: more than
// 2^14 elements or 1 MiB.
bool span_of(const kvops_tensor& t, int64_t& bytes, int64_t& before);
int64_t elements_of(const kvops_tensor& t);
