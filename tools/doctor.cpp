// `kvops doctor`: which library is loaded and which are installed, back ends and why one is
// missing, devices, and one golden case of every operator on every device: a launch that fails
// shows here, not in the first request.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "commands.h"
#include "golden.h"
#include "installed.h"
#include "json.h"
#include "kvcache_ops/onednn.h"
#include "trials.h"

namespace kvops {
namespace {

namespace fs = std::filesystem;

struct Device {
  kvops_device device;
  kvops_device_info info;
};

struct BackendState {
  const char* name;
  std::string missing;  // why; "" when there are devices
  std::vector<Device> devices;
};

struct Run {
  std::string op, backend, device, text;
  int outcome;
};

struct Findings {
  std::string loaded;
  std::vector<Library> installed;
  std::vector<BackendState> backends;
  std::vector<std::string> settings;  // KVOPS_... of the environment
  std::vector<Run> runs;
  std::vector<std::string> problems;
};

BackendState look_at(int32_t type) {
  BackendState state{.name = device_name(type), .missing = "", .devices = {}};
  int32_t count = 0;
  kvops_device_count(type, &count);
  for (int32_t i = 0; i < std::max(count, 1); ++i) {
    Device one = {{type, i}, {}};
    one.info.struct_size = sizeof one.info;
    if (kvops_get_device_info(one.device, &one.info)) {
      state.missing = kvops_last_error();
    } else {
      state.devices.push_back(one);
    }
  }
  return state;
}

// The case with the fewest bytes: what is asked is whether the operator runs here at all.
std::string smallest_case(const fs::path& folder) {
  std::string best;
  uintmax_t least = UINTMAX_MAX;
  std::error_code ignored;
  for (auto& one : fs::directory_iterator(folder, ignored)) {
    uintmax_t bytes = 0;
    for (auto& file : fs::recursive_directory_iterator(one.path(), ignored))
      if (file.is_regular_file()) bytes += file.file_size();
    auto name = one.path().filename().string();
    if (bytes < least || (bytes == least && name < best)) least = bytes, best = name;
  }
  return best;
}

void run_operators(const std::string& root, Findings& findings) {
  size_t count = 0;
  auto* ops = kvops_ops(&count);
  for (size_t i = 0; i < count; ++i) {
    if (!ops[i]->backends || has_trial(ops[i]->name)) continue;
    progress(std::string("runs ") + ops[i]->name);
    auto name = smallest_case(fs::path(root) / ops[i]->name);
    if (name.empty()) {
      findings.problems.push_back(std::string(ops[i]->name) + ": no golden case in " + root +
                                  ", not run");
      continue;
    }
    golden_options golden = {};
    golden.root = root.c_str();
    golden.op = ops[i]->name;
    golden.name = name.c_str();
    golden.context = &findings;
    golden.report = [](void* context, const golden_result* r) {
      if (r->outcome == GOLDEN_SKIPPED) return;
      auto& all = *static_cast<Findings*>(context);
      all.runs.push_back({r->op, r->backend, r->device, r->text, r->outcome});
      if (r->outcome == GOLDEN_FAILED)
        all.problems.push_back(std::string(r->op) + " on " + r->backend + " " + r->device + ": " +
                               r->text);
    };
    golden_run(&golden);
  }
  progress("");
}

void run_linked(Findings& findings) {
  for (auto& trial : run_trials()) {
    const int outcome = trial.problem.empty() ? GOLDEN_PASSED : GOLDEN_FAILED;
    findings.runs.push_back({trial.op, "cpu", trial.device, trial.problem, outcome});
    if (outcome == GOLDEN_FAILED)
      findings.problems.push_back(std::string(trial.op) + " on cpu " + trial.device + ": " +
                                  trial.problem);
  }
}

Findings examine(const DoctorOptions& options) {
  Findings f;
  f.loaded = loaded_library();
  f.installed = installed_libraries();
  for (int32_t type : {KVOPS_CPU, KVOPS_CUDA, KVOPS_HIP}) f.backends.push_back(look_at(type));
  for (char** variable = environ; *variable; ++variable)
    if (std::string_view(*variable).starts_with("KVOPS_")) f.settings.emplace_back(*variable);
  if (kvops_version() != KVOPS_VERSION)
    f.problems.push_back("this program was built for version " + version_text(KVOPS_VERSION) +
                         ", the library is " + version_text(kvops_version()));
  for (auto& library : f.installed) {
    if (library.version != version_text(kvops_version()))
      f.problems.push_back(library.path + " is " +
                           (library.version.empty() ? "not loadable" : library.version) +
                           ", another version than the loaded library");
  }
  run_operators(data_folder(options.data) + "/golden", f);
  run_linked(f);
  return f;
}

void print_json(const Findings& f) {
  Json json;
  json.open('{').field("version", version_text(kvops_version())).field("library", f.loaded);
  json.field("onednn", kvops_onednn_library()).key("installed").open('[');
  for (auto& library : f.installed)
    json.open('{').field("path", library.path).field("version", library.version).close('}');
  json.close(']').key("backends").open('{');
  for (auto& state : f.backends) {
    json.key(state.name).open('{').field("missing", state.missing).key("devices").open('[');
    for (auto& [device, info] : state.devices) {
      json.open('{').field("index", device.index).field("name", info.name);
      json.field("arch", info.arch).field("memory_bytes", info.memory_bytes);
      json.field("cache_bytes", info.cache_bytes).field("compute_units", info.compute_units);
      json.field("warp_size", info.warp_size);
      json.field("fp8_e4m3", kvops_dtype_name(int32_t(info.fp8_e4m3))).close('}');
    }
    json.close(']').close('}');
  }
  json.close('}').key("environment").open('[');
  for (auto& setting : f.settings) json.value(setting);
  json.close(']').key("runs").open('[');
  for (auto& run : f.runs) {
    json.open('{').field("op", run.op).field("backend", run.backend).field("device", run.device);
    json.field("passed", run.outcome == GOLDEN_PASSED).close('}');
  }
  json.close(']').key("problems").open('[');
  for (auto& problem : f.problems) json.value(problem);
  json.close(']').field("healthy", f.problems.empty()).close('}').print();
}

void print_runs(const Findings& f, const char* backend) {
  std::vector<std::string> devices;
  for (auto& run : f.runs)
    if (run.backend == backend &&
        std::find(devices.begin(), devices.end(), run.device) == devices.end())
      devices.push_back(run.device);
  for (auto& device : devices) {
    auto here = [&](const Run& run) { return run.backend == backend && run.device == device; };
    auto passed = [&](const Run& run) { return here(run) && run.outcome == GOLDEN_PASSED; };
    std::printf("         %td of %td operators ran and were right on %s\n",
                std::count_if(f.runs.begin(), f.runs.end(), passed),
                std::count_if(f.runs.begin(), f.runs.end(), here), device.c_str());
  }
}

void print_text(const Findings& f) {
  std::printf("kvops %s\nlibrary  %s\n", version_text(kvops_version()).c_str(), f.loaded.c_str());
  for (auto& library : f.installed)
    std::printf("found    %s  %s\n", library.path.c_str(), library.version.c_str());
  std::printf("oneDNN   %s\n", kvops_onednn_library());
  for (auto& setting : f.settings) std::printf("setting  %s\n", setting.c_str());
  for (auto& state : f.backends) {
    if (!state.missing.empty()) std::printf("%-8s no: %s\n", state.name, state.missing.c_str());
    for (auto& [device, info] : state.devices)
      std::printf("%-8s %s, %s, %lld units, %.1f GiB, cache %.0f MiB, fp8 is %s\n", state.name,
                  info.name, info.arch, (long long)info.compute_units,
                  double(info.memory_bytes) / (1 << 30), double(info.cache_bytes) / (1 << 20),
                  kvops_dtype_name(int32_t(info.fp8_e4m3)));
    print_runs(f, state.name);
  }
  for (auto& problem : f.problems) std::printf("PROBLEM  %s\n", problem.c_str());
  if (f.problems.empty()) std::printf("all is well\n");
}

}  // namespace

int doctor(const DoctorOptions& options) {
  auto findings = examine(options);
  options.json ? print_json(findings) : print_text(findings);
  return !findings.problems.empty();
}

}  // namespace kvops
