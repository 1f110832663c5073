// Lines of tests/cases/<op>.txt, shared by `kvops bench` and the sweep tests:
//
//   llama3-8b  n=1,17,4096  d=4096  T=bf16
//
// The first word is the name, then symbols of the operator's shapes, dtypes by the name of their
// variable or of an argument, numbers and enum values by argument, optional tensors by name=+ and
// name=-. Commas make several calls of one line: all combinations. '#' starts a comment.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace kvops::cases {

using Values = std::map<std::string, std::string, std::less<>>;

// One call of a line. text: "n=17 d=4096 T=bf16", in the order of the line.
struct Case {
  std::string name;
  std::string text;
  Values values;
};

// The calls of one line; none for an empty line.
std::vector<Case> parse_line(const std::string& line);

// All calls of a file, or of the lines of that name; none when the file cannot be read.
std::vector<Case> read_cases(const std::string& path, const std::string& name);

}  // namespace kvops::cases
