// Gathered rows: bytes of a paged cache as they are, or rows made of one entry each. They go past
// the caches when those cannot hold what is read and written.
#include <cstring>

#include "cpu/copy_row-inl.h"
#include "cpu/gather.h"
#include "cpu/stream.h"

#if defined(KVOPS_CPU_GATHER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVOPS_CPU_GATHER_INL_H_
#undef KVOPS_CPU_GATHER_INL_H_
#else
#define KVOPS_CPU_GATHER_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {

// Parts of `bytes` bytes of the slots of a cache, and the rows that they become. Strides in bytes.
struct Plane {
  const uint8_t* from;
  int64_t block, slot;
  uint8_t* to;
  int64_t row, bytes;

  template <bool stream>
  void copy(int64_t t, int64_t b, int64_t o, int64_t n) const {
    const uint8_t* source = from + b * block + o * slot;
    uint8_t* target = to + t * row;
    if (slot == bytes && row == bytes) return copy_bytes<stream>(source, target, n * bytes);
    for (; n > 0; --n, source += slot, target += row) copy_bytes<stream>(source, target, bytes);
  }
  void zero(int64_t t, int64_t n) const {
    for (; n > 0; --n, ++t) std::memset(to + t * row, 0, size_t(bytes));
  }
};

// Elements of a cache [blocks, block, ...] and of rows [rows, ...], dense from the third and second
// dimension on. What is empty may have any strides, and is not read.
inline Plane plane_of(const kvops_tensor& cache, const kvops_tensor& out) {
  const int64_t size = dtype(out.dtype).size;
  int64_t bytes = size;
  for (int i = 1; i < out.rank; ++i) bytes *= out.shape[i];
  const bool empty = is_empty(cache);
  return {static_cast<const uint8_t*>(cache.data),
          empty ? 0 : cache.stride[0] * size,
          empty ? 0 : cache.stride[1] * size,
          static_cast<uint8_t*>(out.data),
          out.stride[0] * size,
          bytes};
}

template <class... Planes>
kvops_status gather_planes(const GatherMap& m, const kvops_tensor& faults,
                           const Planes&... planes) {
  const int64_t bytes = (planes.bytes + ...);
  auto run = [&]<bool stream>() {
    for_each_page(
        m, 2 * bytes, faults,
        [&](int64_t t, int64_t b, int64_t o, int64_t n) {
          (planes.template copy<stream>(t, b, o, n), ...);
        },
        [&](int64_t t, int64_t n) { (planes.zero(t, n), ...); },
        [] {
          if (stream) finish_streams();
        });
    return KVOPS_OK;
  };
  const bool large = (m.rows - m.first) * 2 * bytes > last_cache_bytes() / 2;
  return large ? run.template operator()<true>() : run.template operator()<false>();
}

// The same for rows that read(to, from) makes of one entry each. S, T: elements of cache and rows.
// Rows and the pieces that are stored at once must be aligned for streaming.
template <class S, class T, class Read>
kvops_status gather_entries(const GatherMap& m, const kvops_tensor& cache, const kvops_tensor& out,
                            const kvops_tensor& faults, Read&& read) {
  const auto entries = view<const S, 3>(cache);
  const auto rows = view<T, 2>(out);
  const int64_t entry = entries.shape[2] * int64_t(sizeof(S));
  const int64_t bytes = rows.shape[1] * int64_t(sizeof(T));
  auto run = [&]<bool stream>() {
    for_each_page(
        m, entry + bytes, faults,
        [&](int64_t t, int64_t b, int64_t o, int64_t n) {
          for (int64_t i = 0; i < n; ++i)
            read.template operator()<stream>(entries.at(b, o + i), rows.at(t + i));
        },
        [&](int64_t t, int64_t n) {
          for (int64_t i = 0; i < n; ++i) std::memset(rows.at(t + i), 0, size_t(bytes));
        },
        [] {
          if (stream) finish_streams();
        });
    return KVOPS_OK;
  };
  auto gathered = rows_view<T>(out);
  gathered.rows = m.rows - m.first;
  return streams(gathered, entry) ? run.template operator()<true>()
                                  : run.template operator()<false>();
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#endif
