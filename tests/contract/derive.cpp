// The changes, and what must come of each. Decided from kvops_ops() alone: the texts of the rows,
// not the compiled form that bind() uses.
#include "contract/derive.h"

#include <algorithm>
#include <sstream>

#include "contract/shapes.h"

using std::string;

namespace {

struct Deriver {
  const ArgsCall& base;
  std::vector<Derived> list;

  void add(Expect expect, const kvops_arg_info* a, string change, kvops_tensor t) {
    list.push_back({base, expect, a, std::move(change)});
    list.back().call.put(a, t);
  }
  void add_integer(Expect expect, const kvops_arg_info* a, int64_t value) {
    list.push_back({base, expect, a, std::to_string(value)});
    list.back().call.put(a, value);
  }

  static int64_t numel(const kvops_tensor& t) {
    int64_t n = 1;
    for (int i = 0; i < t.rank; ++i) n *= t.shape[i];
    return n;
  }
  bool rules_mention(const string& name) const {
    for (size_t i = 0; i < base.op->num_rules; ++i)
      if (string(base.op->rules[i]).find(name) != string::npos) return true;
    return false;
  }
  // A present tensor of the call, other than `a`, on the device of the call.
  bool has_company(const kvops_arg_info* a) const {
    for (size_t i = 0; i < base.op->num_args; ++i) {
      auto* b = base.op->args[i];
      if (b != a && b->kind == KVOPS_ARG_TENSOR &&
          !(b->flags & (KVOPS_ARG_HOST | KVOPS_ARG_ANYWHERE)) && base.present(b))
        return true;
    }
    return false;
  }
  bool shares_type(const kvops_arg_info* a) const {
    for (size_t i = 0; i < base.op->num_args; ++i) {
      auto* b = base.op->args[i];
      bool typed = b->kind == KVOPS_ARG_TENSOR ? base.present(b) : *b->type != 0;
      if (b != a && typed && string(b->type) == a->type) return true;
    }
    return false;
  }

  // Do two tensors of the base lie at one address? Then most changes break that.
  bool shares_memory(const kvops_arg_info* a) const {
    for (size_t i = 0; i < base.op->num_args; ++i) {
      auto* b = base.op->args[i];
      if (b != a && b->kind == KVOPS_ARG_TENSOR && base.present(b) &&
          base.tensor(b).data == base.tensor(a).data)
        return true;
    }
    return false;
  }
  // Some tensor is empty, so that the call may have nothing to do.
  bool does_nothing() const {
    for (size_t i = 0; i < base.op->num_args; ++i)
      if (base.op->args[i]->kind == KVOPS_ARG_TENSOR && base.present(base.op->args[i]) &&
          !numel(base.tensor(base.op->args[i])))
        return true;
    return false;
  }

  void tensor(const kvops_arg_info* a) {
    auto t = base.tensor(a);
    if (!base.present(a)) return absent(a);
    if (a->flags & KVOPS_ARG_PLACE) return place(a, t);
    bool empty = !numel(t);
    auto gone = kvops_tensor{};
    bool optional = a->flags & KVOPS_ARG_OPTIONAL || (empty && a->flags & KVOPS_ARG_SIZED);
    add(optional ? Expect::free : Expect::refused, a, "absent", gone);
    for (int r : {-1, 7}) {
      auto u = t;
      u.rank = r;
      add(Expect::refused, a, "rank " + std::to_string(r), u);
    }
    ranks(a, t);
    place(a, t);
    dtypes(a, t);
    for (int i = 0; i < t.rank; ++i) extents(a, t, i);
    for (int i = 0; i < t.rank; ++i) strides(a, t, i, empty);
    if (!empty) memory(a, t);
  }

  // An argument that the base does not have: given, it must have a dtype and a place.
  void absent(const kvops_arg_info* a) {
    if (a->flags & KVOPS_ARG_PLACE) return;
    kvops_tensor t = {};
    t.data = base.address(a);
    t.device = {KVOPS_CPU, 0};
    add(Expect::refused, a, "no dtype", t);
  }

