// The texts of shapes in kvops_ops(), read again from scratch: "blocks heads size/x block! x!".
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "contract/calls.h"

struct DimText {
  std::string text;  // without "!"
  bool packed;
  bool open() const { return text == "..." || text == "*"; }
};
using ShapeText = std::vector<DimText>;

// "[] | 1 | heads!" has three.
std::vector<ShapeText> alternatives(const kvops_arg_info* a);

// The dimension of the shape that stands for an axis; nullptr: the shape has another rank.
const DimText* dim_of(const ShapeText& shape, int axis, int rank);

// What the present tensors and the integers of a call say about the names in shapes.
struct Names {
  std::map<std::string, int64_t> values;
  std::vector<int64_t> group;  // of "..."
  bool has_group = false;

  explicit Names(const ArgsCall& call);
  // Finds the one unknown name of "a*b", "a+b" or "a/b".
  void solve(const std::string& expression, int64_t extent);
  std::optional<int64_t> evaluate(const std::string& expression) const;
  // nullopt: a name in it has no value.
  std::optional<std::vector<int64_t>> extents(const ShapeText& shape) const;
};

// Dense and row-major.
void set_shape(kvops_tensor& t, const std::vector<int64_t>& shape);
void make_dense(kvops_tensor& t);

// The call with all the optional tensors that it may have besides.
ArgsCall with_all(const ArgsCall& base);

// Gives every tensor whose shape has `name` the extents that `names` says; "": every tensor.
void apply_names(ArgsCall& call, const Names& names, const std::string& name);
