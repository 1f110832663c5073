// Works out a call from a case line and the operator's description, with no knowledge of operators:
// symbols that the line leaves out follow from the rules ("width == size", "tokens <= padded"), and
// kvops_query() says which optional tensors a format needs.
#include "cases/layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kvops::cases {
namespace {

using Names = std::map<std::string, int64_t, std::less<>>;

using harness::split;
using harness::words;

kvops_dtype dtype_named(const std::string& name) { return harness::dtype_by_name(name); }

// "a cmp b" in its parts; false for any other text.
struct Comparison {
  std::string left, op, right;
};
bool split_comparison(const std::string& text, Comparison& parts) {
  for (std::string op : {"==", "!=", "<=", ">="}) {
    auto at = text.find(" " + op + " ");
    if (at == std::string::npos) continue;
    parts = {text.substr(0, at), op, text.substr(at + op.size() + 2)};
    return true;
  }
  return false;
}

bool compare(int64_t left, const std::string& op, int64_t right) {
  return op == "=="   ? left == right
         : op == "!=" ? left != right
         : op == "<=" ? left <= right
                      : left >= right;
}

bool in_set(kvops_dtype dtype, std::string_view set) {
  if (set == "f8") return dtype >= KVOPS_F8_E4M3 && dtype <= KVOPS_F8_E5M2FNUZ;
  if (set == "half") return dtype == KVOPS_F16 || dtype == KVOPS_BF16;
  if (set == "float") return dtype >= KVOPS_F32 && dtype <= KVOPS_BF16;
  return set == kvops_dtype_name(dtype);
}

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789-") == std::string::npos;
}

// Stands for the memory that a tensor will have: without any, a scalar would be an absent tensor.
// kvops_query() looks at no address.
void* const kSomewhere = reinterpret_cast<void*>(uintptr_t{4096});

// One argument while the call is worked out.
struct Part {
  const kvops_arg_info* info = nullptr;
  kvops_dtype dtype = 0;
  bool given = false;
  std::vector<int64_t> shape = {};
};

class Builder {
 public:
  Builder(const kvops_op_info* op, const Case& one, kvops_device device)
      : op_(op), case_(one), device_(device) {
    for (size_t i = 0; i < op->num_args; ++i) parts_.push_back({.info = op->args[i]});
    layout_.op = op;
    layout_.args.resize(op->args_size);
  }

  Layout run() {
    if (!check_names() || !dtypes()) return std::move(layout_);
    symbols();
    for (auto& part : parts_) part.given = wanted(part);
    solve();
    if (!shapes() || !ask()) return std::move(layout_);
    for (auto& p : parts_)
      if (p.given && !(p.info->flags & KVOPS_ARG_PLACE))
        layout_.tensors.push_back(
            {.info = p.info, .shape = tensor_at(layout_.args.data(), p.info)});
    layout_.run = number("run").value_or(1);
    count_traffic(layout_, [this](const std::string& name) { return look_up(name); });
    return std::move(layout_);
  }

 private:
  bool fail(const std::string& text) {
    layout_.error = std::string(op_->name) + ": " + case_.name + ": " + text;
    return false;
  }

  const std::string* value(const std::string& name) const {
    auto found = case_.value.find(name);
    return found == case_.value.end() ? nullptr : &found->second;
  }

  Part* part(std::string_view name) {
    for (auto& p : parts_)
      if (name == p.info->name) return &p;
    return nullptr;
  }

  // Every word of the line must mean something: a misspelt one would silently time another call.
  bool check_names() {
    std::string known = " n seq_len T Cache run src_place dst_place ";
    for (size_t i = 0; i < op_->num_args; ++i) {
      auto* a = op_->args[i];
      known.append(a->name).append(" ").append(a->type).append(" ").append(a->shape).append(" ");
    }
    for (size_t i = 0; i < op_->num_rules; ++i) known.append(op_->rules[i]).append(" ");
    for (char& c : known)
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_') c = ' ';
    for (auto& [name, text] : case_.value)
      if (known.find(" " + name + " ") == std::string::npos) return fail("what is " + name + "?");
    return true;
  }

  bool dtypes() {
    for (auto& p : parts_) {
      auto* a = p.info;
      if (!*a->type || a->flags & KVOPS_ARG_PLACE) continue;
      bool cached = std::strstr(a->type, "Cache") || std::strstr(a->type, "Record") ||
                    std::strstr(a->type, "Same");
      for (auto* text :
           {value(a->name), value(a->type), cached ? value("Cache") : nullptr, value("T")}) {
        auto dtype = text ? dtype_named(*text) : 0;
        if (!p.dtype && dtype && a->values >> dtype & 1) p.dtype = dtype;
      }
      if (!p.dtype) p.dtype = default_dtype(a->values);
      if (a->kind == KVOPS_ARG_INT) number_of(p) = p.dtype;
    }
    return true;
  }

