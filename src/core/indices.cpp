// The first bad index or scale of a call, found on the host.
#include "core/indices.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/bound.h"
#include "core/error.h"

namespace kvops {
namespace {

// The values of an i32, i64 or f32 tensor, in C order, copied from wherever they are.
struct Values {
  const kvops_tensor& tensor;
  std::vector<char> bytes;  // of the whole span
  int64_t low = 0;          // elements before data

  explicit Values(const kvops_tensor& t) : tensor(t) {}

  kvops_status read(const DeviceApi& device, const Bound& bound) {
    int64_t high = 0;
    for (int i = 0; i < tensor.rank; ++i) {
      if (!tensor.shape[i]) return KVOPS_OK;
      int64_t reach = (tensor.shape[i] - 1) * tensor.stride[i];
      (reach < 0 ? low : high) += reach;
    }
    int64_t size = dtype(tensor.dtype).size;
    bytes.resize(size_t((high - low + 1) * size));
    auto* from = static_cast<const char*>(tensor.data) + low * size;
    int32_t index = bound.device.index;
    if (auto s = device.copy(index, bound.stream, bytes.data(), from, int64_t(bytes.size())))
      return s;
    return device.synchronize(index, bound.stream);
  }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < tensor.rank; ++i) n *= tensor.shape[i];
    return n;
  }
  int64_t offset_of(int64_t i) const {
    int64_t offset = -low;
    for (int axis = tensor.rank - 1; axis >= 0; --axis) {
      offset += i % tensor.shape[axis] * tensor.stride[axis];
      i /= tensor.shape[axis];
    }
    return offset;
  }
  int64_t at(int64_t i) const {
    int64_t offset = offset_of(i);
    if (tensor.dtype == KVOPS_I64) return reinterpret_cast<const int64_t*>(bytes.data())[offset];
    return reinterpret_cast<const int32_t*>(bytes.data())[offset];
  }
  float real_at(int64_t i) const {
    return reinterpret_cast<const float*>(bytes.data())[offset_of(i)];
  }
};

kvops_status bad(const Contract& c, const Arg& a, int64_t element, int64_t value, int64_t bound) {
  return fail_at(element, KVOPS_INVALID_ARGUMENT, c.op, a.name,
                 "element %lld is %lld, expected less than %lld", (long long)element,
                 (long long)value, (long long)bound);
}

// Every live entry of a block table: those of row r that hold tokens [first, length) of it.
kvops_status check_blocks(const Call& call, const Rule& r, int64_t bound, const Values& table,
                          const Values& lengths) {
  auto& c = call.contract;
  int64_t block = 0, window = 0, width = table.tensor.shape[1];
  for (int i = 0; i < c.num_symbols; ++i) {
    if (c.symbols[i] == "block") block = call.value[i];
    if (c.symbols[i] == "window") window = call.value[i];
  }
  for (int64_t row = 0; block > 0 && row < lengths.count(); ++row) {
    int64_t length = std::min(lengths.at(row), width * block);
    int64_t first = window > 0 ? std::max<int64_t>(0, length - window) / block : 0;
    for (int64_t column = first; column * block < length; ++column) {
      int64_t i = row * width + column, value = table.at(i);
      if (value < 0 || value >= bound) return bad(c, c.args[r.arg], i, value, bound);
    }
  }
  return KVOPS_OK;
}

kvops_status check_scales(const Contract& c, const Arg& a, const Values& values) {
  for (int64_t i = 0; i < values.count(); ++i) {
    float scale = values.real_at(i);
    if (!(scale > 0 && std::isfinite(scale)))
      return fail_at(i, KVOPS_INVALID_ARGUMENT, c.op, a.name,
                     "element %lld is %g, expected a positive finite number", (long long)i,
                     double(scale));
  }
  return KVOPS_OK;
}

kvops_status check(const Call& call, const Rule& r, const DeviceApi& device, const Bound& bound) {
  auto& c = call.contract;
  auto& tensor = call.tensor_of(c.args[r.arg]);
  int64_t limit = 0;
  bool scales = r.kind == RuleKind::scales;
  if (Call::absent(tensor) || (!scales && call.eval(r.lhs, limit) != Eval::ok)) return KVOPS_OK;
  Values values(tensor);
  if (auto s = values.read(device, bound)) return s;
  if (scales) return check_scales(c, c.args[r.arg], values);
  if (r.kind == RuleKind::blocks) {
    Values lengths(call.tensor_of(c.args[r.other]));
    if (auto s = lengths.read(device, bound)) return s;
    return check_blocks(call, r, limit, values, lengths);
  }
  for (int64_t i = 0; i < values.count(); ++i)
    if (values.at(i) >= limit) return bad(c, c.args[r.arg], i, values.at(i), limit);
  return KVOPS_OK;
}

}  // namespace

kvops_status check_indices(const Contract& c, const void* args, const DeviceApi& device,
                           const Bound& bound) {
  Call call(c, args, Mode::run);
  if (auto s = bind_symbols(call)) return s;
  bool active = true;
  for (auto& r : c.rules) {
    if (r.kind == RuleKind::when) active = call.test(r) == Truth::yes;
    bool checked =
        r.kind == RuleKind::index || r.kind == RuleKind::blocks || r.kind == RuleKind::scales;
    if (!checked || !active) continue;
    if (auto s = check(call, r, device, bound)) return s;
  }
  return KVOPS_OK;
}

}  // namespace kvops
