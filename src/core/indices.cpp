// The first bad index, scale or entry of a list of a call, found on the host.
#include "core/indices.h"

#include <algorithm>
#include <cmath>
#include <optional>
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
    const auto* end = tensor.shape + tensor.rank;
    if (std::find(tensor.shape, end, 0) != end) return KVOPS_OK;  // its strides may be anything
    int64_t high = 0;
    for (int i = 0; i < tensor.rank; ++i) {
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

int64_t symbol_of(const Call& call, std::string_view name) {
  for (int i = 0; i < call.contract.num_symbols; ++i)
    if (call.contract.symbols[i] == name) return call.value[i];
  return -1;
}

// Every entry of a block table that positions [start, start + count) of request b need.
struct Positions {
  int64_t b, start, count;
};
kvops_status check_positions(const Call& call, const Rule& r, int64_t bound, const Values& table,
                             const Positions& need) {
  auto& c = call.contract;
  const int64_t width = table.tensor.shape[1], block = symbol_of(call, "block");
  const int64_t b = need.b, start = need.start, last = start + need.count - 1;
  if (start < 0 || last >= width * block)
    return fail_at(b, KVOPS_INVALID_ARGUMENT, c.op, c.args[r.other].name,
                   "request %lld needs position %lld, expected 0 to %lld (width * block - 1)",
                   (long long)b, (long long)(start < 0 ? start : last),
                   (long long)(width * block - 1));
  for (int64_t page = start / block; page <= last / block; ++page) {
    const int64_t i = b * width + page, value = table.at(i);
    if (value < 0 || value >= bound) return bad(c, c.args[r.arg], i, value, bound);
  }
  return KVOPS_OK;
}

// The values of the argument `name`; none when it is absent.
kvops_status read_optional(const Call& call, std::string_view name, const DeviceApi& device,
                           const Bound& bound, std::optional<Values>& values) {
  for (auto& a : call.contract.args) {
    if (a.name != name || Call::absent(call.tensor_of(a))) continue;
    values.emplace(call.tensor_of(a));
    return values->read(device, bound);
  }
  return KVOPS_OK;
}

// Rows [starts[b], starts[b + 1]) of the result belong to request b. Where the table lets there be
// any number of `starts`, the last one owns the rest.
kvops_status check_gather(const Call& call, const Rule& r, int64_t limit, const Values& table,
                          const Values& starts, const std::optional<Values>& seq_starts) {
  const int64_t batch = table.tensor.shape[0], rows = symbol_of(call, "rows");
  const bool with_end = symbol_of(call, "starts") < 0;
  const int64_t end = with_end ? std::min(starts.at(batch), rows) : rows;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t first = std::max<int64_t>(starts.at(b), 0);
    const int64_t last = std::min(b + 1 < batch ? starts.at(b + 1) : end, end);
    if (first >= last) continue;
    const int64_t start = first - starts.at(b) + (seq_starts ? seq_starts->at(b) : 0);
    if (auto s = check_positions(call, r, limit, table, {b, start, last - first})) return s;
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

// Lists of [batch, heads, entries] in the order that the rule says, their values below the length
// of the request. Lists of requests without queries are not read, nor entries past the counts.
kvops_status check_lists(const Call& call, const Rule& r, const DeviceApi& device,
                         const Bound& bound, const Values& lists) {
  auto& c = call.contract;
  std::optional<Values> counts, limits, queries;
  auto optional = [&](uint8_t arg, std::optional<Values>& values) {
    return arg == r.arg ? KVOPS_OK : read_optional(call, c.args[arg].name, device, bound, values);
  };
  if (auto s = optional(r.other, counts)) return s;
  if (auto s = optional(r.limit, limits)) return s;
  if (auto s = read_optional(call, "q_seq_lens", device, bound, queries)) return s;
  const int64_t heads = lists.tensor.shape[1], width = lists.tensor.shape[2];
  const bool ascending = r.cmp == Cmp::le;
  for (int64_t list = 0; list < lists.tensor.shape[0] * heads; ++list) {
    const int64_t b = list / heads, begin = list * width;
    if (queries && queries->at(b) <= 0) continue;
    const int64_t end =
        begin + std::clamp<int64_t>(counts ? counts->at(list % heads) : width, 0, width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t value = lists.at(i);
      if (limits && value >= limits->at(b)) return bad(c, c.args[r.arg], i, value, limits->at(b));
      if (i == begin || (ascending ? lists.at(i - 1) <= value : lists.at(i - 1) >= value)) continue;
      return fail_at(i, KVOPS_INVALID_ARGUMENT, c.op, c.args[r.arg].name,
                     "element %lld is %lld, expected at %s %lld (lists are %s)", (long long)i,
                     (long long)value, ascending ? "least" : "most", (long long)lists.at(i - 1),
                     ascending ? "ascending" : "descending");
    }
  }
  return KVOPS_OK;
}

kvops_status check(const Call& call, const Rule& r, const DeviceApi& device, const Bound& bound) {
  auto& c = call.contract;
  auto& tensor = call.tensor_of(c.args[r.arg]);
  int64_t limit = 0;
  const bool scales = r.kind == RuleKind::scales, bounded = r.kind >= RuleKind::index;
  if (Call::absent(tensor) || (bounded && call.eval(r.lhs, limit) != Eval::ok)) return KVOPS_OK;
  Values values(tensor);
  if (auto s = values.read(device, bound)) return s;
  if (scales) return check_scales(c, c.args[r.arg], values);
  if (!bounded) return check_lists(call, r, device, bound, values);
  if (r.kind >= RuleKind::blocks) {
    Values other(call.tensor_of(c.args[r.other]));
    if (auto s = other.read(device, bound)) return s;
    if (r.kind == RuleKind::blocks) return check_blocks(call, r, limit, values, other);
    std::optional<Values> seq_starts;
    if (auto s = read_optional(call, "seq_starts", device, bound, seq_starts)) return s;
    return check_gather(call, r, limit, values, other, seq_starts);
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
    if (!checks_values(r.kind) || !active) continue;
    if (auto s = check(call, r, device, bound)) return s;
  }
  return KVOPS_OK;
}

}  // namespace kvops
