// The state of one bind(): what is known about the call so far. Shared by the checks (contract.cpp)
// and the messages (report.cpp).
#pragma once
#include "core/contract.h"

namespace kvops {

enum class Eval { ok, unknown, broken };  // broken: division by 0, or one that leaves a rest
enum class Truth { no, yes, unknown };

struct Call {
  Call(const Contract& contract, const void* args, Mode mode)
      : contract(contract), args(static_cast<const char*>(args)), mode(mode) {}

  const Contract& contract;
  const char* args;
  Mode mode;

  uint32_t known = 0;    // bit i: symbol i has a value
  uint32_t derived = 0;  // bit i: solved from an expression
  int64_t value[kMaxSymbols];
  const Arg* from[kMaxSymbols];  // where it was seen first
  uint8_t axis[kMaxSymbols];

  struct Variable {
    const Arg* from;
    int dtype;
  } vars[int(Var::count)] = {};

  const int64_t* group = nullptr;  // the extents that "..." stands for
  int group_rank = 0, group_axis = 0;
  const Arg* group_from = nullptr;

  bool wild_strides = false;  // see Bound

  const Arg* place = nullptr;  // the argument that names device and stream
  kvops_device device = {KVOPS_CPU, 0};
  void* stream = nullptr;

  const kvops_tensor& tensor_of(const Arg& a) const {
    return *reinterpret_cast<const kvops_tensor*>(args + a.offset);
  }
  int64_t integer_of(const Arg& a) const {
    return *reinterpret_cast<const int64_t*>(args + a.offset);
  }
  double real_of(const Arg& a) const { return *reinterpret_cast<const double*>(args + a.offset); }
  int64_t dtype_of(const Arg& a) const {
    return a.kind == Kind::tensor ? tensor_of(a).dtype : integer_of(a);
  }
  static bool absent(const kvops_tensor& t) { return t.rank == 0 && !t.data; }

  void bind_symbol(uint8_t s, int64_t v, const Arg& a, int ax) {
    known |= 1u << s;
    value[s] = v, from[s] = &a, axis[s] = uint8_t(ax);
  }
  Eval eval(Expr e, int64_t& out) const {
    auto [op, v] = contract.terms[e.first];
    if (e.count != 1 || op > Op::number) return evaluate(e, out);
    if (op == Op::symbol && !(known >> v & 1)) return Eval::unknown;
    out = op == Op::symbol ? value[v] : v;
    return Eval::ok;
  }
  Eval evaluate(Expr e, int64_t& out) const;
  // Finds the one unknown symbol of "a op b" from the extent; broken: no whole number does it.
  Eval solve(Expr e, int64_t extent, const Arg& a, int ax);
  Truth test(const Rule& r) const;
};

// bind() that leaves the values of the symbols in `call`.
kvops_status bind_symbols(Call& call);

// Messages. All return KVOPS_INVALID_ARGUMENT.
[[gnu::cold, gnu::format(printf, 3, 4)]] kvops_status report(const Call&, const Arg&,
                                                             const char* format, ...);
[[gnu::cold]] kvops_status report_absent(const Call&, const Arg&);
[[gnu::cold]] kvops_status report_integer(const Call&, const Arg&, int64_t value);
[[gnu::cold]] kvops_status report_place(const Call&, const Arg&, const kvops_tensor&);
[[gnu::cold]] kvops_status report_dtype(const Call&, const Arg&, int64_t dtype,
                                        const Call::Variable* as);
[[gnu::cold]] kvops_status report_shape(const Call&, const Arg&, const kvops_tensor&);
[[gnu::cold]] kvops_status report_extent(const Call&, const Arg&, const kvops_tensor&, int axis,
                                         const Dim&);
[[gnu::cold]] kvops_status report_group(const Call&, const Arg&, const kvops_tensor&, int axis,
                                        int index);
[[gnu::cold]] kvops_status report_stride(const Call&, const Arg&, const kvops_tensor&, int axis,
                                         int64_t expected);
[[gnu::cold]] kvops_status report_rule(const Call&, const Rule&, const Rule* when);
[[gnu::cold]] kvops_status report_overlap(const Call&, const Arg& written, const Arg& other);

}  // namespace kvops