  static kvops_dtype default_dtype(uint64_t set) {
    if (set >> KVOPS_BF16 & 1) return KVOPS_BF16;
    if (set >> KVOPS_I64 & 1) return KVOPS_I64;
    if (set >> KVOPS_U8 & 1) return KVOPS_U8;
    kvops_dtype lowest = 1;
    while (set && !(set >> lowest & 1)) ++lowest;
    return lowest;
  }

  int64_t& number_of(const Part& p) {
    return *reinterpret_cast<int64_t*>(layout_.args.data() + p.info->offset);
  }
  double& real_of(const Part& p) {
    return *reinterpret_cast<double*>(layout_.args.data() + p.info->offset);
  }

  // Enum values, the line's numbers, integer arguments; what is left out gets its least value.
  void symbols() {
    size_t size = layout_.args.size();
    std::memcpy(layout_.args.data(), &size, sizeof size);
    if (auto* text = value("n"))
      for (auto& extent : split(*text, 'x')) leading_.push_back(number(extent).value_or(-1));
    for (auto& p : parts_) {
      if (p.info->kind != KVOPS_ARG_INT || *p.info->type) continue;
      int64_t least = 0;
      auto list = words(p.info->shape);
      if (list.size() == 2 && list[0] == ">=") least = std::strtoll(list[1].c_str(), nullptr, 10);
      auto* text = value(p.info->name);
      int64_t bit = 0;
      for (auto& name : p.info->values ? list : std::vector<std::string>{}) {
        while (!(p.info->values >> bit & 1)) ++bit;
        if (name == list.front()) least = bit;
        if (!is_number(name)) names_[name] = bit;
        ++bit;
      }
      names_[p.info->name] = text ? number(*text).value_or(least) : least;
      number_of(p) = names_[p.info->name];
    }
  }

  // All tensors but those that the line says are not; the counter of faults only when it is named.
  bool wanted(const Part& p) {
    auto* a = p.info;
    if (a->kind != KVOPS_ARG_TENSOR || a->flags & KVOPS_ARG_SIZED) return false;
    auto* text = value(a->name);
    return text ? *text != "none" : !(a->flags & KVOPS_ARG_COUNTER);
  }

  std::optional<int64_t> look_up(const std::string& name) {
    auto open = name.find('(');
    if (open != std::string::npos) {
      auto* p = part(name.substr(open + 1, name.size() - open - 2));
      auto what = name.substr(0, open);
      if (!p) return std::nullopt;
      if (what == "bytes") return kvops_dtype_size(p->dtype);
      if (p->shape.empty()) return std::nullopt;
      if (what == "rank") return int64_t(p->shape.size());
      int64_t count = 1;
      for (auto extent : p->shape) count *= extent;
      return count;
    }
    auto found = names_.find(name);
    if (found != names_.end()) return found->second;
    auto* text = value(name);
    return text && *text != name ? number(*text) : std::nullopt;
  }

  std::optional<int64_t> number(const std::string& text) {
    return evaluate(text, [this](const std::string& name) { return look_up(name); });
  }

  // "format == plain", "key_cache is f8", "key_cache not u8"; unknown ones do not hold.
  bool holds(const std::string& condition) {
    auto list = words(condition);
    if (list.size() == 3 && (list[1] == "is" || list[1] == "not")) {
      auto* p = part(list[0]);
      return p && in_set(p->dtype, list[2]) == (list[1] == "is");
    }
    Comparison c;
    if (!split_comparison(condition, c)) return false;
    auto left = number(c.left), right = number(c.right);
    return left && right && compare(*left, c.op, *right);
  }

  // Gives the symbols that the line leaves out the value at which a rule just holds.
  void solve() {
    if (part("sizes") && !number("sizes")) names_["sizes"] = 32768;  // a block of a cache
    auto length = number("seq_len"), block = number("block");
    if (length && block && !number("width")) names_["width"] = (*length + *block - 1) / *block;
    for (bool progress = true; progress;) {
      progress = false;
      bool active = true;
      for (size_t i = 0; i < op_->num_rules; ++i) {
        std::string rule = op_->rules[i];
        if (rule.starts_with("if ")) active = holds(rule.substr(3));
        Comparison c;
        if (!active || !rule.starts_with("require ") || !split_comparison(rule.substr(8), c) ||
            c.op == "!=")
          continue;
        for (auto [one, other] : {std::pair{c.left, c.right}, std::pair{c.right, c.left}}) {
          auto known = number(other);
          bool name = one.find_first_of("+-*/%( ") == std::string::npos;
          if (!known || !name || number(one)) continue;
          names_[one] = *known;
          progress = true;
        }
      }
    }
  }

