// fuzz CALLS SEED FILE...: legal calls of the lines in the files, each with 0 to 3 fields changed,
// in one process under the address and undefined-behaviour sanitizers. Every accepted call is run
// for real: its tensors have exactly the memory they span. What is refused must change nothing,
// what runs must write only elements of written tensors. Reports counts per operator and reason.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "fuzz/arena.h"
#include "fuzz/bases.h"
#include "fuzz/change.h"
#include "harness/handles.h"
#include "harness/plan.h"

using std::string;

namespace {

struct Counts {
  int64_t calls = 0, run = 0, refused = 0, too_large = 0, trusted = 0;
};
std::map<string, Counts> per_op;
std::map<string, int64_t> reasons;
int64_t per_change[kNumChanges][2];  // drafts with such a change; of them accepted

[[noreturn]] void fatal(const Draft& d, int64_t number, const string& what) {
  std::printf("FAILED at call %lld, %s: %s\n  %s\n", (long long)number, d.call.op->name,
              what.c_str(), kvops_last_error());
  for (size_t i = 0; i < d.call.op->num_args; ++i) {
    auto* a = d.call.op->args[i];
    if (a->kind == KVOPS_ARG_INT)
      std::printf("  %s = %lld\n", a->name, (long long)d.call.integer(a));
    if (a->kind == KVOPS_ARG_REAL) std::printf("  %s = %g\n", a->name, d.call.get<double>(a));
    if (a->kind != KVOPS_ARG_TENSOR) continue;
    auto t = d.call.tensor(a);
    std::printf("  %s = %p %s rank %d", a->name, t.data, kvops_dtype_name(t.dtype), t.rank);
    for (int k = 0; k < std::clamp(t.rank, 0, KVOPS_MAX_RANK); ++k)
      std::printf(" %lld/%lld", (long long)t.shape[k], (long long)t.stride[k]);
    std::printf("\n");
  }
  std::exit(1);
}

// What the entries of a cache behind an address span, and how many bytes lie before the address.
// false: no bound is given, or it is much.
bool cache_span(const ArgsCall& call, int64_t& bytes, int64_t& before) {
  auto value = [&](const char* name) { return call.integer(call.find(name)); };
  constexpr int64_t kMost = 1 << 12;
  auto extent = [&](const char* name) {
    auto t = call.tensor(call.find(name));
    return t.rank == 3 ? std::clamp<int64_t>(t.shape[2], 0, kMost) : 0;
  };
  const int64_t blocks = value("num_blocks"), block = value("block_size");
  const int64_t step = value("block_stride"), entry = value("entry_stride");
  if (blocks < 1 || blocks > kMost || block < 1 || block > kMost || entry < 1 || entry > kMost ||
      step < -kMost || step > kMost)
    return false;
  const int64_t size = std::max<int64_t>(1, kvops_dtype_size(kvops_dtype(value("cache_dtype"))));
  const int64_t last = (blocks - 1) * step, row = extent("kv_c") + extent("k_pe");
  const int64_t record = value("format") == KVOPS_FORMAT_FP8_DS_MLA ? 656 : row;
  before = std::max<int64_t>(0, -last) * size;
  bytes = before + (std::max<int64_t>(0, last) + (block - 1) * entry + record) * size;
  return record <= entry && bytes <= kMost * 16;
}

struct Runner {
  Arena arena;
  Random random;
  harness::Handles handles;
  char *from = nullptr, *to = nullptr;  // memory behind the addresses of swap_blocks_batch
  char* cache = nullptr;                // ... and behind kv_cache_ptrs; NULL: too much
  int64_t cache_bytes = 0, cache_before = 0;
  static constexpr int64_t kScratch = 2048;

