// A small, fast, seeded generator.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <iterator>

struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  // In [0, n).
  int64_t below(int64_t n) { return int64_t(next() % uint64_t(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  template <class T>
  T of(std::initializer_list<T> list) {
    return *std::next(list.begin(), below(int64_t(list.size())));
  }
};
