// gather_and_maybe_dequant_cache: the entries of a batch of requests as rows of T.
//
//   out[t, j] = RN_T(decode(entry[j]) * kv_scale), the product rounded to f32; T entries are copied
//
// gather.cuh with groups of 16 bytes of a row, single elements where codes or rows are not aligned.
#include "core/dispatch.h"
#include "gpu/gather.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;
using Args = kvops_gather_and_maybe_dequant_cache_args;

constexpr const char* kOp = "gather_and_maybe_dequant_cache";

template <class T, class C, int N>
struct Dequantise {
  using Raw = Group<C, N>;
  static constexpr int kFrom = N * sizeof(C), kTo = N * sizeof(T);
  const float* kv_scale;
  float scale = 0;

  __device__ void start() { scale = *kv_scale; }
  __device__ Raw read(const uint8_t* from) const {
    return load<N, true>(reinterpret_cast<const C*>(from));
  }
  __device__ void write(uint8_t* to, const Raw& codes) const {
    store<true>(reinterpret_cast<T*>(to), convert_back<T>(codes, scale));
  }
  __device__ void zero(uint8_t* to) const { store<true>(reinterpret_cast<T*>(to), Group<T, N>{}); }
};

}  // namespace

kvops_status gather_and_maybe_dequant_cache(const Args& a) {
  auto map = gather_map(a, a.cu_seq_lens, true, a.out.shape[0]);
  auto at = gather_layout(a.kv_cache, a.out);
  if (a.kv_cache.dtype == a.out.dtype) return gather_copies(kOp, map, a.out, at);
  return dispatch(kOp, "out", a.out.dtype, Floats{}, [&]<class T>() {
    return dispatch(kOp, "kv_cache", a.kv_cache.dtype, Fp8s{}, [&]<class C>() {
      constexpr int N = kGroup<T>;
      auto start = [&]<int kN>() {
        Dequantise<T, C, kN> reader = {static_cast<const float*>(a.kv_scale.data)};
        return gather_one(kOp, map, a.out, at, reader, a.out.shape[1] / kN);
      };
      return a.out.shape[1] % N == 0 && at.rows_at(16) && at.entries_at(N)
                 ? start.template operator()<N>()
                 : start.template operator()<1>();
    });
  });
}

}  // namespace kvops::KVOPS_GPU
