// The `kvops` program: doctor, verify, bench. Options are parsed here; exit status 0 when all is
// well, 1 when something is wrong with the library or a test, others for a wrong command line.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "commands.h"
#include "installed.h"

namespace kvops {

kvops_device device_named(const std::string& name) {
  auto colon = name.find(':');
  auto type = name.substr(0, colon);
  kvops_device device = {0, 0};
  device.type = type == "cpu"    ? KVOPS_CPU
                : type == "cuda" ? KVOPS_CUDA
                : type == "hip"  ? KVOPS_HIP
                                 : 0;
  if (colon != std::string::npos) device.index = std::atoi(name.c_str() + colon + 1);
  return device;
}

const char* device_name(int32_t type) {
  return type == KVOPS_CPU ? "cpu" : type == KVOPS_CUDA ? "cuda" : "hip";
}

std::string version_text(int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

std::string data_folder(const std::string& option) {
  if (!option.empty()) return option;
  std::error_code ignored;
  auto program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return program.parent_path().parent_path() / "share" / "kvops";
}

void progress(const std::string& text) {
  static const bool kTerminal = isatty(STDERR_FILENO) != 0;
  if (!kTerminal) return;
  std::fprintf(stderr, "\r\033[K%.*s", 110, text.c_str());
  std::fflush(stderr);
}

namespace {

const char* check_device(const std::string& name) {
  return device_named(name).type ? "" : "expected cpu, cuda, hip or cuda:N";
}

int run(int argc, char** argv) {
  CLI::App app("KV-cache, attention, norm, rotary and activation operators: libkvops.so");
  app.set_version_flag("--version",
                       [] { return version_text(kvops_version()) + " " + loaded_library(); });
  app.require_subcommand(1);
  auto device = [](const std::string& name) { return std::string(check_device(name)); };
  const char* data_help = "folder with golden/ and cases/ (default: the installed one)";

  DoctorOptions d;
  auto* doctor_command = app.add_subcommand("doctor", "What is installed here, and does it run?");
  doctor_command->add_flag("--json", d.json, "machine-readable");
  doctor_command->add_option("--data", d.data, data_help);

  VerifyOptions v;
  auto* verify_command = app.add_subcommand("verify", "Runs the golden cases and compares");
  verify_command->add_option("op", v.ops, "operators (default: all)");
  verify_command->add_option("--device", v.device, "cpu, cuda, hip (default: all)")->check(device);
  verify_command->add_flag("--json", v.json, "machine-readable");
  verify_command->add_option("--data", v.data, data_help);

  BenchOptions b;
  auto* bench_command = app.add_subcommand("bench", "Times operators against a copy of the bytes");
  bench_command->add_option("op", b.op, "an operator, or all")->required();
  bench_command->add_option("case", b.name, "lines of cases/<op>.txt: \"a,b\" (default: all)");
  bench_command->add_option("--line", b.line, "a line of your own: \"n=1,64 d=4096 T=bf16\"");
  bench_command->add_option("--device", b.device, "cpu, cuda, cuda:1, hip")->check(device);
  bench_command->add_option("--threads", b.threads, "of the CPU (default: all)");
  bench_command->add_option("--seconds", b.seconds, "per call measured (default: 1)");
  bench_command->add_flag("--resident", b.resident,
                          "every call and copy on the same memory, which a cache may hold");
  bench_command->add_flag("--list", b.list, "only lists the calls and their bytes");
  bench_command->add_flag("--json", b.json, "machine-readable");
  bench_command->add_option("--data", b.data, data_help);

  CLI11_PARSE(app, argc, argv);
  if (*doctor_command) return doctor(d);
  return *verify_command ? verify(v) : bench(b);
}

}  // namespace
}  // namespace kvops

int main(int argc, char** argv) {
  try {
    return kvops::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kvops: %s\n", e.what());
    return 1;
  }
}