  bool shapes() {
    for (auto& p : parts_) {
      auto* a = p.info;
      if (!p.given || a->kind != KVOPS_ARG_TENSOR || a->flags & KVOPS_ARG_PLACE) continue;
      std::string missing;
      if (shape_of(p, missing)) continue;
      if (!(a->flags & KVOPS_ARG_OPTIONAL) || value(a->name))
        return fail(std::string("the line does not say ") + missing + " of " + a->name + " [" +
                    a->shape + "]");
      p.given = false;
    }
    return true;
  }

  bool shape_of(Part& p, std::string& missing) {
    auto* chosen = value(p.info->name);
    auto all = split(p.info->shape, '|');
    auto is_chosen = [&](auto& text) { return chosen && without(text, "! ") == *chosen; };
    bool by_name = std::any_of(all.begin(), all.end(), is_chosen);
    for (auto& text : all) {
      if (by_name && !is_chosen(text)) continue;
      p.shape.clear();
      bool whole = true;
      for (auto& dim : words(without(text, "!"))) whole = whole && extent(p, dim, missing);
      if (whole) return true;
    }
    return false;
  }

  bool extent(Part& p, const std::string& dim, std::string& missing) {
    missing = dim == "..." || dim == "...0" ? "n" : dim;
    if (dim == "[]") return true;
    if (dim == "...") {
      p.shape.insert(p.shape.end(), leading_.begin(), leading_.end());
      return !leading_.empty();
    }
    std::optional<int64_t> value;
    if (dim == "...0" && !leading_.empty()) value = leading_[0];
    if (dim == "*")
      value = number("block_size_in_bytes/" + std::to_string(kvops_dtype_size(p.dtype)));
    if (!value) value = number(dim);
    if (value) p.shape.push_back(*value);
    return value.has_value();
  }

  // Fills the struct and asks the library; what it misses is given and asked again.
  bool ask() {
    for (size_t i = 0; i <= parts_.size(); ++i) {
      fill();
      layout_.query.struct_size = sizeof layout_.query;
      if (!kvops_query(op_->name, layout_.args.data(), &layout_.query)) return add_workspace();
      kvops_error error = {};
      error.struct_size = sizeof error;
      kvops_get_error(&error);
      auto* p = part(error.argument);
      std::string missing;
      bool may = p && !p->given && p->info->kind == KVOPS_ARG_TENSOR && !value(p->info->name);
      if (!may || !shape_of(*p, missing)) return fail(kvops_last_error());
      p->given = true;
    }
    return fail(kvops_last_error());
  }

  void fill() {
    for (auto& p : parts_) {
      auto* a = p.info;
      if (a->kind == KVOPS_ARG_REAL) real_of(p) = real(a->name);
      if (a->kind != KVOPS_ARG_TENSOR) continue;
      auto& tensor = tensor_at(layout_.args.data(), a);
      std::memset(&tensor, 0, sizeof tensor);
      if (a->flags & KVOPS_ARG_PLACE) tensor.device = device_;
      if (!p.given || a->flags & KVOPS_ARG_PLACE) continue;
      tensor = kvops_dense(kSomewhere, place_of(a), nullptr, p.dtype, int32_t(p.shape.size()),
                           p.shape.data());
    }
  }

  kvops_device place_of(const kvops_arg_info* a) {
    auto* text = value(std::string(a->name) + "_place");
    bool host = a->flags & KVOPS_ARG_HOST || (text && *text == "cpu");
    return host ? kvops_device{KVOPS_CPU, 0} : device_;
  }

  // What the line gives, or what models use.
  double real(const std::string& name) {
    if (auto* text = value(name)) return std::strtod(text->c_str(), nullptr);
    if (name == "epsilon") return 1e-6;
    auto size = number("size");
    if (name == "scale") return size ? 1 / std::sqrt(double(*size)) : 1.0;
    return name == "k_scale" || name == "v_scale" || name == "alpha" ? 1.0 : 0.0;
  }

  bool add_workspace() {
    for (auto& p : parts_) {
      auto* text = value(p.info->name);
      if (!(p.info->flags & KVOPS_ARG_SIZED) || (text && *text == "none")) continue;
      p.given = layout_.query.bytes > 0;
      p.dtype = KVOPS_U8;
      p.shape = {layout_.query.bytes};
    }
    fill();
    return true;
  }

  const kvops_op_info* op_;
  const Case& case_;
  kvops_device device_;
  Layout layout_;
  std::vector<Part> parts_;
  Names names_;
  std::vector<int64_t> leading_;
};

}  // namespace

kvops_tensor& tensor_at(std::byte* args, const kvops_arg_info* info) {
  return *reinterpret_cast<kvops_tensor*>(args + info->offset);
}

const kvops_op_info* find_op(const std::string& name) {
  size_t count = 0;
  auto* ops = kvops_ops(&count);
  for (size_t i = 0; i < count; ++i)
    if (name == ops[i]->name) return ops[i];
  return nullptr;
}

Layout lay_out(const kvops_op_info* op, const Case& one, kvops_device device) {
  return Builder(op, one, device).run();
}

}  // namespace kvops::cases
