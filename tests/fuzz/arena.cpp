// Regions lie 64 bytes apart in one block; the gaps are poisoned while a call runs.
#include "fuzz/arena.h"

#include <sanitizer/asan_interface.h>

#include <cstdlib>

Arena::Arena()
    : memory_(static_cast<char*>(std::aligned_alloc(4096, kSize))),
      copy_(static_cast<char*>(std::aligned_alloc(4096, kSize))),
      noise_(1 << 20) {
  Random random{42};
  for (auto& c : noise_) c = char(random.next());
  // Not only random bits: also plausible floats.
  for (size_t i = 0; i + 4 <= noise_.size() / 2; i += 4) {
    float f = float(random.below(2000) - 1000) / 256;
    std::memcpy(&noise_[i], &f, sizeof f);
  }
}

Arena::~Arena() {
  release();
  std::free(memory_);
  std::free(copy_);
}

void Arena::reset(Random& random) {
  size_t at = size_t(random.below(int64_t(noise_.size()) - 4096)) & ~size_t{7};
  for (size_t done = 0; done < used_;) {
    size_t n = std::min(used_ - done, noise_.size() - at);
    std::memcpy(memory_ + done, &noise_[at], n);
    done += n, at = 0;
  }
  pieces_.clear();
  used_ = kGap;
}

char* Arena::region(int64_t bytes, int64_t offset) {
  size_t begin = ((used_ + 63) & ~size_t{63}) + size_t(offset);
  if (begin + size_t(bytes) + 2 * kGap > kSize) return nullptr;
  used_ = ((begin + size_t(bytes) + 63) & ~size_t{63}) + kGap;
  pieces_.push_back({memory_ + begin, bytes});
  return memory_ + begin;
}

void Arena::guard() {
  std::memcpy(copy_, memory_, used_);
  __asan_poison_memory_region(memory_, used_);
  for (auto& p : pieces_) __asan_unpoison_memory_region(p.begin, size_t(p.bytes));
}

void Arena::allow(const void* data, int64_t bytes) {
  size_t at = size_t(static_cast<const char*>(data) - memory_);
  for (int64_t i = 0; i < bytes; ++i) copy_[at + size_t(i)] = memory_[at + size_t(i)];
}

const char* Arena::stray() {
  if (!std::memcmp(copy_, memory_, used_)) return nullptr;
  for (size_t i = 0; i < used_; ++i)
    if (copy_[i] != memory_[i]) return memory_ + i;
  return nullptr;
}

void Arena::release() { __asan_unpoison_memory_region(memory_, used_); }