  void ranks(const kvops_arg_info* a, const kvops_tensor& t) {
    bool open = string(a->shape).find("...") != string::npos ||
                string(a->shape).find('*') != string::npos ||
                string(a->shape).find('|') != string::npos;
    auto u = t;
    if (u.rank < 6) {
      std::copy_backward(t.shape, t.shape + t.rank, u.shape + t.rank + 1);
      std::copy_backward(t.stride, t.stride + t.rank, u.stride + t.rank + 1);
      u.shape[0] = 1, u.stride[0] = numel(t), ++u.rank;
      add(open ? Expect::free : Expect::refused, a, "one dimension more", u);
    }
    if (t.rank > 0) {
      u = t;
      std::copy(t.shape + 1, t.shape + t.rank, u.shape);
      std::copy(t.stride + 1, t.stride + t.rank, u.stride);
      --u.rank;
      add(open ? Expect::free : Expect::refused, a, "one dimension less", u);
    }
  }

  void place(const kvops_arg_info* a, const kvops_tensor& t) {
    bool host = a->flags & KVOPS_ARG_HOST, anywhere = a->flags & KVOPS_ARG_ANYWHERE;
    auto u = t;
    u.device.type = 5;
    add(Expect::refused, a, "no such device", u);
    u.device = {KVOPS_CUDA, 0};
    add(host || (has_company(a) && !anywhere) ? Expect::refused : Expect::free, a, "on cuda:0", u);
    u.device = {KVOPS_CPU, 1};
    add(host || anywhere ? Expect::free : Expect::refused, a, "on cpu:1", u);
    u = t;
    u.stream = &list;
    add(host || anywhere ? Expect::free : Expect::refused, a, "a stream on the cpu", u);
  }

  void dtypes(const kvops_arg_info* a, const kvops_tensor& t) {
    for (int d : {-1, 0, 12, 99}) {
      auto u = t;
      u.dtype = d;
      add(Expect::refused, a, "dtype " + std::to_string(d), u);
    }
    for (int d = 1; d < 12; ++d) {
      auto u = t;
      u.dtype = d;
      if (d == t.dtype) continue;
      bool listed = a->values >> d & 1;
      bool one_of_t = string(a->type) == "T" || string(a->type) == "Same";
      add(!listed || (one_of_t && shares_type(a)) ? Expect::refused : Expect::free, a,
          string("dtype ") + kvops_dtype_name(d), u);
    }
  }

  // Is the extent said nowhere else? Then any is legal.
  bool free_extent(const kvops_arg_info* a) const {
    string text = a->shape;
    for (char& c : text)
      if (!std::isalnum((unsigned char)c) && c != '_' && c != '.') c = ' ';
    std::istringstream words(text);
    for (string w; words >> w;) {
      if (std::isdigit((unsigned char)w[0])) continue;
      if (rules_mention(w)) return true;  // a rule decides
      if (w == "bytes" || w == "...") return true;
      bool elsewhere = false;
      for (size_t i = 0; i < base.op->num_args; ++i) {
        auto* b = base.op->args[i];
        bool here = b->kind == KVOPS_ARG_TENSOR && b != a && base.present(b) &&
                    string(b->shape).find(w) != string::npos;
        elsewhere |= here || w == b->name;
      }
      if (!elsewhere) return true;
    }
    return text.find("...") != string::npos || string(a->shape).find_first_of("|*") != string::npos;
  }

