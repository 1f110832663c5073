// Calls with tensors that are really there. The tensors live as long as the program.
#include "contract/values.h"

using namespace kvops;

namespace {

std::vector<std::vector<char>> storage;

void* filled(const kvops_tensor& t, int64_t value) {
  int64_t n = 1, size = kvops_dtype_size(t.dtype);
  for (int i = 0; i < t.rank; ++i) n += (t.shape[i] - 1) * t.stride[i];
  storage.emplace_back(size_t(n * size) + 8);
  char* data = storage.back().data();
  for (int64_t i = 0; i < n; ++i) std::memcpy(data + i * size, &value, size_t(size));
  return data;
}

constexpr int64_t kOne = 0x3F800000, kMinusOne = 0xBF800000;  // as bits of an f32

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

// An argument with memory of its own, every element of which is `value`.
void fill(ArgsCall& call, const char* name, int64_t value) {
  auto* a = call.find(name);
  if (!call.present(a)) return;
  auto t = call.tensor(a);
  t.data = filled(t, value);
  call.put(a, t);
}

// Every list is 0, 0, ...; behind the two entries that the counts allow it is out of order.
void fill_lists(ArgsCall& call, const Contract& c, const Rule& r) {
  const Arg& list = c.args[r.arg];
  fill(call, "q_seq_lens", 1);
  if (r.limit != r.arg) fill(call, c.args[r.limit].name, 1);
  if (r.other == r.arg) return;
  fill(call, c.args[r.other].name, 2);
  const auto& t = call.tensor(call.find(list.name));
  static_cast<int32_t*>(t.data)[t.shape[2] - 1] = r.cmp == Cmp::le ? -1 : 1;
}

// The second entry of every list and all after it are before the first one of the first list.
ArgsCall out_of_order(ArgsCall call, const Contract& c, const Rule& r) {
  fill(call, c.args[r.arg].name, r.cmp == Cmp::le ? -1 : 1);
  *static_cast<int32_t*>(call.tensor(call.find(c.args[r.arg].name)).data) = 0;
  return call;
}

}  // namespace

std::vector<ArgsCall> calls_with_values(const Contract& c, const ArgsCall& base) {
  ArgsCall zero = base;
  bool any = false;
  for (auto& r : c.rules) {
    if (!checks_values(r.kind)) continue;
    auto* a = base.find(c.args[r.arg].name);
    if (!base.present(a) && r.kind == RuleKind::scales) continue;
    if (!base.present(a) || has_strange_strides(base.tensor(a))) return {};
    auto t = base.tensor(a);
    const int64_t value = r.kind == RuleKind::scales ? kOne : 0;
    if (zero.tensor(a).data == t.data) t.data = filled(t, value), zero.put(a, t);
    any = true;
    if (r.kind == RuleKind::list) fill_lists(zero, c, r);
    if (r.kind < RuleKind::blocks) continue;
    auto* lengths = c.args[r.other].name;
    fill(zero, lengths, 1);
    if (r.kind == RuleKind::gather) begin_at_zero(zero, zero.tensor(zero.find(lengths)));
  }
  if (!any) return {};
  std::vector<ArgsCall> calls = {zero};
  for (auto& r : c.rules) {
    if (!checks_values(r.kind) || !base.present(base.find(c.args[r.arg].name))) continue;
    auto call = zero;
    fill(call, c.args[r.arg].name, r.kind == RuleKind::scales ? kMinusOne : INT32_MAX);
    calls.push_back(call);
    if (r.kind == RuleKind::list) calls.push_back(out_of_order(zero, c, r));
  }
  return calls;
}
