// Squares of elements, 16 bytes a side, turned in registers by perfect shuffles.
#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_TURN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_TURN_INL_H_
#undef KVOPS_CPU_TURN_INL_H_
#else
#define KVOPS_CPU_TURN_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// Element j of vector i of n -> element i of vector j. Interleaving vector i with vector i + n/2
// moves the top bit of (vector, lane) to the bottom; after as many times as an index has bits,
// vector and lane have changed places. Wider vectors hold several squares, one per 16 bytes.
template <class D, int n>
HWY_INLINE void turn_square(D d, hn::Vec<D> (&v)[n]) {
  static_assert(n * sizeof(hn::TFromD<D>) == 16);
  hn::Vec<D> next[n];
  for (int bit = 1; bit < n; bit *= 2) {
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = hn::InterleaveLower(d, v[i], v[i + n / 2]);
      next[2 * i + 1] = hn::InterleaveUpper(d, v[i], v[i + n / 2]);
    }
    for (int i = 0; i < n; ++i) v[i] = next[i];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
