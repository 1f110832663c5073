// Searches the loader's folders. A found library is asked for its version in a process of its own:
// two of them in one would be taken for the same by their SONAME.
#include "installed.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "kvcache_ops.h"

namespace kvops {
namespace {

namespace fs = std::filesystem;

void add_configured(const fs::path& file, std::vector<std::string>& folders) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with('/')) folders.push_back(line);
}

std::vector<std::string> loader_folders() {
  std::vector<std::string> folders;
  if (const char* path = std::getenv("LD_LIBRARY_PATH")) {
    std::stringstream parts(path);
    for (std::string part; std::getline(parts, part, ':');) folders.push_back(part);
  }
  std::error_code ignored;
  add_configured("/etc/ld.so.conf", folders);
  for (auto& file : fs::directory_iterator("/etc/ld.so.conf.d", ignored))
    add_configured(file.path(), folders);
  for (auto* folder : {"/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"})
    folders.emplace_back(folder);
  return folders;
}

// `kvops --version` with that library loaded before all others.
std::string version_of(const std::string& path) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) return "";
  std::string preload = "LD_PRELOAD=" + path;
  std::vector<char*> variables;
  for (char** v = environ; *v; ++v)
    if (std::string_view(*v).find("LD_PRELOAD=") != 0) variables.push_back(*v);
  variables.push_back(preload.data());
  variables.push_back(nullptr);
  char name[] = "kvops", option[] = "--version";
  char* arguments[] = {name, option, nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  int failed =
      posix_spawn(&child, "/proc/self/exe", &actions, nullptr, arguments, variables.data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  char text[4200] = "";
  ssize_t length = failed ? 0 : read(ends[0], text, sizeof text - 1);
  close(ends[0]);
  int status = 0;
  if (!failed) waitpid(child, &status, 0);
  if (failed || status || length <= 0) return "";
  // "0.1.0 /usr/lib/libkvops.so.0.1.0": the loader only warns of a library that it cannot load.
  std::string line(text, size_t(length));
  auto space = line.find(' ');
  return line.substr(space + 1) == path + "\n" ? line.substr(0, space) : "";
}

}  // namespace

std::string loaded_library() {
  Dl_info info = {};
  if (!dladdr(reinterpret_cast<const void*>(&kvops_version), &info) || !info.dli_fname) return "";
  std::error_code error;
  auto path = fs::canonical(info.dli_fname, error);
  return error ? info.dli_fname : path.string();
}

std::vector<Library> installed_libraries() {
  std::set<std::string> files;
  for (auto& folder : loader_folders()) {
    std::error_code ignored;
    for (auto& file : fs::directory_iterator(folder, ignored)) {
      if (!file.path().filename().string().starts_with("libkvops.so")) continue;
      auto real = fs::canonical(file.path(), ignored);
      if (!ignored) files.insert(real.string());
    }
  }
  std::vector<Library> found;
  found.reserve(files.size());
  for (auto& file : files) found.push_back({file, version_of(file)});
  return found;
}

}  // namespace kvops
