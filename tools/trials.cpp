// Products with a unit matrix, in f32 and in int8, and the attention of two zero queries over three
// tokens: the mean of two values, then of three. Every operator that makes, takes or releases a
// handle or a plan runs once per instruction set.
#include "trials.h"

#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "kvcache_ops.h"

namespace kvops {
namespace {

constexpr int64_t kSize = 5, kRows = 3;

template <class T>
kvops_tensor tensor(T* data, kvops_dtype dtype, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, columns};
  return kvops_dense(data, {KVOPS_CPU, 0}, nullptr, dtype, 2, shape);
}
template <class T>
kvops_tensor tensor(std::vector<T>& data, kvops_dtype dtype, std::vector<int64_t> shape) {
  return kvops_dense(data.data(), {KVOPS_CPU, 0}, nullptr, dtype, int32_t(shape.size()),
                     shape.data());
}
kvops_tensor number(int64_t* handle) {
  return kvops_dense(handle, {KVOPS_CPU, 0}, nullptr, KVOPS_I64, 0, nullptr);
}
struct alignas(64) Line {
  char bytes[64];
};

template <class Args>
Args make() {
  Args args = {};
  args.struct_size = sizeof args;
  return args;
}

struct Runner {
  std::string device = {};
  std::vector<Trial> trials = {};

  bool add(const char* op, kvops_status status, bool right = true) {
    trials.push_back({op, device,
                      status  ? kvops_last_error()
                      : right ? ""
                              : "the result is wrong"});
    return trials.back().problem.empty();
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

  // One request of three tokens, the last two of them new, causal.
  void attention() {
    constexpr int64_t kBlock = 32, kHead = 32;
    std::vector<int32_t> lengths = {3}, starts = {0, 2}, table = {0};
    auto plan = make<kvops_cpu_attn_get_scheduler_metadata_args>();
    plan.seq_lens = tensor(lengths, KVOPS_I32, {1});
    plan.query_start_loc = tensor(starts, KVOPS_I32, {2});
    plan.num_heads = plan.num_kv_heads = plan.causal = 1;
    plan.head_size = kHead;
    plan.query_dtype = KVOPS_F32;
    plan.isa = KVOPS_CPU_ISA_VEC;
    plan.window_left = plan.window_right = -1;
    int64_t bytes = 0;
    auto status = kvops_cpu_attn_get_scheduler_metadata_size(&plan, &bytes);
    std::vector<Line> metadata(size_t(bytes) / sizeof(Line) + 1), scratch;
    plan.scheduler_metadata =
        kvops_dense(metadata.data(), {KVOPS_CPU, 0}, nullptr, KVOPS_U8, 1, &bytes);
    if (!status) status = kvops_cpu_attn_get_scheduler_metadata(&plan);
    if (!add("cpu_attn_get_scheduler_metadata", status)) return;

    std::vector<float> query(2 * kHead), keys(kBlock * kHead, 1), values(kBlock * kHead, NAN);
    std::vector<float> out(2 * kHead);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t d = 0; d < kHead; ++d) values[size_t(t * kHead + d)] = float(t + d);
    auto attend = make<kvops_cpu_attention_with_kv_cache_args>();
    attend.query = tensor(query, KVOPS_F32, {2, 1, kHead});
    attend.key_cache = tensor(keys, KVOPS_F32, {1, 1, kBlock, kHead});
    attend.value_cache = tensor(values, KVOPS_F32, {1, 1, kBlock, kHead});
    attend.query_start_loc = plan.query_start_loc;
    attend.seq_lens = plan.seq_lens;
    attend.block_table = tensor(table, KVOPS_I32, {1, 1});
    attend.scheduler_metadata = plan.scheduler_metadata;
    attend.out = tensor(out, KVOPS_F32, {2, 1, kHead});
    attend.scale = 1;
    attend.causal = 1;
    attend.window_left = attend.window_right = -1;
    status = kvops_cpu_attention_with_kv_cache_workspace(&attend, &bytes);
    scratch.resize(size_t(bytes) / sizeof(Line) + 1);
    attend.workspace = kvops_dense(scratch.data(), {KVOPS_CPU, 0}, nullptr, KVOPS_U8, 1, &bytes);
    if (!status) status = kvops_cpu_attention_with_kv_cache(&attend);
    bool right = true;
    for (int64_t i = 0; i < 2 * kHead; ++i) {
      const float mean = (i < kHead ? 0.5f : 1.0f) + float(i % kHead);
      right = right && std::fabs(out[size_t(i)] - mean) <= 1e-5f * mean;
    }
    add("cpu_attention_with_kv_cache", status, right);
  }
};

}  // namespace

std::vector<Trial> run_trials() {
  Runner runner;
  const bool forced = std::getenv("KVOPS_CPU_ISA");
  for (const char* isa : {"scalar", "sse4", "avx2", "avx3"}) {
    if (!forced && kvops_set_option("cpu_isa", isa)) continue;
    kvops_device_info info = {};
    info.struct_size = sizeof info;
    kvops_get_device_info({KVOPS_CPU, 0}, &info);
    runner.device = info.arch;
    runner.floats();
    runner.bytes();
    runner.attention();
    if (forced) break;
  }
  if (!forced) kvops_set_option("cpu_isa", "");
  return runner.trials;
}

bool has_trial(const std::string& op) {
  return op.find("onednn") != op.npos || op.find("dnnl") != op.npos ||
         op == "cpu_attn_get_scheduler_metadata" || op == "cpu_attention_with_kv_cache";
}

}  // namespace kvops
