// Parses case lines and evaluates shapes. The grammar of an expression: sums of products of
// numbers, names, calls and parentheses, with + - * / %.
#include "shapes.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>

namespace harness {
namespace {

struct Parser {
  const char* at;
  const Lookup& lookup;
  bool ok = true;

  double sum() {
    double x = product();
    while (*at == '+' || *at == '-') {
      char sign = *at++;
      double y = product();
      x = sign == '+' ? x + y : x - y;
    }
    return x;
  }
  double product() {
    double x = factor();
    while (*at == '*' || *at == '/' || *at == '%') {
      char sign = *at++;
      double y = factor();
      x = sign == '*' ? x * y : sign == '/' ? x / y : std::fmod(x, y);
    }
    return x;
  }
  double factor() {
    if (*at == '(') {
      ++at;
      double x = sum();
      ok = ok && *at == ')';
      if (*at) ++at;
      return x;
    }
    if (std::isdigit(static_cast<unsigned char>(*at)) || *at == '-' || *at == '.') {
      char* end;
      double x = std::strtod(at, &end);
      ok = ok && end != at;
      at = end == at ? at + 1 : end;
      return x;
    }
    std::string name;
    while (std::isalnum(static_cast<unsigned char>(*at)) || *at == '_') name += *at++;
    if (*at == '(' && !name.empty()) {
      while (*at && *at != ')') name += *at++;
      if (*at) name += *at++;
    }
    double x = 0;
    ok = ok && !name.empty() && lookup(name, &x);
    return x;
  }
};

void add_combinations(const std::vector<std::string>& line, size_t at, ShapeCase c,
                      std::vector<ShapeCase>* all) {
  if (at == line.size()) return all->push_back(c);
  auto equals = line[at].find('=');
  auto key = line[at].substr(0, equals);
  for (auto& value : split(line[at].substr(equals + 1), ',')) {
    auto next = c;
    next.value[key] = value;
    next.text += (c.text.empty() ? "" : " ") + key + "=" + value;
    add_combinations(line, at + 1, next, all);
  }
}

}  // namespace

bool evaluate(const std::string& expression, const Lookup& lookup, double* value) {
  Parser parser{expression.c_str(), lookup};
  *value = parser.sum();
  return parser.ok && !*parser.at;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> list;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) list.push_back(word);
  return list;
}

kvops_dtype dtype_by_name(const std::string& name) {
  for (kvops_dtype d = 1; kvops_dtype_size(d); ++d)
    if (name == kvops_dtype_name(d)) return d;
  return 0;
}

std::vector<ShapeCase> parse_case(const std::string& line, std::string* error) {
  std::vector<ShapeCase> all;
  auto list = words(line.substr(0, line.find('#')));
  if (list.empty()) return all;
  for (size_t i = 1; i < list.size(); ++i) {
    if (list[i].find('=') != std::string::npos) continue;
    *error = list[i] + " is no key=value";
    return all;
  }
  ShapeCase c;
  c.name = list[0];
  add_combinations(list, 1, c, &all);
  return all;
}

std::vector<ShapeCase> read_cases(const std::string& path, std::string* error) {
  std::vector<ShapeCase> all;
  std::ifstream file(path);
  if (!file) *error = path + ": cannot be read";
  int number = 0;
  for (std::string line, why; std::getline(file, line);) {
    ++number;
    auto cases = parse_case(line, &why);
    if (!why.empty()) {
      *error = path + ":" + std::to_string(number) + ": " + why;
      return {};
    }
    all.insert(all.end(), cases.begin(), cases.end());
  }
  return all;
}

const std::string* Shapes::find(const std::string& key) const {
  auto it = case_.value.find(key);
  return it == case_.value.end() ? nullptr : &it->second;
}

