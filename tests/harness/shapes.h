// Lines of tests/cases/<op>.txt, and the shapes and numbers they give the arguments of an operator.
//
//   # comment
//   llama3-70b  n=1,17,4096  d=8192  T=bf16,f16  weight=...0  epsilon=1e-5
//
// The first word names the case; every combination of the listed values is one. A key is
//   a symbol of the shapes in src/ops.def ("..." is n), as a number or an expression of others;
//   "*" is block_size_in_bytes;
//   a dtype variable (T, Cache, Record, TorF32 ...), or a tensor of that dtype (src=bf16); left
//   out: T, or the only dtype that there is, or u8 where any will do;
//   a scalar argument, as a number, an expression or one of its names (format=nvfp4);
//   an optional tensor: none, or a word of the alternative of its shape to take (k_scale=heads).
// Optional tensors are present unless the line says none, but for `faults` and workspaces.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kvcache_ops.h"

namespace harness {

struct ShapeCase {
  std::string name, text;                    // "llama3-70b", "n=17 d=8192 T=bf16"
  std::map<std::string, std::string> value;  // by key
};

// Every combination of a line, or of all lines of a file; on failure none, and why in *error.
std::vector<ShapeCase> parse_case(const std::string& line, std::string* error);
std::vector<ShapeCase> read_cases(const std::string& path, std::string* error);

// Sums of products of numbers, names, calls ("bytes(key_cache)") and parentheses; a name that the
// lookup does not know makes it false.
using Lookup = std::function<bool(const std::string& name, double* value)>;
bool evaluate(const std::string& expression, const Lookup& lookup, double* value);

std::vector<std::string> split(const std::string& text, char separator);
std::vector<std::string> words(const std::string& text);

// One operator under one case.
class Shapes {
 public:
  Shapes(const kvops_op_info& op, const ShapeCase& shape_case) : op_(op), case_(shape_case) {}

  // An expression of symbols: "blocks*block". False: a symbol is not known.
  bool number(const std::string& expression, double* value) const;
  // The scalar argument; 0, or the least value allowed, when the line does not name it.
  double scalar(const kvops_arg_info& arg) const;
  void put_scalars(char* args) const;  // all of them, into the struct
  bool present(const kvops_arg_info& arg) const;
  // 0: the line does not say.
  kvops_dtype dtype(const kvops_arg_info& arg) const;
  // False: no alternative of the shape is known.
  bool shape(const kvops_arg_info& arg, std::vector<int64_t>* extents) const;
  // All arguments that the case has have a dtype and a shape; else the first that has not.
  bool complete(std::string* missing) const;

 private:
  const std::string* find(const std::string& key) const;
  const kvops_op_info& op_;
  const ShapeCase& case_;
};

kvops_dtype dtype_by_name(const std::string& name);

}  // namespace harness
