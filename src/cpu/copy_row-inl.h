// Rows of bytes on their way to where they are not read soon: copied past the caches.
#include <cstring>

#include "cpu/simd-inl.h"

#if defined(KVOPS_CPU_COPY_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_COPY_ROW_INL_H_
#undef KVOPS_CPU_COPY_ROW_INL_H_
#else
#define KVOPS_CPU_COPY_ROW_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// n bytes, which do not overlap; none may have no address. stream: past the caches, for which `to`
// is aligned to 64 bytes, and finish_streams() must follow. next: bytes that are wanted soon, which
// are asked for while these are copied.
template <bool stream>
HWY_INLINE void copy_row(const void* from, void* to, int64_t n, const void* next) {
  const hn::ScalableTag<uint8_t> d;
  const auto lanes = int64_t(hn::Lanes(d));
  auto* x = static_cast<const uint8_t*>(from);
  auto* y = static_cast<uint8_t*>(to);
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (int64_t line = 0; line < 4 * lanes; line += 64)
      prefetch(static_cast<const uint8_t*>(next), i + line);
    const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + lanes);
    const auto c = hn::LoadU(d, x + i + 2 * lanes), e = hn::LoadU(d, x + i + 3 * lanes);
    put_raw<stream>(d, a, y + i);
    put_raw<stream>(d, b, y + i + lanes);
    put_raw<stream>(d, c, y + i + 2 * lanes);
    put_raw<stream>(d, e, y + i + 3 * lanes);
  }
  for (; i + lanes <= n; i += lanes) put_raw<stream>(d, hn::LoadU(d, x + i), y + i);
  if (i < n) std::memcpy(y + i, x + i, size_t(n - i));
}

// Streaming stores fill whole lines; what is before the first and after the last one, and short
// copies, go through the caches.
template <bool stream>
HWY_INLINE void copy_bytes(const uint8_t* from, uint8_t* to, int64_t bytes) {
  if constexpr (stream) {
    constexpr int64_t kLine = 64;
    const hn::ScalableTag<uint8_t> d;
    const auto lanes = int64_t(hn::Lanes(d));
    const auto head = int64_t(-reinterpret_cast<uintptr_t>(to) % kLine);
    if (bytes >= head + kLine) {
      std::memcpy(to, from, size_t(head));
      int64_t i = head;
      for (; i + kLine <= bytes; i += kLine)
        for (int64_t j = i; j < i + kLine; j += lanes)
          hn::Stream(hn::LoadU(d, from + j), d, to + j);
      from += i, to += i, bytes -= i;
    }
  }
  std::memcpy(to, from, size_t(bytes));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
