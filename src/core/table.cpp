// src/ops.def, compiled.
#include "core/table.h"

#include <algorithm>
#include <cstring>

#include "core/call.h"
#include "core/compile.h"

namespace kvops {
namespace {

namespace rows {
#define KVOPS_OP(op, cpu, cuda, hip, ...)                        \
  struct op {                                                    \
    using Args = kvops_##op##_args;                              \
    static constexpr Row list[] = {__VA_ARGS__};                 \
    static constexpr auto compiled = kvops::compile<Args>(list); \
    static constexpr auto tables = kvops::trim<compiled>();      \
  };
#include "ops.def"
}  // namespace rows

template <class Rows, auto Slot>
constexpr Entry entry(const char* name, uint64_t backends,
                      int64_t (*bytes)(const Backend&, const void*)) {
  auto& t = Rows::tables;
  bool sized = false;
  for (auto& a : t.args) sized |= (a.flags & KVOPS_ARG_SIZED) != 0;
  if (sized != (bytes != nullptr))
    throw "a WORKSPACE or PLAN row needs a KVOPS_SIZE line, and the other way round";
  if (sizeof(typename Rows::Args) > kMaxArgsSize) throw "raise kMaxArgsSize";
  return {{name, sizeof(typename Rows::Args), Rows::compiled.first_size, t.args, t.rules,
           t.shapes.data(), t.dims.data(), t.terms.data(), t.symbols.data(), int(t.symbols.size())},
          backends,
          [](const Backend& b) { return b.*Slot != nullptr; },
          [](const Backend& b, const void* a) {
            return (b.*Slot)(*static_cast<const typename Rows::Args*>(a));
          },
          bytes};
}

// sizes::of<rows::op>: the size function of operators that have one.
namespace sizes {
using Function = int64_t (*)(const Backend&, const void*);
template <class Rows>
inline constexpr Function of = nullptr;
#define KVOPS_SIZE(op, function, ...)                                            \
  template <>                                                                    \
  inline constexpr Function of<rows::op> = [](const Backend& b, const void* a) { \
    return b.op##_bytes(*static_cast<const kvops_##op##_args*>(a));              \
  };
#include "ops.def"
}  // namespace sizes

}  // namespace

constexpr Entry kEntries[kNumOps] = {
#define KVOPS_OP(op, cpu, cuda, hip, ...)                                                          \
  entry<rows::op, &Backend::op>(                                                                   \
      #op, uint64_t{cpu} << KVOPS_CPU | uint64_t{cuda} << KVOPS_CUDA | uint64_t{hip} << KVOPS_HIP, \
      sizes::of<rows::op>),
#include "ops.def"
};

// Entries by name.
constexpr auto kByName = [] {
  std::array<uint8_t, kNumOps> order{};
  for (size_t i = 0; i < kNumOps; ++i) order[i] = uint8_t(i);
  std::sort(order.begin(), order.end(), [](size_t a, size_t b) {
    return std::string_view(kEntries[a].contract.op) < kEntries[b].contract.op;
  });
  return order;
}();

const Entry* find_entry(const char* op) {
  if (!op) return nullptr;
  auto* found = std::lower_bound(
      kByName.begin(), kByName.end(), op,
      [](size_t i, const char* name) { return std::strcmp(kEntries[i].contract.op, name) < 0; });
  if (found == kByName.end() || std::strcmp(kEntries[*found].contract.op, op) != 0) return nullptr;
  return &kEntries[*found];
}

}  // namespace kvops
