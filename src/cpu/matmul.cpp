// The table of packed weights, and who multiplies with them.
#include "cpu/matmul.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstring>

#include "core/error.h"
#include "core/options.h"
#include "core/view.h"
#include "cpu/isa.h"
#include "cpu/onednn.h"
#include "cpu/parallel.h"

namespace kvops::cpu {

constinit std::mutex matmul_mutex;

namespace {

constexpr int kIndexBits = 24;
constexpr int64_t kDefaultPrimitives = 128;

struct Slot {
  int64_t generation = 1;
  std::shared_ptr<MatmulWeight> weight;
};
struct Table {
  std::vector<Slot> slots;
  std::vector<size_t> free;

  // NULL: no such number.
  Slot* find(int64_t handle) {
    const int64_t index = (handle & ((int64_t{1} << kIndexBits) - 1)) - 1;
    if (handle <= 0 || index < 0 || index >= int64_t(slots.size())) return nullptr;
    auto& slot = slots[size_t(index)];
    return slot.weight && slot.generation == handle >> kIndexBits ? &slot : nullptr;
  }
};
// Never destroyed: handles are released by destructors that run while the process ends.
Table& table() {
  static auto& t = *new Table;
  return t;
}

[[gnu::constructor]] void watch_forks() {
  pthread_atfork([] { matmul_mutex.lock(); }, [] { matmul_mutex.unlock(); },
                 [] { matmul_mutex.unlock(); });
}

kvops_status fail_handle(const char* op, int64_t handle) {
  return fail(KVOPS_INVALID_ARGUMENT, op, "handle",
              "is %lld, expected the number of a weight that has not been released",
              (long long)handle);
}

}  // namespace

MatmulWeight::MatmulWeight() = default;
MatmulWeight::~MatmulWeight() = default;

AlignedBytes::AlignedBytes(size_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t unit = bytes >= 2 * kHuge ? kHuge : size_t{kGemmAlignment};
  const size_t whole = (bytes + unit - 1) & ~(unit - 1);
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(unit, whole)));
  if (!data_) throw std::bad_alloc();
  if (unit == kHuge) madvise(data_.get(), whole, MADV_HUGEPAGE);  // a wish: it may fail
}

AlignedBytes dense_copy(const kvops_tensor& matrix) {
  const int64_t size = dtype(matrix.dtype).size, rows = matrix.shape[0], columns = matrix.shape[1];
  AlignedBytes copy(size_t(rows * columns * size));
  const auto* from = static_cast<const std::byte*>(matrix.data);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      std::memcpy(copy.get() + (i * columns + j) * size,
                  from + (i * matrix.stride[0] + j * matrix.stride[1]) * size, size_t(size));
  return copy;
}

kvops_status pack_weight(const char* creator, const char* op, const kvops_tensor& weight,
                         int64_t primitive_cache_size, MatmulWeight& packed) {
  const auto forced = forced_implementation(op);
  auto& shape = packed.shape;
  shape = {weight.shape[0], weight.shape[1], weight.dtype};
  // oneDNN's threads and instruction sets are its own: a host's pool and a forced instruction set
  // are obeyed by our product. int8 panels are threaded by us, whoever multiplies them.
  const bool ours = forced == "highway" || !is_best_isa() ||
                    (forced.empty() && weight.dtype != KVOPS_I8 && has_host_pool());
  if (!ours)
    packed.onednn = OneDnnWeight::pack(
        shape, weight, primitive_cache_size ? primitive_cache_size : kDefaultPrimitives);
  if (packed.onednn) return KVOPS_OK;
  if (forced == "onednn") {
    const auto& state = onednn_state();
    return fail(KVOPS_UNAVAILABLE, creator, "", "oneDNN is forced, but %s",
                state.missing.empty() ? "has no kernel for this type here" : state.missing.c_str());
  }
  packed.packed = AlignedBytes(size_t(gemm_packed_bytes(shape)));
  gemm_pack(shape, weight, packed.packed.get());
  return KVOPS_OK;
}

int64_t add_weight(std::shared_ptr<MatmulWeight> weight) {
  std::lock_guard lock(matmul_mutex);
  auto& t = table();
  if (t.free.empty()) {
    t.free.reserve(t.slots.size() + 1);  // so that a release never allocates
    t.slots.emplace_back();
    t.free.push_back(t.slots.size() - 1);
  }
  const size_t index = t.free.back();
  t.free.pop_back();
  auto& slot = t.slots[index];
  slot.weight = std::move(weight);
  return slot.generation << kIndexBits | int64_t(index + 1);
}

std::shared_ptr<MatmulWeight> find_weight(const char* op, int64_t handle, bool is_scaled) {
  std::shared_ptr<MatmulWeight> weight;
  {
    std::lock_guard lock(matmul_mutex);
    if (auto* slot = table().find(handle)) weight = slot->weight;
  }
  if (!weight) {
    fail_handle(op, handle);
  } else if (weight->is_scaled != is_scaled) {
    fail(KVOPS_INVALID_ARGUMENT, op, "handle", "is of create_onednn_%s, expected create_%s",
         weight->is_scaled ? "scaled_mm" : "mm", op);
    weight.reset();
  }
  return weight;
}

kvops_status check_product(const char* op, const MatmulWeight& weight, const kvops_tensor& input,
                           const kvops_tensor& out) {
  auto check = [op](const char* name, const kvops_tensor& t, int64_t expected, const char* symbol) {
    return t.shape[1] == expected
               ? KVOPS_OK
               : fail(KVOPS_INVALID_ARGUMENT, op, name,
                      "shape[1] is %lld, expected %lld (%s of the handle's weight)",
                      (long long)t.shape[1], (long long)expected, symbol);
  };
  if (auto s = check("input", input, weight.shape.k, "k")) return s;
  return check("out", out, weight.shape.n, "n");
}

kvops_status release_weight(const char* op, int64_t handle) {
  std::shared_ptr<MatmulWeight> last;  // destroyed without the lock
  std::lock_guard lock(matmul_mutex);
  auto* slot = table().find(handle);
  if (!slot) return fail_handle(op, handle);
  last = std::move(slot->weight);
  slot->weight.reset();
  ++slot->generation;
  table().free.push_back(size_t(slot - table().slots.data()));
  return KVOPS_OK;
}

}  // namespace kvops::cpu
