// oneDNN 3, opened when it is first wanted: libkvops loads without it, and its symbols stay apart
// from any other copy in the process (RTLD_LOCAL). onednn.cpp is the only file that knows its API.
//
// A OneDnnWeight is a packed weight and the primitives that multiply with it, one per number of
// rows, strides and threads. Those for up to kPreparedRows dense rows are made with it, others when
// they are first needed; the least recently used one goes when there are more than a limit.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "cpu/gemm.h"

namespace kvops::cpu {

// The option "onednn": a path, "off", or "" for the default: libdnnl.so.3 where the dynamic linker
// finds it. Weights packed before keep theirs.
bool set_onednn(std::string_view path);

struct OneDnnState {
  std::string path, version;
  std::string missing;  // why there is none; else ""
  std::string text;     // of kvops_onednn_library()
};
const OneDnnState& onednn_state();

inline constexpr int64_t kPreparedRows = 16;

// Columns of one panel of int8 products; see gemm_i8().
inline constexpr int64_t kPanelColumns = 256;

// Primitives that have been made in this process, for tests of who pays for them when.
int64_t onednn_primitives_made();

class OneDnnWeight {
 public:
  // Of the same tensors as gemm_pack(). Nothing when oneDNN is absent, or has no fast and exact
  // kernel for the type on this machine. primitives: the limit; >= 1.
  static std::unique_ptr<OneDnnWeight> pack(const GemmShape& shape, const kvops_tensor& weight,
                                            int64_t primitives);
  ~OneDnnWeight();

  // As gemm(), whose `packed` is not looked at. Bits may depend on the number of rows and threads.
  kvops_status multiply(const char* op, const Gemm& g);
  // As gemm_i8(), for a panel of kPanelColumns columns, or of those that are left.
  kvops_status multiply_i8(const char* op, const GemmI8& g);

 private:
  struct Parts;
  explicit OneDnnWeight(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace kvops::cpu
