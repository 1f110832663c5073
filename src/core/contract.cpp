// bind(): the only validator. One pass over the arguments, one over the rules, one over the memory
// ranges.
#include "core/contract.h"

#include <algorithm>

#include "core/bound.h"
#include "core/error.h"

namespace kvops {
namespace {

// Strides up to here may be multiplied by any size of an element or a head.
constexpr int64_t kFarStride = int64_t{1} << 40;

bool overflows(int64_t& sum, int64_t a, int64_t b) {
  int64_t p;
  return __builtin_mul_overflow(a, b, &p) || __builtin_add_overflow(sum, p, &sum);
}

// One written or read tensor of the call: the bytes [begin, end) that its elements span.
struct Range {
  const Arg* arg;
  const kvops_tensor* tensor;
  uintptr_t begin, end;
  bool dense;
};

struct Binder : Call {
  explicit Binder(const Call& call) : Call(call) {}
  Range ranges[32];
  int num_ranges = 0;
  bool writes = false, writes_something = false;

  kvops_status run(Bound& bound) {
    bound = {{KVOPS_CPU, 0}, nullptr, false, nullptr, nullptr, false, false};
    for (auto& a : contract.args)
      if (a.kind == Kind::integer)
        if (auto s = integer(a)) return s;
    find_place();
    for (auto& a : contract.args) {
      if (a.kind == Kind::tensor)
        if (auto s = tensor(a, bound)) return s;
      if (a.kind == Kind::dtype)
        if (auto s = scalar_dtype(a)) return s;
    }
    bound.empty = writes && !writes_something;
    bound.wild_strides = wild_strides;
    if (auto s = rules(bound)) return s;
    if (place) bound.device = device, bound.stream = stream;
    return mode == Mode::run && !bound.empty ? overlaps() : KVOPS_OK;
  }

  kvops_status integer(const Arg& a) {
    int64_t v = integer_of(a);
    if (a.values ? v < 0 || v > 63 || !(a.values >> v & 1) : v < a.low)
      return report_integer(*this, a, v);
    bind_symbol(a.symbol, v, a, 0);
    return KVOPS_OK;
  }

  // The device and stream of the call: those of the first tensor; where tensors may also lie in CPU
  // memory, of the first one that does not.
  void find_place() {
    for (auto& a : contract.args) {
      if (a.kind != Kind::tensor || a.flags & KVOPS_ARG_HOST) continue;
      auto& t = tensor_of(a);
      if (absent(t) && !(a.flags & KVOPS_ARG_PLACE)) continue;
      if (!place) place = &a;
      if (!(a.flags & KVOPS_ARG_ANYWHERE) || t.device.type != KVOPS_CPU) {
        place = &a;
        break;
      }
    }
    if (!place) return;
    device = tensor_of(*place).device;
    stream = tensor_of(*place).stream;
  }

  kvops_status tensor(const Arg& a, Bound& bound) {
    auto& t = tensor_of(a);
    if (a.flags & KVOPS_ARG_PLACE) return on_device(a, t);
    if (a.flags & KVOPS_ARG_SIZED)
      bound.sized_name = a.name, bound.sized_optional = a.flags & KVOPS_ARG_OPTIONAL;
    if (absent(t)) {
      bool workspace =
          a.flags & KVOPS_ARG_SIZED && (a.flags & KVOPS_ARG_READ || mode == Mode::query);
      if (a.flags & KVOPS_ARG_OPTIONAL || workspace) return KVOPS_OK;
      return report_absent(*this, a);
    }
    if (t.rank < 0 || t.rank > KVOPS_MAX_RANK)
      return report(*this, a, "rank is %d, expected 0 to %d", t.rank, KVOPS_MAX_RANK);
    if (auto s = on_device(a, t)) return s;
    if (auto s = dtype_fits(a, t.dtype)) return s;
    auto* shape = select(a, t);
    if (!shape) return report_shape(*this, a, t);
    if (a.flags & KVOPS_ARG_SIZED) bound.sized = &t;
    return extents(a, t, *shape);
  }

  kvops_status on_device(const Arg& a, const kvops_tensor& t) {
    bool host =
        a.flags & KVOPS_ARG_HOST || (a.flags & KVOPS_ARG_ANYWHERE && t.device.type == KVOPS_CPU);
    if (host) return t.device.type == KVOPS_CPU ? KVOPS_OK : report_place(*this, a, t);
    bool same = t.device.type == device.type && t.device.index == device.index &&
                same_stream(t.stream, stream);
    bool known = t.device.type == KVOPS_CPU
                     ? !t.stream && !t.device.index
                     : t.device.type == KVOPS_CUDA || t.device.type == KVOPS_HIP;
    return same && known ? KVOPS_OK : report_place(*this, a, t);
  }

  // 0x1 is the explicit handle of the legacy default stream, NULL the usual one.
  static bool same_stream(void* a, void* b) {
    auto legacy = [](void* s) { return reinterpret_cast<uintptr_t>(s) <= 1; };
    return a == b || (legacy(a) && legacy(b));
  }

