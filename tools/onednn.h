// The second yardstick of `kvops bench`, for what multiplies matrices: oneDNN, called directly as
// its documentation says, with the layout of the weight that it likes best for this number of rows
// and memory objects that stay. The same library file as kvops uses, on as many threads.
//
//   onednn_mm, onednn_scaled_mm          the same product, without bias, scales and zero points
//   cpu_attention_with_kv_cache, bf16    a bf16 product of 512 rows with a weight of 4096 x 4096,
//                                        as long as it takes for as many multiply-adds
#pragma once
#include <memory>

#include "cases/layout.h"

namespace kvops {

class OneDnn {
 public:
  // Nothing: there is no oneDNN, it has no fast kernel for the type, or the call multiplies no
  // matrices, as decoding does not. span: of memory, through which successive products go.
  static std::unique_ptr<OneDnn> beside(const cases::Layout& layout, int64_t span, int threads);
  ~OneDnn();

  bool run(size_t i);
  // Multiply-adds of the call over those of one run.
  double share() const { return share_; }

 private:
  struct Parts;
  OneDnn();
  std::unique_ptr<Parts> parts_;
  double share_ = 1;
};

}  // namespace kvops
