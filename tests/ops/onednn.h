// What the tests of onednn_mm and onednn_scaled_mm share: weights with handles, who multiplies.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "kvcache_ops/onednn.h"
#include "ops/rows.h"

namespace tests {

inline bool has_onednn() { return std::string(kvops_onednn_library()).rfind("none", 0) != 0; }

// Who multiplies with weights that are packed from now on.
enum class By { onednn, highway, absent };
inline void choose(By by) {
  const char* ours = "onednn_mm:highway,onednn_scaled_mm:highway";
  CHECK_OK(kvops_set_option("impl", by == By::highway ? ours : ""));
  CHECK_OK(kvops_set_option("onednn", by == By::absent ? "/nowhere/libdnnl.so.3" : ""));
}

// Runs body with everybody who can multiply here: oneDNN where it is installed, our own product,
// and our own because there is no oneDNN at the path that is given.
template <class F>
void by_everybody(F&& body) {
  choose(By::onednn);
  const bool installed = has_onednn();
  for (auto [by, name] : {std::pair{By::onednn, "oneDNN"}, std::pair{By::highway, "highway"},
                          std::pair{By::absent, "no oneDNN"}}) {
    if (by == By::onednn && !installed) continue;
    choose(by);
    INFO(name);
    body(by);
  }
  choose(By::onednn);
}

// A handle that is released in the end.
class Handle {
 public:
  Handle() = default;
  Handle(const Handle&) = delete;
  ~Handle() {
    if (number) release();
  }
  kvops_status release() {
    auto a = make<kvops_release_dnnl_matmul_handler_args>();
    a.handle = std::exchange(number, 0);
    return kvops_release_dnnl_matmul_handler(&a);
  }
  kvops_tensor tensor() { return tests::tensor(&number, KVOPS_I64, {}); }

  int64_t number = 0;
};

inline kvops_status create_mm(Handle& handle, const kvops_tensor& weight, int64_t primitives = 0) {
  auto a = make<kvops_create_onednn_mm_args>();
  a.weight = weight;
  a.handle = handle.tensor();
  a.primitive_cache_size = primitives;
  return kvops_create_onednn_mm(&a);
}

inline kvops_status multiply(int64_t handle, const kvops_tensor& input, const kvops_tensor& out,
                             const kvops_tensor& bias = {}) {
  auto a = make<kvops_onednn_mm_args>();
  a.input = input;
  a.bias = bias;
  a.out = out;
  a.handle = handle;
  return kvops_onednn_mm(&a);
}

}  // namespace tests
