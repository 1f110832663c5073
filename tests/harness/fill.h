// Random values for the arguments of an operator: normal numbers, any bit patterns, special values;
// indices that are distinct where they are written through, some of them bad; requests of a gather
// that fit its table, or do not; scales of all sizes.
#pragma once
#include <random>

#include "shapes.h"

namespace harness {

// Bytes of a copy between addresses, at most.
inline constexpr int64_t kLargestCopy = 5000;

class Fill {
 public:
  // Numbers of one call are of one kind: two calls in four are plain, one has special values strewn
  // in (NaN, infinities, subnormals), one has any bits. Operators that read caches through block
  // tables get plain ones only: a softmax turns the rounding error of a huge logit into anything.
  Fill(const kvops_op_info& op, const Shapes& shapes, uint64_t seed);

  // The elements of an argument in C order, as bytes.
  std::vector<uint8_t> values(const kvops_arg_info& arg, kvops_dtype dtype,
                              const std::vector<int64_t>& shape);

 private:
  enum class Kind { plain, special, bits };
  uint64_t below(uint64_t n) { return n ? random_() % n : 0; }
  bool is_index(const kvops_arg_info& arg, const char* verb, std::vector<std::string>* words) const;
  bool gathers_by(const kvops_arg_info& arg) const;
  int64_t index(int64_t bound);
  std::vector<int64_t> indices(int64_t count, int64_t bound);
  std::vector<int64_t> blocks(int64_t count, int64_t bound);
  bool bounds(const kvops_arg_info& arg, int64_t* low, int64_t* high) const;
  std::vector<int64_t> sorted(const kvops_arg_info& arg, int64_t count, int64_t row);
  std::vector<int64_t> first_rows(int64_t count);
  std::vector<int64_t> seq_starts(int64_t count);
  std::vector<int64_t> copies(const kvops_arg_info& arg, int64_t count);
  std::vector<int64_t> integers(const kvops_arg_info& arg, kvops_dtype dtype,
                                const std::vector<int64_t>& shape, int64_t count);
  uint64_t number(kvops_dtype dtype);
  uint64_t scale();

  const kvops_op_info& op_;
  const Shapes& shapes_;
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;  // has a state, too
  std::vector<int64_t> lengths_;            // of the requests of a gather
  Kind kind_ = Kind::plain;
  bool bad_indices_ = false, tame_ = false;
};

}  // namespace harness
