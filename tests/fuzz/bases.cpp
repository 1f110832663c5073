// The extents of a legal line are drawn anew, name by name, as long as the call stays legal.
#include "fuzz/bases.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "contract/shapes.h"
#include "harness/plan.h"

using std::string;

int64_t elements_of(const kvops_tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank; ++i)
    if (t.shape[i] < 0 || __builtin_mul_overflow(n, t.shape[i], &n)) return INT64_MAX;
  return n;
}

bool span_of(const kvops_tensor& t, int64_t& bytes, int64_t& before) {
  bytes = before = 0;
  if (t.rank < 0 || t.rank > KVOPS_MAX_RANK) return false;
  int64_t n = elements_of(t), size = kvops_dtype_size(t.dtype), low = 0, high = 0;
  if (n > 1 << 14 || !size) return false;
  if (!n) return true;
  for (int i = 0; i < t.rank; ++i) {
    int64_t reach;
    if (t.shape[i] == 1) continue;
    if (__builtin_mul_overflow(t.shape[i] - 1, t.stride[i], &reach)) return false;
    if (__builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high))
      return false;
  }
  const int64_t most = 1 << 20;
  if (low < -most || high > most) return false;
  before = -low * size;
  bytes = (high - low + 1) * size;
  return bytes <= most;
}

namespace {

bool accepted(const ArgsCall& c) {
  return kvops_query(c.op->name, c.bytes.data(), nullptr) == KVOPS_OK;
}

int64_t total_bytes(const ArgsCall& c) {
  int64_t sum = 0;
  for (size_t i = 0; i < c.op->num_args; ++i) {
    if (c.op->args[i]->kind != KVOPS_ARG_TENSOR) continue;
    int64_t bytes, before;
    if (!span_of(c.tensor(c.op->args[i]), bytes, before)) return INT64_MAX;
    sum += bytes;
  }
  return sum;
}

ArgsCall made_small(ArgsCall call, Random& random) {
  for (int round = 0; round < 3; ++round) {
    Names now(call);
    for (auto& [name, value] : now.values) {
      auto* a = call.find(name);
      if (a && a->values) continue;  // a flag or an enum
      for (int attempt = 0; attempt < 4; ++attempt) {
        int64_t n = random.of<int64_t>({0, 1, 1, 2, 2, 3, 4, 5, 8, 16, 24, 32, 64});
        if (value > 64 ? n > 64 : value <= 6 && random.one_in(2)) break;
        if (!n && !random.one_in(4)) continue;
        Names names(call);
        names.values[name] = n;
        ArgsCall changed = call;
        apply_names(changed, names, name);
        if (!accepted(changed)) continue;
        call = changed;
        break;
      }
    }
    if (total_bytes(call) < 16 << 10) break;
  }
  return call;
}

// Other dtypes for T, free strides: what a caller might as well pass.
void vary(ArgsCall& call, Random& random) {
  ArgsCall other = call;
  auto from = kvops_dtype(1 + random.below(3)), to = kvops_dtype(1 + random.below(3));
  for (size_t i = 0; i < call.op->num_args; ++i) {
    auto* a = call.op->args[i];
    if (a->kind != KVOPS_ARG_TENSOR || !other.present(a)) continue;
    auto t = other.tensor(a);
    if (t.dtype == from && string(a->type) != "f32") t.dtype = to;
    other.put(a, t);
  }
  if (accepted(other)) call = other;
  for (size_t i = 0; i < call.op->num_args; ++i) {
    auto* a = call.op->args[i];
    if (a->kind != KVOPS_ARG_TENSOR || !call.present(a) || random.one_in(2)) continue;
    auto t = call.tensor(a);
    if (t.rank < 1) continue;
    t.stride[random.below(t.rank)] *= random.of({2, 3, -1, -2});
    other = call;
    other.put(a, t);
    if (accepted(other)) call = other;
  }
}

// A workspace of the size that the call wants.
void fit_workspace(ArgsCall& call) {
  kvops_query_result q = {};
  q.struct_size = sizeof q;
  if (kvops_query(call.op->name, call.bytes.data(), &q)) return;
  for (size_t i = 0; i < call.op->num_args; ++i) {
    auto* a = call.op->args[i];
    if (a->kind != KVOPS_ARG_TENSOR || !(a->flags & KVOPS_ARG_SIZED) || !call.present(a)) continue;
    auto t = call.tensor(a);
    set_shape(t, {q.bytes});
    call.put(a, t);
  }
}

// A plan of the size that the call's requests want.
void fit_plan(ArgsCall& call) {
  const int64_t bytes = harness::plan_bytes(call.op->name, call.bytes.data());
  if (!bytes) return;
  auto* a = call.find("scheduler_metadata");
  auto t = call.tensor(a);
  set_shape(t, {bytes});
  call.put(a, t);
}

}  // namespace

std::vector<ArgsCall> make_bases(const std::vector<string>& paths, int each, Random& random) {
  std::vector<ArgsCall> lines, bases;
  for (auto& c : read_cases(paths)) {
    bool on_cpu = c.call.op->backends >> KVOPS_CPU & 1;
    if (c.legal && on_cpu && c.call.bytes.size() == c.call.op->args_size && accepted(c.call))
      lines.push_back(c.call);
  }
  size_t count;
  auto* ops = kvops_ops(&count);
  for (size_t i = 0; i < count; ++i) {
    std::vector<ArgsCall> mine;
    for (auto& l : lines)
      if (l.op == ops[i]) mine.push_back(l);
    if (mine.empty() && ops[i]->backends >> KVOPS_CPU & 1)
      std::printf("no legal line: %s\n", ops[i]->name), std::exit(1);
    size_t wanted = bases.size() + size_t(mine.empty() ? 0 : each);
    for (int attempt = 0; bases.size() < wanted && attempt < 20 * each; ++attempt) {
      auto call = mine[size_t(random.below(int64_t(mine.size())))];
      if (random.one_in(2)) call = with_all(call);
      call = made_small(call, random);
      vary(call, random);
      fit_plan(call);
      fit_workspace(call);
      if (total_bytes(call) < 64 << 10) bases.push_back(call);
    }
    if (bases.size() < wanted) std::printf("%s: no small legal call\n", ops[i]->name), std::exit(1);
  }
  return bases;
}
