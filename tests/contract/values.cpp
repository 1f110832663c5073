// Calls with tensors that are really there. The tensors live as long as the program.
#include "contract/values.h"

using namespace kvops;

namespace {

std::vector<std::vector<char>> storage;

void* filled(const kvops_tensor& t, int64_t value) {
  int64_t n = 1, size = kvops_dtype_size(t.dtype);
  for (int i = 0; i < t.rank; ++i) n *= 1 + (t.shape[i] - 1) * t.stride[i];
  storage.emplace_back(size_t(n * size) + 8);
  char* data = storage.back().data();
  for (int64_t i = 0; i < n; ++i) std::memcpy(data + i * size, &value, size_t(size));
  return data;
}

constexpr int64_t kOne = 0x3F800000, kMinusOne = 0xBF800000;  // as bits of an f32

// Rules about what is in memory.
bool checks_values(const Rule& r) {
  return r.kind >= RuleKind::index || r.kind == RuleKind::scales;
}

bool has_strange_strides(const kvops_tensor& t) {
  for (int i = 0; i < t.rank; ++i)
    if (t.stride[i] < 0 || t.shape[i] < 1 || t.shape[i] > 1 << 20) return true;
  return false;
}

// The first request of a gather has a row, at position 0.
void begin_at_zero(ArgsCall& call, const kvops_tensor& starts) {
  std::memset(starts.data, 0, 4);
  auto* a = call.find("seq_starts");
  if (!call.present(a)) return;
  auto t = call.tensor(a);
  t.data = filled(t, 0);
  call.put(a, t);
}

}  // namespace

std::vector<ArgsCall> calls_with_values(const Contract& c, const ArgsCall& base) {
  ArgsCall zero = base;
  bool any = false;
  for (auto& r : c.rules) {
    if (!checks_values(r)) continue;
    auto* a = base.find(c.args[r.arg].name);
    if (!base.present(a) && r.kind == RuleKind::scales) continue;
    if (!base.present(a) || has_strange_strides(base.tensor(a))) return {};
    auto t = base.tensor(a);
    const int64_t value = r.kind == RuleKind::scales ? kOne : 0;
    if (zero.tensor(a).data == t.data) t.data = filled(t, value), zero.put(a, t);
    any = true;
    if (r.kind < RuleKind::blocks) continue;
    auto* lengths = base.find(c.args[r.other].name);
    t = base.tensor(lengths);
    t.data = filled(t, 1);
    zero.put(lengths, t);
    if (r.kind == RuleKind::gather) begin_at_zero(zero, t);
  }
  if (!any) return {};
  std::vector<ArgsCall> calls = {zero};
  for (auto& r : c.rules) {
    if (!checks_values(r)) continue;
    auto call = zero;
    auto* a = base.find(c.args[r.arg].name);
    if (!base.present(a)) continue;
    auto t = base.tensor(a);
    t.data = filled(t, r.kind == RuleKind::scales ? kMinusOne : INT32_MAX);
    call.put(a, t);
    calls.push_back(call);
  }
  return calls;
}
