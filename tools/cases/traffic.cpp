// The bytes that a call must move, from the roles of its arguments: what is read once plus what is
// written once. Of tensors whose rows an index chooses (caches, cos/sin tables) only the chosen
// rows count, and of an updated one only the writing.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cases/layout.h"
#include "handles.h"

namespace kvops::cases {
namespace {

// "index slot_mapping blocks*block", "blocks block_table blocks seq_lens",
// "gather block_table blocks cu_seq_lens".
struct IndexRule {
  std::string argument, bound, lengths;
  bool gather;
};

std::vector<IndexRule> index_rules(const kvops_op_info* op) {
  std::vector<IndexRule> all;
  for (size_t i = 0; i < op->num_rules; ++i) {
    auto list = harness::words(op->rules[i]);
    bool gather = !list.empty() && list[0] == "gather";
    if (list.size() >= 3 && (list[0] == "index" || list[0] == "blocks" || gather))
      all.push_back({list[1], list[2], list.size() > 3 ? list[3] : "", gather});
  }
  return all;
}

bool mentions(const std::string& text, const std::string& name) {
  auto list = harness::words(without(text, "!"));
  return std::find(list.begin(), list.end(), name) != list.end();
}

// Does the index choose what is touched of this tensor? Its shape then has the bound's symbols.
bool chooses(const IndexRule& rule, const kvops_arg_info* a) {
  std::string bound = rule.bound;
  std::replace(bound.begin(), bound.end(), '*', ' ');
  bool all = a->name != rule.argument;
  for (auto& name : harness::words(bound)) all = all && mentions(a->shape, name);
  return all;
}

int64_t count_of(const kvops_tensor& tensor) {
  int64_t count = 1;
  for (int i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
  return count;
}

struct Counter {
  const Layout& layout;
  const Lookup& lookup;
  std::vector<IndexRule> rules = index_rules(layout.op);

  std::optional<int64_t> number(const std::string& text) const { return evaluate(text, lookup); }

  const Tensor* tensor(const std::string& name) const {
    for (auto& t : layout.tensors)
      if (name == t.info->name) return &t;
    return nullptr;
  }

  // The part of a tensor that one call touches; negative: all of it, and no index chooses.
  double part_of(const Tensor& t) const {
    if (t.info->flags & KVOPS_ARG_ANYWHERE && number("pairs"))
      return std::min(1.0,
                      double(*number("pairs")) / double(std::max<int64_t>(1, t.shape.shape[0])));
    for (auto& rule : rules) {
      auto* by = tensor(rule.argument);
      auto bound = number(rule.bound);
      if (!by || !bound || !*bound || !chooses(rule, t.info)) continue;
      auto entries = double(count_of(by->shape));
      if (rule.gather) return gathered_part(double(*bound));
      if (!rule.lengths.empty()) entries *= live_part();
      return std::min(1.0, entries / double(*bound));
    }
    return -1;
  }

  // The part of a block table's tokens that take part: full lengths, unless the line says seq_len,
  // and no more than the window. What block-sparse patterns leave out is not taken off.
  double live_part() const {
    auto full = number("width*block").value_or(0);
    auto live = number("seq_len").value_or(full), window = number("window").value_or(0);
    if (window > 0) live = std::min(live, window);
    return full > 0 ? double(live) / double(full) : 1;
  }

  // Rows of logits, and lists of keys and diagonals: full, unless the line gives a seq_len. How
  // many blocks and columns follow from the lists is not known; they do not count.
  void bound_by_name(Tensor& t) const {
    static constexpr struct {
      const char *name, *rows;
    } kNames[] = {{"row_ends", "columns"},
                  {"seq_lens", "columns"},
                  {"q_seq_lens", "rows*block_size_m"},
                  {"kv_seq_lens", "rows*block_size_m"},
                  {"vertical_indices_count", "verticals"},
                  {"slash_indices_count", "slashes"},
                  {"vertical_indexes", "rows*block_size_m"},
                  {"slash_indexes", "rows*block_size_m"},
                  {"block_offset", "rows*block_size_m"},
                  {"column_index", "rows*block_size_m"}};
    const std::string name = t.info->name;
    for (auto& n : kNames) {
      auto bound = number(n.rows);
      if (name != n.name || t.bound || !bound) continue;
      if (name[0] != 'q' && number("seq_len")) bound = number("seq_len");
      t.is_length = !name.ends_with("_indexes");
      t.bound = *bound + t.is_length;
      if (name == "block_offset" || name == "column_index")
        t.is_shared = true, t.read = t.written = 0;
    }
  }

  // Every row of a gather comes from a slot of its own while there are enough of them.
  double gathered_part(double blocks) const {
    auto slots = blocks * double(number("block").value_or(0));
    return slots > 0 ? std::min(1.0, double(number("rows").value_or(0)) / slots) : 0;
  }

  // Tables are read as far as rows need them, and what rows held before is not read.
  void count_gather(Tensor& t, const IndexRule& rule) const {
    auto rows = number("rows").value_or(0),
         batch = std::max<int64_t>(number("batch").value_or(1), 1);
    auto block = std::max<int64_t>(number("block").value_or(1), 1);
    if (rule.argument == t.info->name) t.read = std::min(t.bytes, 4 * (rows / block + batch));
    if (t.written) t.read = 0;
    if (rule.lengths == t.info->name) t.rows = rows;
    auto spare = number("width").value_or(0) * block - (rows + batch - 1) / batch;
    if (std::strcmp(t.info->name, "seq_starts") == 0) t.bound = std::max<int64_t>(spare, 0) + 1;
  }

  void count(Tensor& t) const {
    t.bytes = count_of(t.shape) * kvops_dtype_size(t.shape.dtype);
    double part = part_of(t);
    auto moved = int64_t(double(t.bytes) * (part < 0 ? 1 : part));
    int flags = t.info->flags & (KVOPS_ARG_SIZED | KVOPS_ARG_COUNTER) ? 0 : t.info->flags;
    bool chosen = part >= 0 && !(flags & KVOPS_ARG_ANYWHERE);
    t.is_shared = chosen && part < 0.25;
    t.written = flags & KVOPS_ARG_WRITTEN ? moved : 0;
    t.read = flags & KVOPS_ARG_READ && !(chosen && t.written) ? moved : 0;
    for (auto& rule : rules) {
      if (rule.argument == t.info->name) t.bound = number(rule.bound).value_or(0);
      if (rule.gather)
        count_gather(t, rule);
      else if (rule.lengths == t.info->name)
        t.is_length = true;
    }
    if (t.is_length && number("seq_len")) t.bound = *number("seq_len") + 1;
    bound_by_name(t);
  }
};

}  // namespace

void count_traffic(Layout& layout, const Lookup& lookup) {
  Counter counter{layout, lookup};
  for (auto& t : layout.tensors) {
    counter.count(t);
    layout.traffic += t.read + t.written;
    layout.written += t.written;
  }
  layout.traffic += harness::weight_bytes(*layout.op, layout.args.data());
  layout.batch = counter.number("batch").value_or(0);
  auto copies = counter.number("copies"), size = counter.number("sizes");
  if (copies && size) layout.traffic += 2 * *copies * *size, layout.written += *copies * *size;
  auto entry = counter.number("entry_stride*bytes(cache_dtype)");
  auto entries = counter.number("numel(slot_mapping)");
  if (entry && entries) layout.traffic += *entry * *entries, layout.written += *entry * *entries;
  layout.behind = counter.number("num_blocks*block_stride*bytes(cache_dtype)").value_or(0);
}

std::optional<int64_t> evaluate(const std::string& text, const Lookup& lookup) {
  double value = 0;
  auto known = [&](const std::string& name, double* number) {
    auto found = lookup(name);
    *number = double(found.value_or(0));
    return found.has_value();
  };
  if (!harness::evaluate(text, known, &value) || value != std::floor(value)) return std::nullopt;
  return int64_t(value);
}

std::string without(std::string text, const char* characters) {
  std::erase_if(text, [&](char c) { return std::strchr(characters, c) != nullptr; });
  return text;
}

}  // namespace kvops::cases