  void extents(const kvops_arg_info* a, const kvops_tensor& t, int axis) {
    auto u = t;
    string at = "shape[" + std::to_string(axis) + "] ";
    u.shape[axis] = -1;
    add(Expect::refused, a, at + "-1", u);
    auto expect = free_extent(a) ? Expect::free : Expect::refused;
    for (int64_t more : {int64_t{1}, int64_t{-1}, t.shape[axis]}) {
      u = t;
      u.shape[axis] += more;
      if (u.shape[axis] < 0 || u.shape[axis] == t.shape[axis]) continue;
      int64_t dense = 1;
      for (int i = t.rank; i-- > 0; dense *= u.shape[i]) u.stride[i] = dense;
      add(expect, a, at + std::to_string(u.shape[axis]), u);
    }
    u = t;
    u.shape[axis] = int64_t{1} << 62;
    add(Expect::free, a, at + "2^62", u);
  }

  // Does the row fix the stride of this dimension in some, or in all alternatives of this rank?
  bool packed(const kvops_arg_info* a, const kvops_tensor& t, int axis, bool all) const {
    bool any = false, every = true;
    for (auto& shape : alternatives(a)) {
      auto* d = dim_of(shape, axis, t.rank);
      if (!d) continue;
      any |= d->packed, every &= d->packed;
    }
    return all ? any && every : any;
  }

  void strides(const kvops_arg_info* a, const kvops_tensor& t, int axis, bool empty) {
    auto u = t;
    string at = "stride[" + std::to_string(axis) + "] ";
    bool matters = t.shape[axis] > 1 && !empty, written = a->flags & KVOPS_ARG_WRITTEN;
    bool fixed = packed(a, t, axis, false), surely = packed(a, t, axis, true);
    u.stride[axis] = 0;
    bool refused = matters && (written || surely);
    auto taken = shares_memory(a) ? Expect::free : Expect::taken;
    add(refused ? Expect::refused : fixed && matters ? Expect::free : taken, a, at + "0", u);
    // Grown, and negative: every free dimension takes any stride.
    for (int64_t factor : {3, -3}) {
      u = t;
      int64_t next = std::max(numel(t), int64_t{1});
      u.stride[axis] = factor * next;
      bool pages = rules_mention(string(a->name) + " pages");
      add(!matters || (!fixed && !pages) ? taken
          : surely                       ? Expect::refused
                                         : Expect::free,
          a, at + std::to_string(u.stride[axis]), u);
    }
    u = t;
    u.stride[axis] = INT64_MAX;
    add(matters ? Expect::refused : taken, a, at + "2^63-1", u);
  }

  void memory(const kvops_arg_info* a, const kvops_tensor& t) {
    auto u = t;
    u.data = nullptr;
    if (t.rank) add(Expect::refused, a, "data NULL", u);
    u = t;
    u.data = static_cast<char*>(t.data) + 1;
    bool aligned = kvops_dtype_size(t.dtype) == 1 && !(a->flags & KVOPS_ARG_SIZED);
    add(aligned || does_nothing() ? Expect::free : Expect::refused, a, "data misaligned", u);
    for (size_t i = 0; i < base.op->num_args; ++i) {
      auto* b = base.op->args[i];
      if (b == a || b->kind != KVOPS_ARG_TENSOR || !base.present(b) || b->flags & KVOPS_ARG_PLACE ||
          !numel(base.tensor(b)))
        continue;
      bool writes = (a->flags | b->flags) & KVOPS_ARG_WRITTEN;
      bool allowed = false;
      for (size_t r = 0; r < base.op->num_rules; ++r) {
        string rule = base.op->rules[r], one = a->name, two = b->name;
        for (string verb : {"alias ", "overlap "})
          allowed |= rule == verb + one + " " + two || rule == verb + two + " " + one;
      }
      u = t;
      u.data = base.tensor(b).data;
      bool aligned_now = !(uintptr_t(u.data) % size_t(kvops_dtype_size(t.dtype)));
      auto expect = !writes && aligned_now ? Expect::taken
                    : writes && !allowed   ? Expect::refused
                                           : Expect::free;
      if (shares_memory(a) || shares_memory(b) || does_nothing()) expect = Expect::free;
      add(expect, a, string("at the address of ") + b->name, u);
    }
  }