  // Memory for all tensors. false: some tensor cannot have any, so that the call must not run.
  bool place(Draft& d) {
    auto* op = d.call.op;
    arena.reset(random);
    from = arena.region(kScratch, 0), to = arena.region(kScratch, 0);
    cache = nullptr;
    if (d.call.find("kv_cache_ptrs") && cache_span(d.call, cache_bytes, cache_before))
      cache = arena.region(cache_bytes, 0);
    bool possible = true;
    for (size_t i = 0; i < op->num_args; ++i) {
      if (op->args[i]->kind != KVOPS_ARG_TENSOR || d.shares[i] >= 0) continue;
      if (d.call.present(op->args[i])) possible &= place_group(d, i);
    }
    for (size_t i = 0; i < op->num_args; ++i) {
      if (d.shares[i] < 0) continue;
      auto t = d.call.tensor(op->args[i]);
      auto* base = static_cast<char*>(d.call.tensor(op->args[size_t(d.shares[i])]).data);
      t.data = d.null[i] || !base ? nullptr : base + d.shift[i];
      if (d.call.present(op->args[i])) d.call.put(op->args[i], t);
    }
    return possible;
  }

  // The memory of argument i and of those that share it.
  bool place_group(Draft& d, size_t i) {
    auto* op = d.call.op;
    int64_t before = 0, after = 0;
    bool possible = true;
    for (size_t k = 0; k < op->num_args; ++k) {
      if (k != i && d.shares[k] != int(i)) continue;
      int64_t bytes, low;
      possible &= span_of(d.call.tensor(op->args[k]), bytes, low);
      before = std::max(before, low), after = std::max(after, bytes - low + d.shift[k]);
    }
    auto t = d.call.tensor(op->args[i]);
    int64_t size = std::max<int64_t>(kvops_dtype_size(t.dtype), 1);
    if (!possible) before = 0, after = 64;
    bool whole = op->args[i]->flags & KVOPS_ARG_SIZED;
    char* begin = arena.region(before + after, whole ? 0 : size * random.below(8 / size + 1));
    if (!begin) return false;
    fill(d, op->args[i], t, begin, before + after);
    t.data = d.null[i] ? nullptr : begin + before;
    d.call.put(op->args[i], t);
    return possible;
  }

  int64_t value_for(const Draft& d, const kvops_arg_info* a, int64_t size) {
    string name = a->name;
    if (holds_addresses(d.call.op, a) && size == 8) {
      if (name == "kv_cache_ptrs")
        return cache && !random.one_in(4)
                   ? int64_t(reinterpret_cast<uintptr_t>(cache)) + cache_before
                   : 0;
      if (name == "sizes") return d.wild_values && random.one_in(20) ? -1 : random.below(64);
      return int64_t(reinterpret_cast<uintptr_t>(name == "src_ptrs" ? from : to)) +
             random.below(kScratch - 64);
    }
    if (a->flags & KVOPS_ARG_COUNTER) return random.below(9);
    bool host = a->flags & KVOPS_ARG_HOST;
    if (d.wild_values && random.one_in(host ? 40 : 4))
      return random.of<int64_t>({-1, -5, 1 << 20, INT32_MAX, INT32_MIN, 40, 100,
                                 size == 8 ? INT64_MAX : 7, size == 8 ? INT64_MIN : 9});
    return name == "slot_mapping"  ? random.below(9) - 1
           : name == "block_table" ? random.below(4)
           : name == "seq_lens"    ? random.below(30)
                                   : random.below(3);
  }

  // Integers mean something; floats keep the noise.
  void fill(const Draft& d, const kvops_arg_info* a, const kvops_tensor& t, char* begin,
            int64_t bytes) {
    if (t.dtype != KVOPS_I32 && t.dtype != KVOPS_I64) return;
    int64_t size = kvops_dtype_size(t.dtype);
    bool ascends = !std::strcmp(a->name, "query_start_loc") && !random.one_in(4);
    for (int64_t i = 0; i + size <= bytes; i += size) {
      int64_t value = ascends ? i / size : value_for(d, a, size);
      std::memcpy(begin + i, &value, size_t(size));
    }
  }

  // Partly overlapping views, of which one is written, are the caller's own affair: the library
  // trusts them, so they must not be passed.
  static bool is_trusted(const Draft& d) {
    for (size_t i = 0; i < d.shares.size(); ++i) {
      if (d.shares[i] < 0 || !d.shift[i]) continue;
      auto *a = d.call.op->args[i], *b = d.call.op->args[size_t(d.shares[i])];
      bool copied = a->flags & b->flags & KVOPS_ARG_ANYWHERE;  // these may overlap in any way
      if ((a->flags | b->flags) & KVOPS_ARG_WRITTEN && !copied) return true;
    }
    return false;
  }

