// cpu_attn_reshape_and_cache: rows of new keys and values into the packings of attn_packing.h.
//
//   VEC  keys lie across: square tiles are turned in registers; values are copied
//   AMX  keys: words of two elements lie across groups of 16 tokens; values: rows of two
//        neighbouring tokens are interleaved
//
// A thread takes some tokens; runs of them within one block are written together, whole lines at
// once where they fill some. fp8 rows are first quantised to a buffer of L1's size. Other rows go
// past the caches where all of them together exceed the last one.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cpu_attn_reshape_and_cache.cpp"
#include <hwy/foreach_target.h>

#include "cpu/cache_tiles-inl.h"

// Everything that is compiled once only.
#include "cpu/attn_packing.h"
#include "cpu/isa.h"
#include "cpu/slots.h"
#include "cpu/stream.h"
#include "kvcache_ops.h"

HWY_BEFORE_NAMESPACE();
namespace kvops::cpu {
namespace HWY_NAMESPACE {
namespace {

// Rows for positions o, o + 1, ... of a block, elements from d on, to the (block, head) at `to`.
template <bool stream, class U>
void write_keys(const Rows<U>& r, U* to, const Packing& packing, int64_t o, int64_t d) {
  if (!packing.amx) return write_across<stream>(r, to + packing.key(o, d), packing.block);
  using Word = hwy::UnsignedFromSize<2 * sizeof(U)>;
  constexpr int64_t kTokens = 16;
  for (int64_t i = 0, n; i < r.n; i += n) {
    n = HWY_MIN(r.n - i, kTokens - (o + i) % kTokens);
    write_across<stream>(Rows<Word>{r.row(i), r.pitch, n, r.size / 2},
                         reinterpret_cast<Word*>(to + packing.key(o + i, d)), kTokens);
  }
}

// Two rows, at an even position and the next one: a0 b0 a1 b1 ... in groups of 16 elements.
template <bool stream, class U>
HWY_INLINE void write_pair(const U* a, const U* b, U* to, int64_t size, int64_t group) {
  using Word = hwy::UnsignedFromSize<2 * sizeof(U)>;
  const hn::CappedTag<Word, 16> words;
  const hn::Rebind<U, decltype(words)> tag;
  const auto lanes = int64_t(hn::Lanes(words));
  const auto wide = [&](const U* p) HWY_ATTR { return hn::PromoteTo(words, hn::LoadU(tag, p)); };
  for (int64_t d = 0; d < size; d += 16, to += group)
    for (int64_t i = 0; i < 16; i += lanes) {
      const auto high = hn::ShiftLeft<8 * sizeof(U)>(wide(b + d + i));
      put_raw<stream>(words, hn::Or(wide(a + d + i), high), reinterpret_cast<Word*>(to + 2 * i));
    }
}

template <bool stream, class U>
HWY_INLINE void copy_elements(const U* from, U* to, int64_t n) {
  const hn::CappedTag<U, 16> tag;  // sizes are multiples of 16
  const auto lanes = int64_t(hn::Lanes(tag));
  for (int64_t i = 0; i < n; i += lanes) put_raw<stream>(tag, hn::LoadU(tag, from + i), to + i);
}

template <bool stream, class U>
void write_values(const Rows<U>& r, U* to, const Packing& packing, int64_t o, int64_t d) {
  const int64_t group = 16 * packing.block;
  for (int64_t i = 0; i < r.n; ++i) {
    U* at = to + packing.value(o + i, d);
    if (!packing.amx) {
      if (stream)
        copy_elements<true>(r.row(i), at, r.size);
      else
        std::memcpy(at, r.row(i), size_t(r.size) * sizeof(U));
    } else if ((o + i) % 2 == 0 && i + 1 < r.n) {
      write_pair<stream>(r.row(i), r.row(i + 1), at, r.size, group);
      ++i;
    } else {
      for (int64_t e = 0; e < r.size; e += 16) scatter(r.row(i) + e, at + e / 16 * group, 16, 2);
    }
  }
}

// Rows that are copied as they are go past the caches where all of them together exceed the last
// one, and lines can be written whole.
bool streams(const kvops_cpu_attn_reshape_and_cache_args& a) {
  const auto& cache = a.key_cache;
  const int64_t bytes = kvops_dtype_size(cache.dtype), tokens = a.key.shape[0];
  auto whole = [&](int64_t elements) { return elements * bytes % 64 == 0; };
  auto aligned = [&](const kvops_tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 64 == 0 && whole(t.stride[0]) &&
           whole(t.stride[1]);
  };
  return a.key.dtype == cache.dtype && aligned(cache) && aligned(a.value_cache) &&
         whole(cache.shape[2]) && whole(cache.shape[3]) &&
         tokens * cache.shape[1] * cache.shape[3] * bytes > last_cache_bytes() / 2;
}

template <class S, class C, bool stream>
kvops_status write(const kvops_cpu_attn_reshape_and_cache_args& a) {
  using U = hwy::UnsignedFromSize<sizeof(C)>;
  const auto key = view<const S, 3>(a.key), value = view<const S, 3>(a.value);
  const auto key_cache = view<U, 4>(a.key_cache), value_cache = view<U, 4>(a.value_cache);
  const int64_t heads = key.shape[1], size = key.shape[2], block = key_cache.shape[2];
  const auto packing = packing_of(a.isa, block, size);
  const auto k_scale = float(a.k_scale), v_scale = float(a.v_scale);
  auto slots = slot_map(a.slot_mapping, key_cache.shape[0], block);
  slots.tokens = key.shape[0];  // there may be more slots
  for_each_run(
      slots, kLongest, 2 * heads * size * int64_t(sizeof(S) + sizeof(C)), a.faults,
      [&](int64_t t, int64_t b, int64_t o, int64_t n) {
        for_each_part<S, C>(key, t, n, k_scale, [&](const Rows<U>& rows, int64_t h, int64_t d) {
          write_keys<stream>(rows, key_cache.at(b, h), packing, o, d);
        });
        for_each_part<S, C>(value, t, n, v_scale, [&](const Rows<U>& rows, int64_t h, int64_t d) {
          write_values<stream>(rows, value_cache.at(b, h), packing, o, d);
        });
      },
      [] {
        if (stream) finish_streams();
      });
  return KVOPS_OK;
}

}  // namespace

kvops_status cpu_attn_reshape_and_cache(const kvops_cpu_attn_reshape_and_cache_args& a) {
  using Codes = DtypeList<f8_e4m3, f8_e5m2>;
  return dispatch_cache<Codes>("cpu_attn_reshape_and_cache", "key", a.key.dtype, a.key_cache.dtype,
                               [&]<class S, class C>() {
                                 if constexpr (std::is_same_v<S, C>)
                                   if (streams(a)) return write<S, C, true>(a);
                                 return write<S, C, false>(a);
                               });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvops::cpu {
KVOPS_CPU_EXPORT(cpu_attn_reshape_and_cache)
}  // namespace kvops::cpu
#endif
