// Which libkvops.so this process uses, and which ones the loader's folders hold.
#pragma once
#include <string>
#include <vector>

namespace kvops {

struct Library {
  std::string path;
  std::string version;  // as the library itself says; "" when it does not load
};

std::string loaded_library();
std::vector<Library> installed_libraries();

}  // namespace kvops
