// Parses the lines of tests/contract/*.txt.
#include "contract/calls.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

using std::string;

const kvops_op_info* find_op(const string& name) {
  size_t count;
  auto* ops = kvops_ops(&count);
  for (size_t i = 0; i < count; ++i)
    if (name == ops[i]->name) return ops[i];
  return nullptr;
}

static kvops_dtype dtype_named(const string& name) {
  for (kvops_dtype d = 1; *kvops_dtype_name(d) != '?'; ++d)
    if (name == kvops_dtype_name(d)) return d;
  return 0;
}

ArgsCall::ArgsCall(const kvops_op_info* op) : op(op), bytes(op->args_size) {
  std::memcpy(bytes.data(), &op->args_size, sizeof(size_t));
}

const kvops_arg_info* ArgsCall::find(const string& name) const {
  for (size_t i = 0; i < op->num_args; ++i)
    if (name == op->args[i]->name) return op->args[i];
  return nullptr;
}

void* ArgsCall::address(const kvops_arg_info* a) const {
  return reinterpret_cast<void*>(uintptr_t{1} << 44 | a->offset << 32);
}

void ArgsCall::set_size(size_t size) {
  bytes.resize(std::max(bytes.size(), size + 8));
  std::memcpy(bytes.data(), &size, sizeof size);
}

static kvops_device device_named(const string& text) {
  int type = text.starts_with("cuda")  ? KVOPS_CUDA
             : text.starts_with("hip") ? KVOPS_HIP
             : text.starts_with("cpu") ? KVOPS_CPU
                                       : 7;
  return {type, std::atoi(text.c_str() + text.find(':') + 1)};
}

kvops_tensor ArgsCall::parse_tensor(const kvops_arg_info* a, const string& text) const {
  kvops_tensor t = {};
  if (text == "-") return t;
  t.device.type = KVOPS_CPU;
  size_t open = text.find('['), close = text.find(']');
  t.dtype = dtype_named(text.substr(0, open));
  t.data = address(a);
  std::istringstream extents(text.substr(open + 1, close - open - 1));
  for (string n; std::getline(extents, n, ',') && t.rank < 6;)
    t.shape[t.rank++] = std::atoll(n.c_str());
  int64_t stride = 1;
  for (int i = t.rank; i-- > 0; stride *= t.shape[i]) t.stride[i] = stride;
  for (size_t at = close + 1; at < text.size();) {
    size_t end = std::min(text.find_first_of("/@#&?~", at + 1), text.size());
    string v = text.substr(at + 1, end - at - 1);
    if (text[at] == '/') {
      std::istringstream strides(v);
      int i = 0;
      for (string n; std::getline(strides, n, ',') && i < 6;) t.stride[i++] = std::atoll(n.c_str());
    }
    if (text[at] == '@') t.device = device_named(v);
    if (text[at] == '#') t.stream = reinterpret_cast<void*>(std::atoll(v.c_str()));
    if (text[at] == '&') t.data = address(find(v));
    if (text[at] == '?') t.data = nullptr;
    if (text[at] == '~') t.data = static_cast<char*>(t.data) + std::atoi(v.c_str());
    at = end;
  }
  return t;
}

int64_t ArgsCall::parse_integer(const kvops_arg_info* a, const string& text) const {
  if (auto d = dtype_named(text)) return d;
  std::istringstream names(a->shape);
  int64_t value = 0;
  for (string n; names >> n; ++value) {
    while (value < 63 && !(a->values >> value & 1)) ++value;
    if (n == text) return value;
  }
  char* end;
  int64_t number = std::strtoll(text.c_str(), &end, 0);
  return *end ? -99 : number;  // no such name: a value that nothing allows
}

bool ArgsCall::set(const string& assignment) {
  auto eq = assignment.find('=');
  string name = assignment.substr(0, eq), text = assignment.substr(eq + 1);
  auto* a = find(name);
  if (!a && name == "tail") return bytes[std::strtoull(text.c_str(), nullptr, 0)] = 1, true;
  if (!a && name == "struct_size") return set_size(std::strtoull(text.c_str(), nullptr, 0)), true;
  if (!a) return false;
  if (a->kind == KVOPS_ARG_TENSOR) put(a, parse_tensor(a, text));
  if (a->kind == KVOPS_ARG_INT) put(a, parse_integer(a, text));
  if (a->kind == KVOPS_ARG_REAL) put(a, std::atof(text.c_str()));
  return true;
}

// Next logical line; false at the end.
static bool next_line(std::istream& file, string& line) {
  line.clear();
  for (string part; std::getline(file, part);) {
    bool more = !part.empty() && part.back() == '\\';
    line += more ? part.substr(0, part.size() - 1) : part;
    if (!more) return true;
  }
  return !line.empty();
}

static void apply(ArgsCall& call, const string& assignment, const string& line) {
  if (call.set(assignment)) return;
  std::printf("%s has no argument as in: %s\n  %s\n", call.op->name, assignment.c_str(),
              line.c_str());
  std::exit(1);
}

static Case read_case(const kvops_op_info* op, const string& base, const string& verb,
                      const string& changes, const string& line) {
  Case c{ArgsCall(op), line, verb == "ok", "", "KVOPS_INVALID_ARGUMENT"};
  std::istringstream base_words(base), words(changes);
  for (string w; base_words >> w;) apply(c.call, w, line);
  for (string w; words >> w;) {
    if (w == "->") {
      words >> c.blamed;
    } else if (w == ":") {
      words >> c.status;
    } else {
      apply(c.call, w, line);
      if (c.blamed.empty()) c.blamed = w.substr(0, w.find('='));
    }
  }
  return c;
}

std::vector<Case> read_cases(const std::vector<string>& paths) {
  std::vector<Case> cases;
  for (auto& path : paths) {
    std::ifstream file(path);
    const kvops_op_info* op = nullptr;
    for (string base, line; next_line(file, line);) {
      if (line.empty() || line[0] == '#') continue;
      std::istringstream words(line);
      string verb, changes;
      words >> verb;
      std::getline(words, changes, '\0');
      if (line[0] != ' ') {
        op = find_op(verb), base = changes;
        if (!op) std::printf("no operator %s\n", verb.c_str()), std::exit(1);
        verb = "ok", changes.clear();
      }
      if (verb != "ok" && verb != "bad") std::printf("%s\n", line.c_str()), std::exit(1);
      cases.push_back(read_case(op, base, verb, changes, line));
    }
  }
  return cases;
}
