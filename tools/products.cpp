// Products with a unit matrix, in f32 and in int8; every operator that makes, takes or releases a
// handle runs once.
#include "products.h"

#include <cstdint>

#include "kvcache_ops.h"

namespace kvops {
namespace {

constexpr int64_t kSize = 5, kRows = 3;

template <class T>
kvops_tensor tensor(T* data, kvops_dtype dtype, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, columns};
  return kvops_dense(data, {KVOPS_CPU, 0}, nullptr, dtype, 2, shape);
}
kvops_tensor number(int64_t* handle) {
  return kvops_dense(handle, {KVOPS_CPU, 0}, nullptr, KVOPS_I64, 0, nullptr);
}
template <class Args>
Args make() {
  Args args = {};
  args.struct_size = sizeof args;
  return args;
}

struct Runner {
  std::vector<ProductRun> runs;

  bool add(const char* op, kvops_status status, bool right = true) {
    runs.push_back({op, status ? kvops_last_error() : right ? "" : "the product is wrong"});
    return runs.back().problem.empty();
  }

  void floats() {
    float weight[kSize * kSize] = {}, input[kRows * kSize], out[kRows * kSize] = {};
    for (int i = 0; i < kSize; ++i) weight[i * (kSize + 1)] = 1;
    for (int i = 0; i < kRows * kSize; ++i) input[i] = float(i) - 6;
    int64_t handle = 0;
    auto create = make<kvops_create_onednn_mm_args>();
    create.weight = tensor(weight, KVOPS_F32, kSize, kSize);
    create.handle = number(&handle);
    if (!add("create_onednn_mm", kvops_create_onednn_mm(&create))) return;
    auto multiply = make<kvops_onednn_mm_args>();
    multiply.input = tensor(input, KVOPS_F32, kRows, kSize);
    multiply.out = tensor(out, KVOPS_F32, kRows, kSize);
    multiply.handle = handle;
    const auto status = kvops_onednn_mm(&multiply);
    bool right = true;
    for (int i = 0; i < kRows * kSize; ++i) right = right && out[i] == input[i];
    add("onednn_mm", status, right);
    auto release = make<kvops_release_dnnl_matmul_handler_args>();
    release.handle = handle;
    add("release_dnnl_matmul_handler", kvops_release_dnnl_matmul_handler(&release));
  }

  void bytes() {
    int8_t weight[kSize * kSize] = {}, input[kRows * kSize];
    float out[kRows * kSize] = {}, scale = 1;
    for (int i = 0; i < kSize; ++i) weight[i * (kSize + 1)] = 1;
    for (int i = 0; i < kRows * kSize; ++i) input[i] = int8_t(i - 6);
    int64_t handle = 0;
    auto create = make<kvops_create_onednn_scaled_mm_args>();
    create.weight = tensor(weight, KVOPS_I8, kSize, kSize);
    create.weight_scales = tensor(&scale, KVOPS_F32, 1, 1);
    create.weight_scales.rank = 1;
    create.handle = number(&handle);
    create.out_dtype = KVOPS_F32;
    if (!add("create_onednn_scaled_mm", kvops_create_onednn_scaled_mm(&create))) return;
    auto multiply = make<kvops_onednn_scaled_mm_args>();
    multiply.input = tensor(input, KVOPS_I8, kRows, kSize);
    multiply.input_scale = create.weight_scales;
    multiply.out = tensor(out, KVOPS_F32, kRows, kSize);
    multiply.handle = handle;
    const auto status = kvops_onednn_scaled_mm(&multiply);
    bool right = true;
    for (int i = 0; i < kRows * kSize; ++i) right = right && out[i] == float(input[i]);
    add("onednn_scaled_mm", status, right);
    auto release = make<kvops_release_dnnl_matmul_handler_args>();
    release.handle = handle;
    kvops_release_dnnl_matmul_handler(&release);
  }
};

}  // namespace

std::vector<ProductRun> run_products() {
  Runner runner;
  runner.floats();
  runner.bytes();
  return runner.runs;
}

bool is_product(const std::string& op) {
  return op.find("onednn") != op.npos || op.find("dnnl") != op.npos;
}

}  // namespace kvops