bool Shapes::number(const std::string& expression, double* value) const {
  Lookup lookup = [this](const std::string& name, double* x) {
    if (name.starts_with("bytes(")) {
      auto* dtype = find(name.substr(6, name.size() - 7));
      *x = dtype ? double(kvops_dtype_size(dtype_by_name(*dtype))) : 0;
      return dtype != nullptr;
    }
    auto* text = find(name);
    return text && *text != name && number(*text, x);
  };
  return evaluate(expression, lookup, value);
}

double Shapes::scalar(const kvops_arg_info& arg) const {
  auto* text = find(arg.name);
  double value = 0;
  if (text) {
    if (arg.type[0]) return dtype_by_name(*text);
    int bit = -1;  // names stand for the set bits of `values`, in order
    for (auto& name : words(arg.shape)) {
      do ++bit;
      while (bit < 63 && !(arg.values >> bit & 1));
      if (bit < 63 && name == *text) return bit;
    }
    return number(*text, &value) ? value : std::nan("");
  }
  if (arg.kind == KVOPS_ARG_INT && !std::strncmp(arg.shape, ">= ", 3))
    value = std::atof(arg.shape + 3);
  return value;
}

void Shapes::put_scalars(char* args) const {
  for (size_t i = 0; i < op_.num_args; ++i) {
    auto& arg = *op_.args[i];
    const double real = arg.kind == KVOPS_ARG_TENSOR ? 0 : scalar(arg);
    const auto integer = int64_t(real);
    if (arg.kind == KVOPS_ARG_REAL) std::memcpy(args + arg.offset, &real, 8);
    if (arg.kind == KVOPS_ARG_INT) std::memcpy(args + arg.offset, &integer, 8);
  }
}

bool Shapes::present(const kvops_arg_info& arg) const {
  auto* text = find(arg.name);
  if (!(arg.flags & KVOPS_ARG_OPTIONAL)) return true;
  if (arg.flags & (KVOPS_ARG_SIZED | KVOPS_ARG_COUNTER)) return text && *text != "none";
  return !text || *text != "none";
}

kvops_dtype Shapes::dtype(const kvops_arg_info& arg) const {
  for (auto* key : {find(arg.name), find(arg.type), find("T")}) {
    auto d = key ? dtype_by_name(*key) : 0;
    if (d && arg.values >> d & 1) return d;
  }
  for (kvops_dtype d = 1; d < 64; ++d)
    if (arg.values == uint64_t(1) << d) return d;
  const bool any = arg.values >> KVOPS_F32 & arg.values >> KVOPS_I64 & 1;
  return any ? KVOPS_U8 : 0;
}

bool Shapes::shape(const kvops_arg_info& arg, std::vector<int64_t>* extents) const {
  auto* wanted = find(arg.name);
  if (wanted && dtype_by_name(*wanted)) wanted = nullptr;
  for (auto& alternative : split(arg.shape, '|')) {
    auto list = words(alternative);
    bool known = true, fits = !wanted;
    extents->clear();
    for (auto word : list) {
      if (word.back() == '!') word.pop_back();
      fits = fits || word == *wanted;
      if (word == "[]") continue;
      if (word == "...0") word = "...";
      double value = 0;
      known = known && number(word == "..." ? "n"
                              : word == "*" ? "block_size_in_bytes"
                                            : word,
                              &value);
      extents->push_back(int64_t(value));
    }
    if (known && fits) return true;
  }
  return false;
}

bool Shapes::complete(std::string* missing) const {
  for (size_t i = 0; i < op_.num_args; ++i) {
    auto& arg = *op_.args[i];
    std::vector<int64_t> extents;
    *missing = arg.name;
    if (arg.kind != KVOPS_ARG_TENSOR) {
      if (std::isnan(scalar(arg))) return false;
    } else if (present(arg) && !(arg.flags & (KVOPS_ARG_SIZED | KVOPS_ARG_PLACE))) {
      if (!dtype(arg) || !shape(arg, &extents)) return false;
    }
  }
  return true;
}

}  // namespace harness
