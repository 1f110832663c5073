// The sub-commands of `kvops`, and what they share.
#pragma once
#include <string>
#include <vector>

#include "kvcache_ops.h"

namespace kvops {

struct DoctorOptions {
  bool json = false;
  std::string data;  // folder with golden/ and cases/
};
int doctor(const DoctorOptions& options);

struct VerifyOptions {
  std::string device;  // "": all that are here
  std::vector<std::string> ops;
  bool json = false;
  std::string data;
};
int verify(const VerifyOptions& options);

struct BenchOptions {
  std::string op, name, line, device = "cpu", data;
  int64_t threads = 0;  // 0: all that the process may use
  double seconds = 1;   // per call measured
  bool json = false;
  bool resident = false;  // the same memory for every call and every copy
  bool list = false;      // only says what would be measured
};
int bench(const BenchOptions& options);

// 1 cpu, 2 cuda, 10 hip; 0 for any other name. Accepts "cuda:1".
kvops_device device_named(const std::string& name);
const char* device_name(int32_t type);

// "0.1.0"
std::string version_text(int32_t version);

// The folder that the option names, else share/kvops beside the program's own folder.
std::string data_folder(const std::string& option);

// A line on stderr that the next one replaces; silent when stderr is no terminal. "" clears it.
void progress(const std::string& text);

}  // namespace kvops
