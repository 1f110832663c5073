// See fill.h. Values are made as bits, without the conversions of the library.
#include "fill.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <sstream>

extern "C" {
#include "compare.h"
}

namespace harness {
namespace {

uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Truncated: what is wanted is a number, not this number.
uint64_t narrow(kvops_dtype dtype, float x) {
  uint32_t bits = float_bits(x);
  if (dtype == KVOPS_F32) return bits;
  if (dtype == KVOPS_BF16) return bits >> 16;
  int exponent = int(bits >> 23 & 255) - 127 + 15;
  if (exponent <= 0) return bits >> 16 & 0x8000;
  return (bits >> 16 & 0x8000) | uint64_t(exponent) << 10 | (bits >> 13 & 0x3FF);
}

}  // namespace

Fill::Fill(const kvops_op_info& op, const Shapes& shapes, uint64_t seed)
    : op_(op), shapes_(shapes), random_(seed) {
  static constexpr Kind kKinds[] = {Kind::plain, Kind::plain, Kind::special, Kind::bits};
  kind_ = kKinds[below(4)];
  bad_indices_ = below(2);
  for (size_t r = 0; r < op.num_rules; ++r)
    if (!std::strncmp(op.rules[r], "blocks ", 7)) tame_ = true, kind_ = Kind::plain;
  // 1 + erf cancels, and a huge factor would make that the largest value of its row.
  if (std::strstr(op.name, "gelu")) kind_ = Kind::plain;
}

// "index slot_mapping blocks*block", "blocks block_table blocks seq_lens"
bool Fill::is_index(const kvops_arg_info& arg, const char* verb,
                    std::vector<std::string>* words) const {
  for (size_t r = 0; r < op_.num_rules; ++r) {
    std::istringstream stream(op_.rules[r]);
    words->clear();
    for (std::string word; stream >> word;) words->push_back(word);
    if (words->size() > 2 && (*words)[0] == verb && (*words)[1] == arg.name) return true;
  }
  return false;
}

// "gather block_table blocks cu_seq_lens": the last word.
bool Fill::gathers_by(const kvops_arg_info& arg) const {
  std::vector<std::string> list;
  for (size_t r = 0; r < op_.num_rules; ++r) {
    list = words(op_.rules[r]);
    if (list.size() == 4 && list[0] == "gather" && list[3] == arg.name) return true;
  }
  return false;
}

int64_t Fill::index(int64_t bound) { return bound > 0 ? int64_t(below(uint64_t(bound))) : -1; }

// Distinct, so that no two threads write one place; -1 when there are not enough.
std::vector<int64_t> Fill::indices(int64_t count, int64_t bound) {
  std::vector<int64_t> all(size_t(std::min<int64_t>(bound, std::max<int64_t>(4 * count, 64))));
  std::iota(all.begin(), all.end(), std::max<int64_t>(0, bound - int64_t(all.size())));
  std::shuffle(all.begin(), all.end(), random_);
  all.resize(size_t(count), -1);
  const int64_t bad[] = {-1, bound, int64_t(1) << 40, -(int64_t(1) << 50), INT64_MAX};
  for (auto& i : all)
    if (bad_indices_ && below(4) == 0) i = bad[below(5)];
  return all;
}

// Any block may be named more than once; entries that no token needs are garbage.
std::vector<int64_t> Fill::blocks(int64_t count, int64_t bound) {
  std::vector<int64_t> all(static_cast<size_t>(count));
  const int64_t bad[] = {-1, bound, INT32_MAX};
  for (auto& i : all) i = bad_indices_ && below(16) == 0 ? bad[below(3)] : index(bound);
  return all;
}

// Integers that are no indices of a row: where rows begin and end, how long lists are, some of them
// out of range.
bool Fill::bounds(const kvops_arg_info& arg, int64_t* low, int64_t* high) const {
  static constexpr struct {
    const char *name, *high;
  } kBounds[] = {{"row_starts", "columns"},
                 {"row_ends", "columns"},
                 {"seq_lens", "columns"},
                 {"q_seq_lens", "rows*block_size_m"},
                 {"kv_seq_lens", "2*rows*block_size_m"},
                 {"vertical_indexes", "2*rows*block_size_m"},
                 {"slash_indexes", "2*rows*block_size_m"},
                 {"vertical_indices_count", "verticals"},
                 {"slash_indices_count", "slashes"}};
  double most = 0;
  for (auto& b : kBounds) {
    if (std::strcmp(arg.name, b.name) || !shapes_.number(b.high, &most)) continue;
    *low = bad_indices_ ? -2 : 0, *high = int64_t(most) + (bad_indices_ ? 5 : 0);
    return true;
  }
  return false;
}

// Numbers in bounds; of a list of verticals or slashes in their order, but for one list in eight.
std::vector<int64_t> Fill::sorted(const kvops_arg_info& arg, int64_t count, int64_t row) {
  std::vector<int64_t> all(static_cast<size_t>(count));
  int64_t low = 0, high = 0;
  if (!bounds(arg, &low, &high)) return {};
  for (auto& i : all) i = low + index(high - low + 1);
  if (!std::strstr(arg.name, "_indexes")) return all;
  for (auto list = all.begin(); list < all.end(); list += row) {
    if (below(8) == 0) continue;
    std::sort(list, list + row);
    if (arg.name[0] == 's') std::reverse(list, list + row);
  }
  return all;
}

// Where the requests of a gather begin, from the last one on: in batch + 1 entries with the end, or
// in others, of which the last request owns all rows that are left. Some are empty.
std::vector<int64_t> Fill::first_rows(int64_t count) {
  double batch = 0, rows = 0, width = 0, block = 0, any = 0;
  shapes_.number("batch", &batch), shapes_.number("rows", &rows);
  shapes_.number("width", &width), shapes_.number("block", &block);
  const bool with_end = !shapes_.number("starts", &any);
  const auto most = uint64_t(width * block);
  std::vector<int64_t> all(static_cast<size_t>(count));
  lengths_.assign(size_t(batch), 0);
  int64_t first = int64_t(rows);
  if (with_end && below(2)) first -= int64_t(below(uint64_t(rows) + 1)) / 4;
  for (auto b = size_t(batch); b <= size_t(count) && b < all.size(); ++b)
    all[b] = with_end && bad_indices_ && first == int64_t(rows) ? first + int64_t(below(9)) : first;
  for (auto b = size_t(batch); b-- > 0; all[b] = first) {
    const uint64_t kinds[] = {0, most, below(most + 1), below(most + 1)};
    lengths_[b] = std::min(first, int64_t(kinds[below(4)]));
    first -= lengths_[b];
  }
  return all;
}

std::vector<int64_t> Fill::seq_starts(int64_t count) {
  double width = 0, block = 0;
  shapes_.number("width", &width), shapes_.number("block", &block);
  std::vector<int64_t> all(static_cast<size_t>(count));
  const int64_t bad[] = {-3, int64_t(width * block) - 1, INT32_MAX, INT32_MIN};
  for (size_t b = 0; b < all.size(); ++b) {
    const int64_t spare = int64_t(width * block) - (b < lengths_.size() ? lengths_[b] : 0);
    all[b] = bad_indices_ && below(4) == 0 ? bad[below(4)] : int64_t(below(uint64_t(spare) + 1));
  }
  return all;
}

// Pairs of blocks, of which no two are the same destination while there are enough; sizes.
std::vector<int64_t> Fill::copies(const kvops_arg_info& arg, int64_t count) {
  static constexpr int64_t kSizes[] = {0, 1, 13, 16, 4096, kLargestCopy};
  std::vector<int64_t> all;
  double sources = 0, destinations = 0;
  if (!std::strcmp(arg.name, "sizes")) {
    for (int64_t i = 0; i < count; ++i) all.push_back(kSizes[below(6)]);
  } else if (!std::strcmp(arg.name, "block_mapping") && shapes_.number("src_blocks", &sources) &&
             shapes_.number("dst_blocks", &destinations)) {
    std::vector<int64_t> order(static_cast<size_t>(destinations));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    for (size_t i = 0; i < size_t(count / 2); ++i) {
      all.push_back(index(int64_t(sources)));
      all.push_back(order[i % order.size()]);
    }
  }
  return all;
}

uint64_t Fill::number(kvops_dtype dtype) {
  static constexpr float kSpecial[] = {0.0f,    -0.0f,    INFINITY, -INFINITY, NAN,   1e-40f,
                                       -1e-45f, 65504.0f, 448.0f,   -57344.0f, 3e38f, 6e-8f};
  if (kind_ == Kind::bits) return random_();
  if (kind_ == Kind::special && below(64) == 0) return narrow(dtype, kSpecial[below(12)]);
  return narrow(dtype, normal_(random_));
}

uint64_t Fill::scale() {
  static constexpr float kOdd[] = {0.0f, -0.5f, INFINITY, NAN, 1e-40f, 1e38f, 0x1p-61f, 0x1p60f};
  static constexpr float kUsual[] = {1.0f, 0.1f, 7.0f / 128, 0.5f, 3.7e-3f, 0x1p-9f};
  if (kind_ != Kind::plain && below(4) == 0) return float_bits(kOdd[below(8)]);
  if (tame_ || below(2)) return float_bits(kUsual[below(6)]);
  return float_bits(std::ldexp(1 + float(below(1 << 23)) * 0x1p-23f, int(below(20)) - 14));
}

// Indices, lengths and the like; none where any bits will do.
std::vector<int64_t> Fill::integers(const kvops_arg_info& arg, kvops_dtype dtype,
                                    const std::vector<int64_t>& shape, int64_t count) {
  std::vector<std::string> words;
  double bound = 0;
  if (is_index(arg, "index", &words) && shapes_.number(words[2], &bound))
    return indices(count, int64_t(bound));
  if ((is_index(arg, "blocks", &words) || is_index(arg, "gather", &words)) &&
      shapes_.number(words[2], &bound))
    return blocks(count, int64_t(bound));
  if (gathers_by(arg)) return first_rows(count);
  if (!std::strcmp(arg.name, "seq_starts")) return seq_starts(count);
  if (arg.flags & KVOPS_ARG_HOST) return copies(arg, count);
  if (dtype == KVOPS_I32) return sorted(arg, count, shape.empty() ? 1 : shape.back());
  return {};
}

std::vector<uint8_t> Fill::values(const kvops_arg_info& arg, kvops_dtype dtype,
                                  const std::vector<int64_t>& shape) {
  int64_t count = 1, size = kvops_dtype_size(dtype);
  for (auto e : shape) count *= e;
  std::vector<uint8_t> bytes(size_t(count * size));
  const auto list = integers(arg, dtype, shape, count);
  bool integer = dtype >= KVOPS_U8, cache = (arg.flags & 3) == 3 && std::strstr(arg.name, "cache");
  // Cosines and sines: with larger numbers a product may overflow where the fused sum does not.
  const bool angles = !std::strcmp(arg.name, "cos_sin_cache");
  bool scales = dtype == KVOPS_F32 && std::strstr(arg.name, "_scale");
  for (int64_t i = 0; i < count; ++i) {
    uint64_t bits = random_();
    if (!list.empty()) {
      bits = uint64_t(list[size_t(i)]);
      if (dtype == KVOPS_I32)
        bits = uint64_t(std::clamp<int64_t>(list[size_t(i)], INT32_MIN, INT32_MAX));
    } else if (arg.flags & KVOPS_ARG_COUNTER) {
      bits = 5;  // it is added to
    } else if (scales) {
      bits = scale();
    } else if (angles) {
      bits = narrow(dtype, std::ldexp(float(below(1 << 24)), -23) - 1);
    } else if (!integer && !cache) {
      if (size > 1) bits = number(dtype);
      while (size == 1 && std::isnan(element_value(dtype, &bits))) bits = random_();
      if (size == 1 && tame_) bits &= 0xBF;  // below 2 in every fp8 format
    }
    std::memcpy(&bytes[size_t(i * size)], &bits, size_t(size));
  }
  // Rows past the tokens of the call are not read.
  double tokens = 0;
  if (!std::strncmp(arg.shape, "padded", 6) && shapes_.number("tokens", &tokens) && shape[0])
    std::fill(bytes.begin() + std::ptrdiff_t(bytes.size()) / shape[0] * int64_t(tokens),
              bytes.end(), uint8_t(0xFF));
  return bytes;
}

}  // namespace harness