  void integer(const kvops_arg_info* a) {
    int64_t now = base.integer(a);
    bool typed = *a->type;
    for (int64_t v = -3; v < 66; ++v) {
      if (v == now || (v > 20 && v < 62 && !(v & (v - 1)))) continue;
      if (a->values || typed)
        add_integer(v < 0 || v > 63 || !(a->values >> v & 1) ? Expect::refused : Expect::free, a,
                    v);
      else if (v < 6)
        add_integer(
            string(a->shape).starts_with(">= ") && v < std::stoll(string(a->shape).substr(3))
                ? Expect::refused
                : Expect::free,
            a, v);
    }
  }

  // Every alternative of the row, as its names say, and off by one in each dimension.
  void shapes(const kvops_arg_info* a, const Names& names) {
    if (a->flags & KVOPS_ARG_PLACE || !base.present(a)) return;
    auto list = alternatives(a);
    if (list.size() < 2) return;
    for (auto& shape : list) {
      auto extents = names.extents(shape);
      for (int axis = -1; extents && axis < int(extents->size()); ++axis) {
        auto other = *extents;
        if (axis >= 0) ++other[size_t(axis)];
        auto t = base.tensor(a);
        set_shape(t, other);
        add(Expect::free, a, "another alternative", t);
      }
    }
  }

  // All arguments of one dtype rule with another dtype.
  void retype(const string& type) {
    for (int64_t d = 1; d < 12; ++d) {
      list.push_back({base, Expect::free, base.op->args[0], type + " is " + std::to_string(d)});
      auto& call = list.back().call;
      for (size_t i = 0; i < base.op->num_args; ++i) {
        auto* a = base.op->args[i];
        if (type != a->type) continue;
        auto t = base.tensor(a);
        t.dtype = kvops_dtype(d);
        if (a->kind == KVOPS_ARG_INT) call.put(a, d);
        if (a->kind == KVOPS_ARG_TENSOR && base.present(a)) call.put(a, t);
      }
    }
  }

  // All extents of one name with another value, or, without a name, of all names.
  void resize(const string& name, int64_t value) {
    Names names(base);
    names.values[name] = value;
    for (auto& [other, n] : names.values)
      if (name.empty() && !base.find(other)) n = value;
    if (name.empty()) std::fill(names.group.begin(), names.group.end(), value);
    list.push_back({base, Expect::free, base.op->args[0], name + " is " + std::to_string(value)});
    apply_names(list.back().call, names, name);
  }

  void together() {
    Names names(base);
    std::vector<string> types;
    for (size_t i = 0; i < base.op->num_args; ++i) {
      auto* a = base.op->args[i];
      if (a->kind == KVOPS_ARG_TENSOR) shapes(a, names);
      if (*a->type && std::find(types.begin(), types.end(), a->type) == types.end())
        types.push_back(a->type);
    }
    for (auto& type : types) retype(type);
    resize("", 0);
    for (auto& [name, value] : names.values)
      for (int64_t other : {int64_t{0}, value + 1, 2 * value}) resize(name, other);
  }

  void run() {
    for (size_t i = 0; i < base.op->num_args; ++i) {
      auto* a = base.op->args[i];
      if (a->kind == KVOPS_ARG_TENSOR) tensor(a);
      if (a->kind == KVOPS_ARG_INT) integer(a);
    }
    for (size_t size : {size_t{0}, size_t{8}, base.op->args_size - 8, base.op->args_size + 4,
                        base.op->args_size + 5000}) {
      list.push_back({base, Expect::refused, nullptr, "struct_size " + std::to_string(size)});
      list.back().call.set_size(size);
      if (size == base.op->args_size - 8) list.back().expect = Expect::free;
    }
  }
};

}  // namespace

std::vector<Derived> derive(const ArgsCall& base) {
  Deriver d{base, {}};
  d.run();
  d.together();
  return std::move(d.list);
}
