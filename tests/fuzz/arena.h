// Memory for the tensors of one call, in which every byte that does not belong to an element is
// watched: reads by poison of the address sanitizer, writes by comparison.
#pragma once
#include "contract/calls.h"
#include "fuzz/random.h"

class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  void reset(Random& random);
  // Room for `bytes`, of which any may be used; `offset` past a multiple of 64. nullptr: full.
  char* region(int64_t bytes, int64_t offset);
  // Everything outside the regions is forbidden from here on, and remembered.
  void guard();
  // Ends guard(). `written` bytes at an address may have changed, nothing else. nullptr: so it is;
  // else the first stray byte.
  void allow(const void* data, int64_t bytes);
  const char* stray();
  void release();

 private:
  static constexpr size_t kSize = 8 << 20, kGap = 64;
  struct Piece {
    char* begin;
    int64_t bytes;
  };
  char* memory_;
  char* copy_;
  size_t used_ = 0;
  std::vector<char> noise_;
  std::vector<Piece> pieces_;
};
