// Runs the cases of tests/contract/*.txt through kvops_call(), with nothing but the public API; no
// tensor is ever read.
//
//   <op> name=value ...       a legal call: the base of the lines below it
//     ok  name=value ...      the base with changes, legal too
//     bad name=value ...      illegal: the message must name the first change, or, after "->",
//                             another argument; the status is INVALID_ARGUMENT, or follows ":"
//
// Values   bf16[7,64], strides bf16[7,64]/128,1, then any of: @cuda:0 device, #5 stream, &input at
//          the address of another argument, ~3 that many bytes further, ? NULL data; - absent;
//          numbers; names of constants and dtypes. A backslash continues a line.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "kvcache_ops.h"

using std::string;

static int failures = 0;

struct Call {
  const kvops_op_info* op;
  std::vector<char> args;

  explicit Call(const kvops_op_info* op) : op(op), args(op->args_size) {
    std::memcpy(args.data(), &op->args_size, sizeof(size_t));
  }

  const kvops_arg_info* find(const string& name) const {
    for (size_t i = 0; i < op->num_args; ++i)
      if (name == op->args[i]->name) return op->args[i];
    return nullptr;
  }
  void put(size_t offset, const void* from, size_t size) {
    std::memcpy(args.data() + offset, from, size);
  }

  void* address(const kvops_arg_info* a) const {
    return reinterpret_cast<void*>(uintptr_t{1} << 44 | a->offset << 32);
  }

  static kvops_dtype dtype(const string& name) {
    for (kvops_dtype d = 1; *kvops_dtype_name(d) != '?'; ++d)
      if (name == kvops_dtype_name(d)) return d;
    return 0;
  }

  kvops_tensor tensor(const kvops_arg_info* a, string text) {
    kvops_tensor t = {};
    if (text == "-") return t;
    t.device.type = KVOPS_CPU;
    size_t open = text.find('['), close = text.find(']');
    t.dtype = dtype(text.substr(0, open));
    t.data = address(a);
    std::istringstream extents(text.substr(open + 1, close - open - 1));
    for (string n; std::getline(extents, n, ',') && t.rank < 6;)
      t.shape[t.rank++] = std::atoll(n.c_str());
    int64_t stride = 1;
    for (int i = t.rank; i-- > 0; stride *= t.shape[i]) t.stride[i] = stride;
    for (size_t at = close + 1; at < text.size();) {
      size_t end = text.find_first_of("/@#&?~", at + 1);
      string v = text.substr(at + 1, end == string::npos ? end : end - at - 1);
      if (text[at] == '/') {
        std::istringstream strides(v);
        int i = 0;
        for (string n; std::getline(strides, n, ',') && i < 6;)
          t.stride[i++] = std::atoll(n.c_str());
      }
      if (text[at] == '@')
        t.device = {v[0] == 'c' && v[1] == 'u' ? KVOPS_CUDA
                    : v[0] == 'h'              ? KVOPS_HIP
                    : v[0] == 'c'              ? KVOPS_CPU
                                               : 7,
                    std::atoi(v.c_str() + v.find(':') + 1)};
      if (text[at] == '#') t.stream = reinterpret_cast<void*>(std::atoll(v.c_str()));
      if (text[at] == '&') t.data = address(find(v));
      if (text[at] == '?') t.data = nullptr;
      if (text[at] == '~') t.data = static_cast<char*>(t.data) + std::atoi(v.c_str());
      at = end == string::npos ? text.size() : end;
    }
    return t;
  }