  kvops_status dtype_fits(const Arg& a, int64_t dtype) {
    bool in_set = is_dtype(dtype) && a.types.set >> dtype & 1;
    Var var = a.types.var;
    if (!in_set && a.types.or_t) {  // must be the dtype of T
      if (!is_dtype(dtype) || !(T.set >> dtype & 1)) return report_dtype(*this, a, dtype, nullptr);
      auto& v = vars[int(Var::t)];
      if (!v.from) v = {&a, int(dtype)};
      if (v.dtype != dtype) return report_dtype(*this, a, dtype, &v);
    } else if (!in_set) {
      return report_dtype(*this, a, dtype, nullptr);
    }
    if (var == Var::none) return KVOPS_OK;
    auto& v = vars[int(var)];
    if (!v.from) v = {&a, int(dtype)};
    return v.dtype == dtype ? KVOPS_OK : report_dtype(*this, a, dtype, &v);
  }
  kvops_status scalar_dtype(const Arg& a) { return dtype_fits(a, integer_of(a)); }

  // The alternative that fits; nullptr: none.
  const Shape* select(const Arg& a, const kvops_tensor& t) {
    auto* shapes = contract.shapes + a.first;
    const Shape* fit = nullptr;
    int fits = 0;
    for (int i = 0; i < a.count; ++i)
      if (rank_fits(shapes[i], t.rank) && ++fits == 1) fit = &shapes[i];
    if (fits <= 1) return fit;
    for (int i = 0; i < a.count; ++i)
      if (rank_fits(shapes[i], t.rank) && extents_fit(shapes[i], t)) return &shapes[i];
    return nullptr;
  }
  bool rank_fits(const Shape& s, int rank) {
    if (s.open < 0) return rank == s.count;
    bool free = contract.dims[s.first + s.open].kind == Dim::wildcard || !group;
    return free ? rank >= s.count - 1 : rank == s.count - 1 + group_rank;
  }
  bool extents_fit(const Shape& s, const kvops_tensor& t) {
    for (int axis = 0; axis < t.rank; ++axis) {
      auto& d = dim(s, axis, t.rank);
      int64_t v;
      if (d.kind < Dim::group && eval(d.terms, v) == Eval::ok && v != t.shape[axis]) return false;
    }
    return true;
  }
  // The dimension of a shape that stands for an axis; "..." stands for several, or for none.
  const Dim& dim(const Shape& s, int axis, int rank) {
    return contract
        .dims[s.first +
              (s.open < 0 || axis < s.open ? axis : std::max(int{s.open}, axis + s.count - rank))];
  }

  // Extents: names and numbers first, because expressions may need them. Then strides and memory.
  kvops_status extents(const Arg& a, const kvops_tensor& t, const Shape& s) {
    if (s.open >= 0 && contract.dims[s.first + s.open].kind == Dim::group)
      if (auto st = bind_group(a, t, s.open, t.rank - s.count + 1)) return st;
    int64_t numel = 1, low = 0, high = 0, size = dtype(t.dtype).size;
    bool too_big = false, empty = false, repeats = false;
    for (int axis = 0; axis < t.rank; ++axis) {
      auto& d = dim(s, axis, t.rank);
      int64_t n = t.shape[axis], stride = t.stride[axis];
      if (n < 0)
        return report(*this, a, "shape[%d] is %lld, expected at least 0", axis, (long long)n);
      if (d.kind == Dim::symbol && !(known >> d.value & 1)) {
        bind_symbol(uint8_t(d.value), n, a, axis);
      } else if (d.kind == Dim::symbol ? n != value[d.value]
                                       : d.kind == Dim::number && n != d.value) {
        return report_extent(*this, a, t, axis, d);
      }
      empty |= !n;
      too_big |= __builtin_mul_overflow(numel, n, &numel);
      wild_strides |= n == 1 && (stride > kFarStride || stride < -kFarStride);
      if (n > 1) repeats |= !stride, too_big |= overflows(stride < 0 ? low : high, n - 1, stride);
    }
    if (s.exprs)
      if (auto st = expressions(a, t, s)) return st;
    bool stored = a.flags & KVOPS_ARG_WRITTEN && !(a.flags & (KVOPS_ARG_SIZED | KVOPS_ARG_COUNTER));
    writes |= stored, writes_something |= stored && !empty;
    if (empty) return KVOPS_OK;
    if (s.inner || (t.rank && t.stride[t.rank - 1] != 1))
      if (auto st = packed(a, t, s)) return st;
    if (repeats && a.flags & KVOPS_ARG_WRITTEN)
      return report(*this, a, "a stride is 0, expected distinct elements");
    int64_t bytes = 0;
    too_big |=
        __builtin_sub_overflow(high, low, &bytes) || __builtin_add_overflow(bytes, 1, &bytes) ||
        __builtin_mul_overflow(bytes, size, &bytes) || __builtin_mul_overflow(numel, size, &numel);
    if (too_big) return report(*this, a, "spans more than 2^63 bytes");
    if (mode == Mode::query) return KVOPS_OK;
    auto data = reinterpret_cast<uintptr_t>(t.data);
    if (!data) return report(*this, a, "data is NULL");
    if (data & uintptr_t(size - 1)) return report(*this, a, "data is not aligned to its elements");
    auto begin = data + uintptr_t(low * size);
    ranges[num_ranges++] = {&a, &t, begin, begin + uintptr_t(bytes), numel == bytes && !repeats};
    return KVOPS_OK;
  }

