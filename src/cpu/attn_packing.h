// Where an element stands in a cache of the cpu_attn_* operators: offsets in elements from the
// first one of a (block, head), whose block * size elements are consecutive. The formulas are those
// of include/kvcache_ops/cpu.h.
//
//   VEC, VEC16  key    [size][block]                              a row is an element of all tokens
//               value  [block][size]                              a row is a token
//   AMX         key    [block/16][size/2][16 tokens][2 elements]  a word: elements 2j, 2j + 1
//               value  [size/16][block/2][16 elements][2 tokens]  a word: tokens 2j, 2j + 1
//
// A row of 64 bytes of a 16-bit AMX cache is one row of the second operand of a tile product.
#pragma once
#include <cstdint>

#include "kvcache_ops/cpu.h"

namespace kvops::cpu {

struct Packing {
  int64_t block, size;
  bool amx;

  // An element of token t: the first of those below, plus the second for element d. For AMX values
  // element d + 16 is `block * 16` further, for AMX keys element d + 2 is 32 further.
  constexpr int64_t key(int64_t t, int64_t d) const {
    return amx ? t / 16 * 16 * size + d / 2 * 32 + t % 16 * 2 + d % 2 : d * block + t;
  }
  constexpr int64_t value(int64_t t, int64_t d) const {
    return amx ? d / 16 * 16 * block + t / 2 * 32 + d % 16 * 2 + t % 2 : t * size + d;
  }
};

constexpr Packing packing_of(int64_t isa, int64_t block, int64_t size) {
  return {block, size, isa == KVOPS_CPU_ISA_AMX};
}

// Blocks and sizes are multiples of it.
constexpr int64_t alignment_of(int64_t isa) { return isa == KVOPS_CPU_ISA_VEC16 ? 16 : 32; }

}  // namespace kvops::cpu
