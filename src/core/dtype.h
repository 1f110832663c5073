// Names, sizes and sets of dtypes, and the dtype variables that src/ops.def uses.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "kvcache_ops/types.h"

namespace kvops {

struct Dtype {
  const char* name;
  int64_t size;
};
inline constexpr Dtype kDtypes[] = {
    {"?", 0},           {"f32", 4},         {"f16", 2}, {"bf16", 2}, {"f8_e4m3", 1}, {"f8_e5m2", 1},
    {"f8_e4m3fnuz", 1}, {"f8_e5m2fnuz", 1}, {"u8", 1},  {"i8", 1},   {"i32", 4},     {"i64", 8},
};
inline constexpr int kNumDtypes = sizeof kDtypes / sizeof kDtypes[0];
constexpr bool is_dtype(int64_t d) { return d > 0 && d < kNumDtypes; }
constexpr const Dtype& dtype(int64_t d) { return kDtypes[is_dtype(d) ? d : 0]; }

using DtypeSet = uint64_t;  // bit i: dtype i
consteval DtypeSet set_of(std::initializer_list<int> dtypes) {
  DtypeSet set = 0;
  for (int d : dtypes) set |= DtypeSet{1} << d;
  return set;
}
inline constexpr DtypeSet kFloats = set_of({KVOPS_F32, KVOPS_F16, KVOPS_BF16}),
                          kHalves = set_of({KVOPS_F16, KVOPS_BF16}),
                          kOcp8 = set_of({KVOPS_F8_E4M3, KVOPS_F8_E5M2}),
                          kE4m3 = set_of({KVOPS_F8_E4M3, KVOPS_F8_E4M3FNUZ}),
                          kF8 = kOcp8 | set_of({KVOPS_F8_E4M3FNUZ, KVOPS_F8_E5M2FNUZ}),
                          kU8 = set_of({KVOPS_U8});

// Sets that rules name: RULE("key_cache is f8").
struct NamedSet {
  std::string_view name;
  DtypeSet set;
};
inline constexpr NamedSet kNamedSets[] = {{"f8", kF8},
                                          {"float", kFloats},
                                          {"half", kHalves},
                                          {"u8", kU8},
                                          {"bf16", set_of({KVOPS_BF16})}};

// The dtype rule of a row: a dtype in `set`, or, with `or_t`, the dtype that variable T has in this
// call. Rows with the same variable have the same dtype.
enum class Var : uint8_t { none, t, cache, count };
struct Types {
  const char* name;
  DtypeSet set;
  Var var = Var::none;
  bool or_t = false;
};
#define KVOPS_TYPES(name, ...) inline constexpr Types name{#name, __VA_ARGS__};
KVOPS_TYPES(T, kFloats, Var::t)
KVOPS_TYPES(Cache, kF8, Var::cache, true)         // T or fp8
KVOPS_TYPES(Record, kF8 | kU8, Var::cache, true)  // T, fp8, or bytes of a packed format
KVOPS_TYPES(CpuCache, kOcp8, Var::cache, true)
KVOPS_TYPES(Same, (DtypeSet{1} << kNumDtypes) - 2, Var::cache)
KVOPS_TYPES(Any, (DtypeSet{1} << kNumDtypes) - 2)
KVOPS_TYPES(TorF32, set_of({KVOPS_F32}), Var::none, true)
KVOPS_TYPES(TorE4m3, kE4m3, Var::none, true)
KVOPS_TYPES(Float, kFloats)
KVOPS_TYPES(FloatOrF8, kFloats | kF8)
KVOPS_TYPES(Half, kHalves)
KVOPS_TYPES(Code, kE4m3 | kU8)
KVOPS_TYPES(Sink, set_of({KVOPS_F32, KVOPS_BF16}))
KVOPS_TYPES(Index, set_of({KVOPS_I32, KVOPS_I64}))
KVOPS_TYPES(Bytes, set_of({KVOPS_U8, KVOPS_I8}))
KVOPS_TYPES(F32, set_of({KVOPS_F32}))
KVOPS_TYPES(I32, set_of({KVOPS_I32}))
KVOPS_TYPES(I64, set_of({KVOPS_I64}))
KVOPS_TYPES(I8, set_of({KVOPS_I8}))
KVOPS_TYPES(U8, kU8)
#undef KVOPS_TYPES

// The C++ type that stores an element of each dtype. 16-bit and fp8 values are bit patterns here;
// every back end brings its own conversions.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};
struct f8_e4m3 {
  uint8_t bits;
};
struct f8_e5m2 {
  uint8_t bits;
};
struct f8_e4m3fnuz {
  uint8_t bits;
};
struct f8_e5m2fnuz {
  uint8_t bits;
};

template <class T>
inline constexpr kvops_dtype dtype_of = 0;
template <>
inline constexpr kvops_dtype dtype_of<float> = KVOPS_F32;
template <>
inline constexpr kvops_dtype dtype_of<f16> = KVOPS_F16;
template <>
inline constexpr kvops_dtype dtype_of<bf16> = KVOPS_BF16;
template <>
inline constexpr kvops_dtype dtype_of<f8_e4m3> = KVOPS_F8_E4M3;
template <>
inline constexpr kvops_dtype dtype_of<f8_e5m2> = KVOPS_F8_E5M2;
template <>
inline constexpr kvops_dtype dtype_of<f8_e4m3fnuz> = KVOPS_F8_E4M3FNUZ;
template <>
inline constexpr kvops_dtype dtype_of<f8_e5m2fnuz> = KVOPS_F8_E5M2FNUZ;
template <>
inline constexpr kvops_dtype dtype_of<uint8_t> = KVOPS_U8;
template <>
inline constexpr kvops_dtype dtype_of<int8_t> = KVOPS_I8;
template <>
inline constexpr kvops_dtype dtype_of<int32_t> = KVOPS_I32;
template <>
inline constexpr kvops_dtype dtype_of<int64_t> = KVOPS_I64;

}  // namespace kvops
