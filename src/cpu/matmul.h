// Weights that were packed by create_onednn_mm and create_onednn_scaled_mm, and the numbers under
// which callers know them: (generation << 24) + index + 1 of a slot in a table. The generation of a
// slot grows with every release, so that a number is never used again. A product holds its weight:
// a release from another thread lets it end first.
#pragma once
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "cpu/gemm.h"

namespace kvops::cpu {

class OneDnnWeight;

// Guards the table of handles and the primitives of weights; held across fork().
extern std::mutex matmul_mutex;

// Memory aligned as gemm.h wants it.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  // Large ones in huge pages where the system has some: half of packing is the kernel's work for
  // small ones, and products look fewer of them up.
  explicit AlignedBytes(size_t bytes);
  std::byte* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

// The elements of a matrix, row by row.
AlignedBytes dense_copy(const kvops_tensor& matrix);

struct MatmulWeight {
  GemmShape shape;
  std::unique_ptr<OneDnnWeight> onednn;  // one of the two
  AlignedBytes packed;

  // Of create_onednn_scaled_mm alone.
  bool is_scaled = false, dynamic = false, has_azp = false;
  kvops_dtype out_dtype = 0;
  std::vector<float> scales;  // n
  std::vector<int32_t> sums;  // n: of the weight's columns

  MatmulWeight();
  ~MatmulWeight();
};

// Packs for oneDNN where it can be used, else for our own product. op: the operator whose
// implementation KVOPS_IMPL may force: "onednn" or "highway".
kvops_status pack_weight(const char* creator, const char* op, const kvops_tensor& weight,
                         int64_t primitive_cache_size, MatmulWeight& packed);

int64_t add_weight(std::shared_ptr<MatmulWeight> weight);

// Nothing, and the thread's last error, when there is no such handle or it is of the other kind.
std::shared_ptr<MatmulWeight> find_weight(const char* op, int64_t handle, bool is_scaled);

// Do input and out of a product fit the weight?
kvops_status check_product(const char* op, const MatmulWeight& weight, const kvops_tensor& input,
                           const kvops_tensor& out);

kvops_status release_weight(const char* op, int64_t handle);

}  // namespace kvops::cpu