  void allow_results(const Draft& d) {
    auto* op = d.call.op;
    if (!std::strcmp(op->name, "swap_blocks_batch")) arena.allow(to, kScratch);
    if (cache) arena.allow(cache, cache_bytes);
    for (size_t i = 0; i < op->num_args; ++i) {
      auto* a = op->args[i];
      if (a->kind != KVOPS_ARG_TENSOR || !(a->flags & KVOPS_ARG_WRITTEN)) continue;
      auto t = d.call.tensor(a);
      int64_t bytes, before;
      if (!t.data || !span_of(t, bytes, before)) continue;
      if (a->flags & (KVOPS_ARG_ANYWHERE | KVOPS_ARG_SIZED))  // bytes, not elements
        arena.allow(static_cast<char*>(t.data) - before, bytes);
      else if (elements_of(t))
        allow_elements(t, 0, static_cast<char*>(t.data));
    }
  }
  void allow_elements(const kvops_tensor& t, int axis, const char* at) {
    int64_t size = kvops_dtype_size(t.dtype);
    if (axis == t.rank) return arena.allow(at, size);
    if (axis == t.rank - 1 && t.stride[axis] == 1) return arena.allow(at, size * t.shape[axis]);
    for (int64_t i = 0; i < t.shape[axis]; ++i)
      allow_elements(t, axis + 1, at + i * t.stride[axis] * size);
  }

  // Lengths that belong together and their plan, sometimes a damaged one.
  void give_plan(const Draft& d) {
    if (d.call.bytes.size() != d.call.op->args_size) return;
    if (!harness::plan_bytes(d.call.op->name, d.call.bytes.data())) return;
    if (kvops_query(d.call.op->name, d.call.bytes.data(), nullptr)) return;
    for (auto* name : {"query_start_loc", "seq_lens", "scheduler_metadata"})
      if (!d.call.tensor(d.call.find(name)).data) return;  // the call has nothing to do
    auto args = d.call.bytes;
    harness::fill_plan(d.call.op->name, args.data(), random.one_in(3));
    auto plan = d.call.tensor(d.call.find("scheduler_metadata"));
    if (random.one_in(10) && plan.shape[0])
      static_cast<char*>(plan.data)[random.below(plan.shape[0])] ^= char(1 << random.below(8));
  }

  // One call. Returns whether it was accepted.
  bool run(Draft& d, int64_t number) {
    auto& counts = per_op[d.call.op->name];
    ++counts.calls;
    bool possible = place(d);
    auto* args = d.call.bytes.data();
    auto* name = d.call.op->name;
    if (!possible && !kvops_query(name, args, nullptr)) return ++counts.too_large, false;
    if (is_trusted(d)) return ++counts.trusted, false;
    // A weight to multiply with; without, the number of the draft is a stale one.
    if (possible && harness::handle_argument(*d.call.op) && !random.one_in(10))
      handles.give(*d.call.op, d.call.bytes.data(), true);
    if (possible && !random.one_in(10)) give_plan(d);
    auto before = d.call.bytes;
    kvops_clear_error();
    arena.guard();
    auto status = kvops_call(name, args);
    arena.release();
    if (before != d.call.bytes) fatal(d, number, "changed its arguments");
    if (status != KVOPS_OK && status != KVOPS_INVALID_ARGUMENT && status != KVOPS_UNSUPPORTED &&
        status != KVOPS_UNAVAILABLE)
      fatal(d, number, string("answers ") + kvops_status_string(status));
    if (status) {
      note_reason(d, number);
    } else {
      allow_results(d);
      handles.keep(*d.call.op, d.call.bytes.data());
    }
    if (auto* byte = arena.stray()) {
      char text[80];
      std::snprintf(text, sizeof text, "a stray byte at %p", static_cast<const void*>(byte));
      fatal(d, number, text);
    }
    ++(status ? counts.refused : counts.run);
    return !status;
  }