  int64_t integer(const kvops_arg_info* a, const string& text) {
    if (auto d = dtype(text)) return d;
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

  void set(const string& assignment) {
    auto eq = assignment.find('=');
    string name = assignment.substr(0, eq), text = assignment.substr(eq + 1);
    auto* a = find(name);
    if (!a && name == "tail") return void(args[std::strtoull(text.c_str(), nullptr, 0)] = 1);
    if (!a && name == "struct_size") return set_size(std::strtoull(text.c_str(), nullptr, 0));
    if (!a) {
      std::printf("%s has no argument %s\n", op->name, name.c_str()), ++failures;
      return;
    }
    kvops_tensor t;
    int64_t i;
    double r;
    if (a->kind == KVOPS_ARG_TENSOR) t = tensor(a, text), put(a->offset, &t, sizeof t);
    if (a->kind == KVOPS_ARG_INT) i = integer(a, text), put(a->offset, &i, sizeof i);
    if (a->kind == KVOPS_ARG_REAL) r = std::atof(text.c_str()), put(a->offset, &r, sizeof r);
  }
  // What kvops_query() must still accept: no data, except of scalars, which would become absent.
  void forget_addresses() {
    for (size_t i = 0; i < op->num_args; ++i) {
      kvops_tensor t;
      if (op->args[i]->kind != KVOPS_ARG_TENSOR) continue;
      std::memcpy(&t, args.data() + op->args[i]->offset, sizeof t);
      if (t.rank) t.data = nullptr;
      put(op->args[i]->offset, &t, sizeof t);
    }
  }
  void set_size(size_t size) {
    args.resize(std::max(args.size(), size + 8));
    put(0, &size, sizeof size);
  }
};

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

struct Counts {
  int good = 0, bad = 0;
};

static void run(std::istream& file, bool quiet, std::map<string, Counts>& counts) {
  size_t num_ops;
  auto* ops = kvops_ops(&num_ops);
  const kvops_op_info* op = nullptr;
  for (string base, line; next_line(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    string verb, first, blamed, status = "KVOPS_INVALID_ARGUMENT";
    words >> verb;
    if (line[0] != ' ') {
      op = nullptr;
      for (size_t i = 0; i < num_ops; ++i)
        if (verb == ops[i]->name) op = ops[i];
      if (!op) std::printf("no operator %s\n", verb.c_str()), std::exit(1);
      base = line.substr(verb.size()), verb = "ok";
      words.str("");
      if (!quiet) std::printf("\n%s\n", op->name);
    }
    Call call(op);
    std::istringstream base_words(base);
    for (string w; base_words >> w;) call.set(w);
    for (string w; words >> w;) {
      if (w == "->") {
        words >> blamed;
      } else if (w == ":") {
        words >> status;
      } else {
        call.set(w);
        if (blamed.empty()) blamed = w.substr(0, w.find('='));
      }
    }
    kvops_status got = kvops_call(op->name, call.args.data());
    kvops_error e = {};
    e.struct_size = sizeof e;
    kvops_get_error(&e);
    bool fine;
    if (verb == "ok") {
      ++counts[op->name].good;
      fine = !got || std::strstr(e.message, "stub");
      call.forget_addresses();
      fine = fine && !kvops_query(op->name, call.args.data(), nullptr);
    } else {
      ++counts[op->name].bad;
      fine =
          got && status == kvops_status_string(got) && (blamed == e.argument || blamed == "none");
    }
    if (!fine) std::printf("FAILED: %s\n    ", line.c_str()), ++failures;
    if (!fine || (!quiet && verb != "ok"))
      std::printf("  %s\n", got ? kvops_last_error() : "accepted");
  }
}

int main(int argc, char** argv) {
  std::map<string, Counts> counts;
  bool quiet = argc > 1 && !std::strcmp(argv[1], "-q");
  for (int i = 1 + quiet; i < argc; ++i) {
    std::ifstream file(argv[i]);
    run(file, quiet, counts);
  }
  size_t num_ops;
  auto* ops = kvops_ops(&num_ops);
  Counts sum;
  for (size_t i = 0; i < num_ops; ++i) {
    auto& c = counts[ops[i]->name];
    sum.good += c.good, sum.bad += c.bad;
    if (!c.good || c.bad < 3) std::printf("too few cases: %s\n", ops[i]->name), ++failures;
  }
  std::printf("\n%zu operators, %d legal and %d illegal calls, %d failures\n", num_ops, sum.good,
              sum.bad, failures);
  return failures != 0;
}
