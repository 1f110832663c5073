// Calls of cpu_attention_with_kv_cache need lengths that belong together, and a plan made for them.
#pragma once
#include <cstring>
#include <vector>

#include "kvcache_ops.h"
#include "shapes.h"

namespace harness {

// Writes query_start_loc, seq_lens and scheduler_metadata of such a call, all of them dense and in
// CPU memory; does nothing for other operators. The queries are dealt out evenly; lengths are all
// that the table holds, or with `full` false any that have room for the queries. Caches count as
// amx where blocks are multiples of 64 and the dtype has 16 bits, else as vec, or vec16.
void fill_plan(const char* op, void* args, bool full);

// Bytes of scheduler_metadata that such a call needs; 0: none, or the call can have no plan.
int64_t plan_bytes(const char* op, const void* args);

// fill_plan() for tensors of which only the elements exist: {arg, dtype, shape, elements}. Lengths
// are not full.
template <class Tensors>
void fill_plan(const kvops_op_info& op, const Shapes& shapes, Tensors& tensors) {
  std::vector<uint64_t> args(op.args_size / 8);
  auto* base = reinterpret_cast<char*>(args.data());
  for (auto& t : tensors) {
    const auto tensor = kvops_dense(t.elements.data(), {KVOPS_CPU, 0}, nullptr, t.dtype,
                                    int32_t(t.shape.size()), t.shape.data());
    if (t.arg->offset) std::memcpy(base + t.arg->offset, &tensor, sizeof tensor);
  }
  shapes.put_scalars(base);
  fill_plan(op.name, base, false);
}

}  // namespace harness
