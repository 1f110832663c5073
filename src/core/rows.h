// The rows of src/ops.def: its macros, and the constants that it names. One row per struct member
// or rule; core/compile.h makes a Contract of them.
#pragma once
#include <type_traits>

#include "core/contract.h"
#include "kvcache_ops.h"

namespace kvops {

struct Row {
  const char* name;
  size_t offset;
  int kind;  // Kind, or kRule + RuleKind
  uint8_t flags;
  Types types;
  const char* text;
  const char* compare = "";  // a written tensor: how it is compared with a reference
};
inline constexpr int kRule = 16, kSince = 32;
inline constexpr uint8_t kIn = KVOPS_ARG_READ, kOut = KVOPS_ARG_WRITTEN, kInOut = kIn | kOut,
                         kOpt = KVOPS_ARG_OPTIONAL;

template <class Member, class Want>
consteval size_t field(size_t offset) {
  static_assert(std::is_same_v<Member, Want>,
                "the row has another type than the member of the struct");
  return offset;
}

// clang-format off
#define KVOPS_FIELD_(f, type) #f, field<decltype(Args::f), type>(offsetof(Args, f))
#define KVOPS_TENSOR_(f, flags, types, shape, ...) \
  Row{KVOPS_FIELD_(f, kvops_tensor), int(Kind::tensor), flags, types, shape, #__VA_ARGS__},
#define KVOPS_INT_(f, text) Row{KVOPS_FIELD_(f, int64_t), int(Kind::integer), kIn, {}, text},
#define KVOPS_RULE_(kind, name, text) Row{name, 0, kRule + int(RuleKind::kind), 0, {}, text},

#define IN(f, types, shape)        KVOPS_TENSOR_(f, kIn, types, shape)
#define OUT(f, types, ...)         KVOPS_TENSOR_(f, kOut, types, __VA_ARGS__)
#define INOUT(f, types, ...)       KVOPS_TENSOR_(f, kInOut, types, __VA_ARGS__)
#define OPT(f, types, shape)       KVOPS_TENSOR_(f, kIn | kOpt, types, shape)
#define OPT_OUT(f, types, ...)     KVOPS_TENSOR_(f, kOut | kOpt, types, __VA_ARGS__)
#define OPT_INOUT(f, types, ...)   KVOPS_TENSOR_(f, kInOut | kOpt, types, __VA_ARGS__)
#define HOST(f, types, shape)      KVOPS_TENSOR_(f, kIn | KVOPS_ARG_HOST, types, shape)
#define SRC(f, types, shape)       KVOPS_TENSOR_(f, kIn | KVOPS_ARG_ANYWHERE, types, shape)
#define DST(f, types, shape)       KVOPS_TENSOR_(f, kOut | KVOPS_ARG_ANYWHERE, types, shape)
#define PLACE(f)                   KVOPS_TENSOR_(f, KVOPS_ARG_PLACE, Any, "*")
#define PLAN(f, types)             KVOPS_TENSOR_(f, kOut | KVOPS_ARG_SIZED, types, "bytes!")
#define WORKSPACE(f)     KVOPS_TENSOR_(f, kInOut | KVOPS_ARG_SIZED, U8, "bytes!", scratch())
#define OPT_WORKSPACE(f) KVOPS_TENSOR_(f, kInOut | kOpt | KVOPS_ARG_SIZED, U8, "bytes!", scratch())
#define FAULTS \
  KVOPS_TENSOR_(faults, kInOut | kOpt | KVOPS_ARG_COUNTER, I64, "[] | 1")
#define SINCE(major, minor) Row{"", 0, kSince, 0, {}, #major "." #minor},

#define REAL(f)         Row{KVOPS_FIELD_(f, double), int(Kind::real), kIn, {}, ""},
#define INT(f)          KVOPS_INT_(f, "")
#define FROM(f, least)  KVOPS_INT_(f, ">= " #least)
#define FLAG(f)         KVOPS_INT_(f, "0 1")
#define ENUM(f, names)  KVOPS_INT_(f, names)
#define DTYPE(f, types) Row{KVOPS_FIELD_(f, int64_t), int(Kind::dtype), kIn, types, ""},

#define RULE(text)              KVOPS_RULE_(require, "", text)
#define IF(text)                KVOPS_RULE_(when, "", text)
#define ALIAS(written, other)   KVOPS_RULE_(alias, #written, #other)
#define OVERLAP(written, other) KVOPS_RULE_(overlap, #written, #other)
#define SCALES(f)               KVOPS_RULE_(scales, #f, "")
#define LIST(f, order, ...)     Row{#f, 0, kRule + int(RuleKind::list), 0, {}, order, #__VA_ARGS__},
#define NOOP(symbol)            KVOPS_RULE_(noop, "", symbol)
#define INDEX(f, bound)         KVOPS_RULE_(index, #f, bound)
#define BLOCKS(f, bound, lens)  Row{#f, 0, kRule + int(RuleKind::blocks), 0, {}, bound, #lens},
#define GATHER(f, bound, first)  Row{#f, 0, kRule + int(RuleKind::gather), 0, {}, bound, #first},
// clang-format on

// Names of the values of ENUM rows, also known to rules.
struct Constant {
  std::string_view name;
  int value;
};
inline constexpr Constant kConstants[] = {
    {"plain", KVOPS_FORMAT_PLAIN},
    {"nvfp4", KVOPS_FORMAT_NVFP4},
    {"nvfp4_4over6", KVOPS_FORMAT_NVFP4_4OVER6},
    {"fp8_ds_mla", KVOPS_FORMAT_FP8_DS_MLA},
    {"nvfp4_ds_mla", KVOPS_FORMAT_NVFP4_DS_MLA},
    {"pow2", KVOPS_SCALE_POW2},
    {"amax", KVOPS_SCALE_AMAX},
    {"ocp", KVOPS_FP8_OCP},
    {"fnuz", KVOPS_FP8_FNUZ},
    {"unset", KVOPS_V_SCALE_UNSET},
    {"transposed", KVOPS_V_SCALE_TRANSPOSED},
    {"linear", KVOPS_V_SCALE_LINEAR},
    {"unordered", KVOPS_TOP_K_UNORDERED},
    {"by_value", KVOPS_TOP_K_BY_VALUE},
    {"by_index", KVOPS_TOP_K_BY_INDEX},
    {"vec", KVOPS_CPU_ISA_VEC},
    {"vec16", KVOPS_CPU_ISA_VEC16},
    {"amx", KVOPS_CPU_ISA_AMX},
};

}  // namespace kvops
