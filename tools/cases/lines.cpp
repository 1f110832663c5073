// Reads case lines and multiplies out their lists.
#include "cases/lines.h"

#include <fstream>
#include <sstream>

namespace kvops::cases {
namespace {

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::stringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

}  // namespace

std::vector<Case> parse_line(const std::string& line) {
  std::stringstream words(line.substr(0, line.find('#')));
  Case first;
  if (!(words >> first.name)) return {};
  std::vector<Case> all{first};
  for (std::string word; words >> word;) {
    auto equals = word.find('=');
    auto key = word.substr(0, equals);
    auto list = equals == std::string::npos ? std::vector<std::string>{"+"}
                                            : split(word.substr(equals + 1));
    std::vector<Case> next;
    for (auto& one : all) {
      for (auto& value : list) {
        next.push_back(one);
        next.back().values[key] = value;
        next.back().text.append(one.text.empty() ? "" : " ").append(key).append("=").append(value);
      }
    }
    all = std::move(next);
  }
  return all;
}

std::vector<Case> read_cases(const std::string& path, const std::string& name) {
  std::vector<Case> all;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    for (auto& one : parse_line(line)) {
      if (name.empty() || one.name == name) all.push_back(std::move(one));
    }
  }
  return all;
}

}  // namespace kvops::cases
