// One kind of change per function; each picks its argument at random.
#include "fuzz/change.h"

#include <cmath>

const char* const kChanges[kNumChanges] = {
    "extent", "stride", "rank",   "dtype",  "swapped roles", "alias", "NULL or absent",
    "size",   "scalar", "values", "device", "workspace",     "names"};

Draft::Draft(const ArgsCall& base)
    : call(base),
      shares(base.op->num_args, -1),
      shift(base.op->num_args, 0),
      null(base.op->num_args, false) {}

bool holds_addresses(const kvops_op_info* op, const kvops_arg_info* a) {
  return (!std::strcmp(op->name, "swap_blocks_batch") && a->flags & KVOPS_ARG_HOST) ||
         std::strstr(a->name, "_ptrs");
}

namespace {

// A random argument of a kind; -1: there is none.
int pick(const Draft& d, Random& random, int kind, bool present) {
  auto* op = d.call.op;
  for (int attempt = 0; attempt < 20; ++attempt) {
    int i = int(random.below(int64_t(op->num_args)));
    if (op->args[i]->kind != kind) continue;
    if (!present || d.call.present(op->args[i])) return i;
  }
  return -1;
}

int64_t odd_number(Random& random) {
  return random.of<int64_t>(
      {-1, 0, 1, 2, 3, 5, 7, 64, 65, -100, 1 << 20, int64_t{1} << 40, INT64_MAX, INT64_MIN});
}

void change_tensor(Draft& d, Random& random, int kind) {
  int i = pick(d, random, KVOPS_ARG_TENSOR, true);
  if (i < 0) return;
  auto* a = d.call.op->args[i];
  auto t = d.call.tensor(a);
  int axis = t.rank > 0 && t.rank <= KVOPS_MAX_RANK ? int(random.below(t.rank)) : 0;
  if (kind == 0)
    t.shape[axis] =
        random.one_in(4) ? odd_number(random) : t.shape[axis] + random.of<int64_t>({-1, 1, 1, 2});
  if (kind == 1)
    t.stride[axis] = random.one_in(6) ? odd_number(random)
                                      : t.stride[axis] * random.of<int64_t>({1, 2, 3, -1, -2}) +
                                            random.of<int64_t>({0, 0, 1, 5});
  if (kind == 2) {
    t.rank = random.one_in(4) ? random.of({-1, 0, 7, 1 << 20}) : t.rank + random.of({-1, 1});
    if (t.rank > 0 && t.rank <= KVOPS_MAX_RANK && random.one_in(2))
      t.shape[t.rank - 1] = 1, t.stride[t.rank - 1] = 1;
  }
  if (kind == 3) t.dtype = kvops_dtype(random.below(14) - 1);
  if (kind == 10) {
    int what = int(random.below(3));
    if (what == 0) t.device.type = random.of({0, 2, 3, 10, -1});
    if (what == 1) t.device.index = random.of({1, -1, 1 << 30});
    if (what == 2) t.stream = reinterpret_cast<void*>(random.below(3));
  }
  d.call.put(a, t);
}

void swap_roles(Draft& d, Random& random) {
  int i = pick(d, random, KVOPS_ARG_TENSOR, false), j = pick(d, random, KVOPS_ARG_TENSOR, false);
  if (i < 0 || j < 0) return;
  auto *a = d.call.op->args[i], *b = d.call.op->args[j];
  if (holds_addresses(d.call.op, a) || holds_addresses(d.call.op, b)) return;
  auto t = d.call.tensor(a);
  d.call.put(a, d.call.tensor(b));
  d.call.put(b, t);
}

void alias(Draft& d, Random& random) {
  int i = pick(d, random, KVOPS_ARG_TENSOR, true), j = pick(d, random, KVOPS_ARG_TENSOR, true);
  if (i < 0 || j < 0 || i == j || d.shares[size_t(j)] >= 0) return;
  auto *a = d.call.op->args[i], *b = d.call.op->args[j];
  if (holds_addresses(d.call.op, a) || holds_addresses(d.call.op, b)) return;
  for (int other : d.shares)
    if (other == i) return;  // others use the memory of i
  d.shares[size_t(i)] = j;
  d.shift[size_t(i)] = random.one_in(3) ? int(random.below(40)) : 0;
  if (random.one_in(3)) d.call.put(a, d.call.tensor(b));
}

void remove(Draft& d, Random& random) {
  int i = pick(d, random, KVOPS_ARG_TENSOR, true);
  if (i < 0) return;
  if (random.one_in(2))
    d.call.put(d.call.op->args[i], kvops_tensor{});
  else
    d.null[size_t(i)] = true;
}

void resize_struct(Draft& d, Random& random) {
  size_t size = d.call.op->args_size;
  size = random.of<size_t>({0, 8, size - 8, size + 8, size + 40, size + 4, size_t(-1)});
  if (size < d.call.op->args_size + 100) d.call.set_size(size);
  std::memcpy(d.call.bytes.data(), &size, sizeof size);
  if (random.one_in(2) && size == d.call.op->args_size + 40) d.call.bytes[size - 1] = 1;
}

void change_scalar(Draft& d, Random& random) {
  int i = pick(d, random, random.one_in(2) ? KVOPS_ARG_INT : KVOPS_ARG_REAL, false);
  if (i < 0) return;
  auto* a = d.call.op->args[i];
  if (a->kind == KVOPS_ARG_REAL)
    d.call.put(a, random.of<double>({0, -1, 0.5, 1e-6, 3, 1e30, -1e300, NAN, INFINITY, -0.0}));
  else
    d.call.put(a, random.one_in(3) ? odd_number(random) : random.below(6));
}

void change_workspace(Draft& d, Random& random) {
  auto* op = d.call.op;
  for (size_t i = 0; i < op->num_args; ++i) {
    if (op->args[i]->kind != KVOPS_ARG_TENSOR || !(op->args[i]->flags & KVOPS_ARG_SIZED)) continue;
    auto t = d.call.tensor(op->args[i]);
    t.shape[0] += random.of<int64_t>({-1, 1, -64, 64, -t.shape[0]});
    d.call.put(op->args[i], t);
  }
}

// Names of dimensions in one tensor take the extent of another one: "heads" becomes "tokens".
void mix_extents(Draft& d, Random& random) {
  int i = pick(d, random, KVOPS_ARG_TENSOR, true), j = pick(d, random, KVOPS_ARG_TENSOR, true);
  if (i < 0 || j < 0) return;
  auto *a = d.call.op->args[i], *b = d.call.op->args[j];
  auto t = d.call.tensor(a), u = d.call.tensor(b);
  if (t.rank < 1 || u.rank < 1 || t.rank > KVOPS_MAX_RANK || u.rank > KVOPS_MAX_RANK) return;
  t.shape[random.below(t.rank)] = u.shape[random.below(u.rank)];
  d.call.put(a, t);
}

}  // namespace

int change(Draft& d, Random& random) {
  // Changes that often leave a call legal come up more often.
  int kind = random.of({0, 1, 1, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8, 8, 8, 8, 9, 9, 9, 9, 10, 11, 12});
  switch (kind) {
    case 4:
      swap_roles(d, random);
      break;
    case 5:
      alias(d, random);
      break;
    case 6:
      remove(d, random);
      break;
    case 7:
      resize_struct(d, random);
      break;
    case 8:
      change_scalar(d, random);
      break;
    case 9:
      d.wild_values = true;
      break;
    case 11:
      change_workspace(d, random);
      break;
    case 12:
      mix_extents(d, random);
      break;
    default:
      change_tensor(d, random, kind);
  }
  return kind;
}
