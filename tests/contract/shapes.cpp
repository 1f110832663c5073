// Shapes as words: a second reading of the table's texts, independent of core/compile.h.
#include "contract/shapes.h"

#include <algorithm>
#include <sstream>

using std::string;

std::vector<ShapeText> alternatives(const kvops_arg_info* a) {
  std::vector<ShapeText> list;
  std::istringstream parts(a->shape);
  for (string part; std::getline(parts, part, '|');) {
    ShapeText shape;
    std::istringstream words(part);
    for (string w; words >> w;) {
      bool packed = w.back() == '!';
      if (packed) w.pop_back();
      if (w != "[]") shape.push_back({w, packed});
    }
    list.push_back(shape);
  }
  return list;
}

const DimText* dim_of(const ShapeText& shape, int axis, int rank) {
  int count = int(shape.size()), open = -1;
  for (int i = 0; i < count; ++i)
    if (shape[size_t(i)].open()) open = i;
  if (open < 0 ? count != rank : rank < count - 1) return nullptr;
  return &shape[size_t(open < 0 || axis < open ? axis : std::max(open, axis + count - rank))];
}

static bool is_name(const string& s) {
  return !s.empty() && s.find_first_of("+-*/% ") == string::npos && !std::isdigit(s[0]);
}

Names::Names(const ArgsCall& call) {
  for (size_t i = 0; i < call.op->num_args; ++i) {
    auto* a = call.op->args[i];
    if (a->kind == KVOPS_ARG_INT) values[a->name] = call.integer(a);
    if (a->kind != KVOPS_ARG_TENSOR || !call.present(a)) continue;
    auto t = call.tensor(a);
    for (auto& shape : alternatives(a)) {
      bool grouped = shape.size() && std::any_of(shape.begin(), shape.end(),
                                                 [](auto& d) { return d.text == "..."; });
      if (grouped && has_group && size_t(t.rank) != shape.size() - 1 + group.size()) continue;
      bool first_group = grouped && !has_group;
      for (int axis = 0; axis < t.rank; ++axis) {
        auto* d = dim_of(shape, axis, t.rank);
        if (!d) break;
        if (d->text == "..." && first_group) group.push_back(t.shape[axis]);
        if (is_name(d->text) && !d->open()) values.emplace(d->text, t.shape[axis]);
        if (!is_name(d->text)) solve(d->text, t.shape[axis]);
      }
      has_group |= grouped && t.rank >= int(shape.size()) - 1;
    }
  }
  if (has_group) values.emplace("...0", group.empty() ? 1 : group[0]);
}

void Names::solve(const string& expression, int64_t extent) {
  size_t at = expression.find_first_of("+*/");
  if (at == string::npos || expression.find_first_of("+-*/", at + 1) != string::npos) return;
  string left = expression.substr(0, at), right = expression.substr(at + 1);
  auto a = evaluate(left), b = evaluate(right);
  if (!a == !b) return;
  auto known = a ? *a : *b;
  auto& unknown = a ? right : left;
  char op = expression[at];
  if (op == '+') values[unknown] = extent - known;
  if (op == '*' && known && extent % known == 0) values[unknown] = extent / known;
  if (op == '/' && b) values[unknown] = extent * known;
}

// Products and quotients from left to right, sums of them.
std::optional<int64_t> Names::evaluate(const string& expression) const {
  int64_t sum = 0, product = 1;
  char before = '+', op = '*';
  for (size_t at = 0; at <= expression.size();) {
    size_t end = std::min(expression.find_first_of("+-*/", at), expression.size());
    string word = expression.substr(at, end - at);
    int64_t value;
    if (!word.empty() && std::isdigit(word[0])) {
      value = std::stoll(word);
    } else if (auto it = values.find(word); it != values.end()) {
      value = it->second;
    } else {
      return std::nullopt;
    }
    if (op == '/' && !value) return std::nullopt;
    product = op == '*' ? product * value : product / value;
    op = end < expression.size() ? expression[end] : '+';
    if (op == '+' || op == '-') {
      sum += before == '+' ? product : -product;
      before = op, product = 1, op = '*';
    }
    at = end + 1;
  }
  return sum;
}

std::optional<std::vector<int64_t>> Names::extents(const ShapeText& shape) const {
  std::vector<int64_t> list;
  for (auto& d : shape) {
    if (d.text == "*") return std::nullopt;
    if (d.text == "...") {
      if (!has_group) return std::nullopt;
      list.insert(list.end(), group.begin(), group.end());
      continue;
    }
    auto n = evaluate(d.text);
    if (!n) return std::nullopt;
    list.push_back(*n);
  }
  if (list.size() > KVOPS_MAX_RANK) return std::nullopt;
  return list;
}

void make_dense(kvops_tensor& t) {
  int64_t stride = 1;
  for (int i = t.rank; i-- > 0; stride *= std::max<int64_t>(t.shape[i], 1)) t.stride[i] = stride;
}

void set_shape(kvops_tensor& t, const std::vector<int64_t>& shape) {
  t.rank = int32_t(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape);
  make_dense(t);
}

// The base with every optional tensor that it can have, too.
ArgsCall with_all(const ArgsCall& base) {
  ArgsCall call = base;
  for (size_t i = 0; i < base.op->num_args; ++i) {
    auto* a = base.op->args[i];
    if (a->kind != KVOPS_ARG_TENSOR || !(a->flags & KVOPS_ARG_OPTIONAL) || call.present(a))
      continue;
    Names names(call);
    names.values.emplace("bytes", 4096);
    for (auto& shape : alternatives(a)) {
      auto extents = names.extents(shape);
      ArgsCall more = call;
      kvops_tensor t = {};
      t.data = base.address(a), t.device = {KVOPS_CPU, 0};
      for (int d = 1; extents && d < 12 && !call.present(a); ++d) {
        if (!(a->values >> d & 1)) continue;
        t.dtype = d;
        set_shape(t, *extents);
        more.put(a, t);
        if (!kvops_query(more.op->name, more.bytes.data(), nullptr)) call = more;
      }
    }
  }
  return call;
}

void apply_names(ArgsCall& call, const Names& names, const string& name) {
  for (size_t i = 0; i < call.op->num_args; ++i) {
    auto* a = call.op->args[i];
    if (a->kind == KVOPS_ARG_INT && name == a->name) call.put(a, names.values.at(name));
    if (a->kind != KVOPS_ARG_TENSOR || !call.present(a)) continue;
    auto t = call.tensor(a);
    for (auto& shape : alternatives(a)) {
      auto extents = names.extents(shape);
      bool named = std::any_of(shape.begin(), shape.end(), [&](auto& d) {
        return d.text.find(name) != string::npos;  // "" is found everywhere
      });
      if (!extents || !named || extents->size() != size_t(t.rank)) continue;
      set_shape(t, *extents);
      call.put(a, t);
      break;
    }
  }
}
