// The parts of the proof: what every operator of the CUDA column must hold, over its own cases.
#pragma once
#include "../device.h"
#include "work.h"

namespace proof {

// Proves one property of one operator: "", kNothing where the operator has none to prove, or how it
// fails; and how many cases were tried.
inline constexpr const char* kNothing = "-";
using Prove = std::string (*)(const Options&, const kvops_op_info&, int* cases);

// Captured in the strictest mode, before any other call, and replayed after all that the call reads
// on the device has changed: the bytes of a direct call.
std::string prove_graph(const Options& o, const kvops_op_info& op, int* cases);
// 10^4 calls leave as much free memory as there was.
std::string prove_memory(const Options& o, const kvops_op_info& op, int* cases);
// Two threads with two streams each, 10^4 calls a thread: the bytes of the same calls one by one.
std::string prove_threads(const Options& o, const kvops_op_info& op, int* cases);
// 100 calls while another stream keeps the device busy: the same bytes.
std::string prove_noise(const Options& o, const kvops_op_info& op, int* cases);

// Indices out of range, and positions beyond the table: skipped, counted, named by debug=bounds.
std::string prove_bounds(const Options& o, const kvops_op_info& op, int* cases);
// The end of a cache of more than 2^31 elements.
std::string prove_large(const Options& o, const kvops_op_info& op, int* cases);

// "" or the text of the last error.
inline std::string failed(kvops_status status) { return status ? kvops_last_error() : ""; }

}  // namespace proof