  // "reshape_and_cache: key: shape[0] is 7, ..." -> "shape[#] is #, ...": one reason per rule.
  void note_reason(const Draft& d, int64_t number) {
    string text = kvops_last_error(), prefix = string(d.call.op->name) + ": ", reason;
    if (!text.starts_with(prefix)) fatal(d, number, "a message without its operator");
    kvops_error e = {};
    e.struct_size = sizeof e;
    kvops_get_error(&e);
    text = text.substr(prefix.size() + (*e.argument ? std::strlen(e.argument) + 2 : 0));
    for (size_t i = 0; i < text.size(); ++i) {
      bool inside = i && (std::isalpha((unsigned char)text[i - 1]) || text[i - 1] == '_');
      bool digit = std::isdigit((unsigned char)text[i]) && !inside;
      if (text[i] == '-' && !inside && i + 1 < text.size() && std::isdigit(text[i + 1])) continue;
      if (!digit) reason += text[i];
      if (digit && (reason.empty() || reason.back() != '#')) reason += '#';
    }
    bool rule = reason.starts_with("dtype is") && reason.ends_with(")") &&
                reason.find(" (as ") == string::npos;
    static const char* const kinds[] = {"dtype is",   "shape is", "stride[",     "rank is",
                                        "overlaps",   "is on",    "stream is",   "data is",
                                        "spans more", "a stride", "struct_size", "is absent"};
    string key = *e.argument ? e.argument : "(call)";
    if (!std::strcmp(e.argument, "struct_size")) key = "", reason = "struct_size";
    for (auto* kind : kinds)
      if (reason.starts_with(kind) && !rule) key = "", reason = kind;
    ++reasons[key.empty() ? reason : string(d.call.op->name) + ": " + key + ": " + reason];
  }
};

void print(int64_t calls) {
  int64_t run = 0;
  std::printf("%-28s %9s %9s %9s %9s %9s\n", "operator", "calls", "run", "refused", "too large",
              "trusted");
  for (auto& [name, c] : per_op) {
    run += c.run;
    std::printf("%-28s %9lld %9lld %9lld %9lld %9lld\n", name.c_str(), (long long)c.calls,
                (long long)c.run, (long long)c.refused, (long long)c.too_large,
                (long long)c.trusted);
  }
  std::printf("\n%-28s %9s %9s\n", "change", "drafts", "run");
  for (int i = 0; i < kNumChanges; ++i)
    std::printf("%-28s %9lld %9lld\n", kChanges[i], (long long)per_change[i][0],
                (long long)per_change[i][1]);
  std::printf("\n%9s  reason of refusal\n", "calls");
  for (auto& [reason, n] : reasons) std::printf("%9lld  %s\n", (long long)n, reason.c_str());
  std::printf("\n%lld calls, %lld run (%.1f %%), %zu reasons\n", (long long)calls, (long long)run,
              100.0 * double(run) / double(calls), reasons.size());
}

// Every operator ran, and at least 30 % of all calls.
bool enough(int64_t calls) {
  int64_t run = 0;
  bool every = true;
  for (auto& [name, c] : per_op) run += c.run, every &= c.run > 0;
  if (!every || run * 10 < calls * 3) std::printf("too few calls were accepted\n");
  return every && run * 10 >= calls * 3;
}

void set_up(Random& random) {
  while (kvops_set_option("cpu_isa", random.of({"scalar", "sse4", "avx2", "avx3"}))) {
  }
  kvops_set_num_threads(1 + random.below(2));
  kvops_set_option("debug", random.one_in(5) ? "bounds" : "");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::printf("usage: fuzz CALLS SEED FILE...\n"), 2;
  int64_t calls = std::atoll(argv[1]);
  Runner runner;
  runner.random.state = std::strtoull(argv[2], nullptr, 0);
  auto bases = make_bases({argv + 3, argv + argc}, 60, runner.random);
  for (int64_t n = 0; n < calls; ++n) {
    if (n % 10000 == 0) set_up(runner.random);
    Draft d(bases[size_t(runner.random.below(int64_t(bases.size())))]);
    bool made[kNumChanges] = {};
    int changes = runner.random.of({0, 1, 1, 2, 2, 3});
    for (int i = 0; i < changes; ++i) made[change(d, runner.random)] = true;
    bool accepted = runner.run(d, n);
    for (int i = 0; i < kNumChanges; ++i)
      per_change[i][0] += made[i], per_change[i][1] += made[i] && accepted;
  }
  print(calls);
  return enough(calls) ? 0 : 1;
}
