// Weights are random bits with exponents near that of 1, so that products are ordinary numbers.
#include "handles.h"

#include <cstring>
#include <random>

namespace harness {
namespace {

kvops_status release(int64_t handle) {
  kvops_release_dnnl_matmul_handler_args args = {};
  args.struct_size = sizeof args;
  args.handle = handle;
  return kvops_release_dnnl_matmul_handler(&args);
}

// What a call says about its weight.
struct Weight {
  int64_t k = 0, n = 0;
  kvops_dtype dtype = 0, out = 0;
  bool scaled = false, dynamic = false;
};

bool is_scaled(const kvops_op_info& op) { return !std::strcmp(op.name, "onednn_scaled_mm"); }

bool weight_of(const kvops_op_info& op, const void* args, Weight& w) {
  kvops_tensor input = {}, out = {}, scale = {};
  auto* bytes = static_cast<const char*>(args);
  for (size_t i = 0; i < op.num_args; ++i) {
    auto* to = !std::strcmp(op.args[i]->name, "input")         ? &input
               : !std::strcmp(op.args[i]->name, "out")         ? &out
               : !std::strcmp(op.args[i]->name, "input_scale") ? &scale
                                                               : nullptr;
    if (to) std::memcpy(to, bytes + op.args[i]->offset, sizeof *to);
  }
  if (input.rank != 2 || out.rank != 2) return false;
  w = {input.shape[1], out.shape[1], input.dtype, out.dtype, is_scaled(op), false};
  w.dynamic = scale.rank > 0 && scale.shape[0] == input.shape[0] && input.shape[0] != 1;
  constexpr int64_t kMost = int64_t{1} << 32;
  return w.k > 0 && w.n > 0 && w.k < kMost / w.n && kvops_dtype_size(w.dtype) > 0;
}

std::vector<char> random_weight(const Weight& w) {
  const int64_t size = kvops_dtype_size(w.dtype), count = w.k * w.n;
  std::vector<char> data(size_t(count * size));
  std::mt19937_64 random(uint64_t(w.k * 1000003 + w.n));
  const int mantissa = w.dtype == KVOPS_F32 ? 23 : w.dtype == KVOPS_BF16 ? 7 : 10;
  const uint32_t low = w.dtype == KVOPS_F16 ? 13 : 125;
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = uint32_t(random());
    uint32_t value = (low + (bits >> 24) % 3) << mantissa | (bits & ((1u << mantissa) - 1));
    if (bits >> 31) value |= uint32_t{1} << (8 * size - 1);
    if (size == 1) value = bits;
    std::memcpy(&data[size_t(i * size)], &value, size_t(size));
  }
  return data;
}

// 0: the library refuses.
int64_t create(const Weight& w) {
  auto data = random_weight(w);
  int64_t handle = 0;
  const int64_t shape[] = {w.k, w.n};
  const kvops_device cpu = {KVOPS_CPU, 0};
  auto weight = kvops_dense(data.data(), cpu, nullptr, w.dtype, 2, shape);
  auto number = kvops_dense(&handle, cpu, nullptr, KVOPS_I64, 0, shape);
  if (!w.scaled) {
    kvops_create_onednn_mm_args args = {};
    args.struct_size = sizeof args;
    args.weight = weight;
    args.handle = number;
    return kvops_create_onednn_mm(&args) ? 0 : handle;
  }
  float scale = 0.01F;
  const int64_t one = 1;
  kvops_create_onednn_scaled_mm_args args = {};
  args.struct_size = sizeof args;
  args.weight = weight;
  args.weight_scales = kvops_dense(&scale, cpu, nullptr, KVOPS_F32, 1, &one);
  args.handle = number;
  args.out_dtype = w.out;
  args.dynamic_act_quant = w.dynamic;
  args.use_azp = 1;
  return kvops_create_onednn_scaled_mm(&args) ? 0 : handle;
}

}  // namespace

const kvops_arg_info* handle_argument(const kvops_op_info& op) {
  for (size_t i = 0; i < op.num_args; ++i)
    if (op.args[i]->kind == KVOPS_ARG_INT && !std::strcmp(op.args[i]->name, "handle"))
      return op.args[i];
  return nullptr;
}

int64_t weight_bytes(const kvops_op_info& op, const void* args) {
  Weight w;
  if (!handle_argument(op) || !weight_of(op, args, w)) return 0;
  return w.k * w.n * kvops_dtype_size(w.dtype);
}

bool Handles::give(const kvops_op_info& op, void* args, bool share) {
  auto* argument = handle_argument(op);
  if (!argument) return false;
  Weight w;
  const bool releases = op.num_args == 1;
  if (releases) w = {2, 2, KVOPS_F32, KVOPS_F32, false, false};
  if (!releases && !weight_of(op, args, w)) return false;
  std::string key;
  for (int64_t part : {w.k, w.n, int64_t{w.dtype}, int64_t{w.out}, int64_t{w.dynamic}})
    key += std::to_string(part) + " ";
  int64_t handle = share && !releases ? shared_[key] : 0;
  if (!handle) {
    if (all_.size() > 1000) clear();
    handle = create(w);
    if (!handle) return false;
    if (!releases) all_.push_back(handle);
    if (share && !releases) shared_[key] = handle;
  }
  std::memcpy(static_cast<char*>(args) + argument->offset, &handle, sizeof handle);
  return true;
}

void Handles::keep(const kvops_op_info& op, const void* args) {
  for (size_t i = 0; i < op.num_args; ++i) {
    auto* a = op.args[i];
    if (a->kind != KVOPS_ARG_TENSOR || std::strcmp(a->name, "handle") != 0) continue;
    kvops_tensor t;
    std::memcpy(&t, static_cast<const char*>(args) + a->offset, sizeof t);
    int64_t handle;
    std::memcpy(&handle, t.data, sizeof handle);
    all_.push_back(handle);
  }
}

void Handles::clear() {
  for (auto handle : all_) release(handle);
  all_.clear();
  shared_.clear();
}

}  // namespace harness