  kvops_status expressions(const Arg& a, const kvops_tensor& t, const Shape& s) {
    for (int axis = 0; axis < t.rank; ++axis) {
      auto& d = dim(s, axis, t.rank);
      if (d.kind != Dim::expr) continue;
      int64_t v = 0;
      Eval e = eval(d.terms, v);
      if (e == Eval::unknown) e = solve(d.terms, t.shape[axis], a, axis), v = t.shape[axis];
      if (e != Eval::ok || v != t.shape[axis]) return report_extent(*this, a, t, axis, d);
    }
    return KVOPS_OK;
  }

  kvops_status bind_group(const Arg& a, const kvops_tensor& t, int first, int rank) {
    if (!group) {
      group = t.shape + first, group_rank = rank, group_from = &a, group_axis = first;
      for (int i = 0; i < contract.num_symbols; ++i)
        if (contract.symbols[i] == "...0") bind_symbol(uint8_t(i), rank ? group[0] : 1, a, first);
    }
    for (int i = 0; i < rank; ++i)
      if (t.shape[first + i] != group[i]) return report_group(*this, a, t, first + i, i);
    return KVOPS_OK;
  }

  kvops_status packed(const Arg& a, const kvops_tensor& t, const Shape& s) {
    int64_t dense = 1;
    for (int axis = t.rank - 1; axis >= 0; --axis) {
      if (t.shape[axis] > 1 && t.stride[axis] != dense && dim(s, axis, t.rank).packed)
        return report_stride(*this, a, t, axis, dense);
      if (__builtin_mul_overflow(dense, t.shape[axis], &dense)) break;
    }
    return KVOPS_OK;
  }

  kvops_status rules(Bound& bound) {
    const Rule* when = nullptr;
    bool active = true;
    for (auto& r : contract.rules) {
      int64_t v;
      switch (r.kind) {
        case RuleKind::when:
          when = &r, active = test(r) == Truth::yes;
          break;
        case RuleKind::require:
          if (active && test(r) == Truth::no) return report_rule(*this, r, when);
          break;
        case RuleKind::noop:
          bound.empty |= eval(r.lhs, v) == Eval::ok && v == 0;
          break;
        default:
          break;
      }
    }
    return KVOPS_OK;
  }

  // No written tensor may share memory with another one, where that is certain: both dense, or the
  // same first element. Interleaved views (halves of one cache, slices of one row) pass.
  kvops_status overlaps() {
    for (int i = 0; i < num_ranges; ++i) {
      auto& w = ranges[i];
      if (!(w.arg->flags & KVOPS_ARG_WRITTEN)) continue;
      for (int j = 0; j < num_ranges; ++j) {
        auto& o = ranges[j];
        if (i == j || w.begin >= o.end || o.begin >= w.end ||
            (j < i && o.arg->flags & KVOPS_ARG_WRITTEN))
          continue;
        if (!(w.dense && o.dense) && w.tensor->data != o.tensor->data) continue;
        if (!allowed(w, o)) return report_overlap(*this, *w.arg, *o.arg);
      }
    }
    return KVOPS_OK;
  }
  bool allowed(const Range& w, const Range& o) {
    auto index = [&](const Range& r) { return int(r.arg - contract.args.data()); };
    for (auto& r : contract.rules) {
      if (r.kind != RuleKind::alias && r.kind != RuleKind::overlap) continue;
      if (r.arg != index(w) || r.other != index(o)) continue;
      auto &x = *w.tensor, &y = *o.tensor;
      if (r.kind == RuleKind::overlap) return true;
      bool same =
          x.data == y.data && x.rank == y.rank && dtype(x.dtype).size == dtype(y.dtype).size;
      for (int i = 0; same && i < x.rank; ++i)
        same = x.shape[i] == y.shape[i] && (x.shape[i] == 1 || x.stride[i] == y.stride[i]);
      return same;
    }
    return false;
  }
};

}  // namespace

kvops_status bind(const Contract& contract, const void* args, Mode mode, Bound& bound) {
  return Binder(Call(contract, args, mode)).run(bound);
}

kvops_status bind_symbols(Call& call) {
  Binder binder(call);
  Bound bound;
  auto status = binder.run(bound);
  call.known = binder.known;
  std::copy(std::begin(binder.value), std::end(binder.value), call.value);
  return status;
}

}  // namespace kvops
