// concat_mla_q: out = [ql_nope | q_pe] along the last dimension, bit for bit.
// All groups of 16 bytes of all rows of out are numbered; a block takes kThreads * kUnroll of them,
// a thread those that are kThreads apart, with all loads on their way before the first store.
// Rows at other addresses are cut into words, or into elements.
#include "gpu/vec.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr int kThreads = 256;

template <class T>
struct Queries {
  TensorView<const T, 3> nope, rope;
  TensorView<T, 3> out;
  Splitter groups, heads;  // of a row; of a token
  int64_t items, nope_groups;
};

template <class T, int N, int kUnroll>
__global__ void __launch_bounds__(kThreads) concat_mla_q_kernel(KVOPS_IN_PLACE Queries<T> q) {
  int64_t first = int64_t(blockIdx.x) * (int(blockDim.x) * kUnroll) + int(threadIdx.x);
  Group<T, N> x[kUnroll];
  T* to[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    int64_t item = first + i * int(blockDim.x);
    if (item >= q.items) continue;
    auto [row, group] = q.groups(item);
    auto [t, h] = q.heads(row);
    bool nope = group < q.nope_groups;
    const T* from = nope ? q.nope.at(t, h) : q.rope.at(t, h);
    x[i] = load<N, true>(from + (nope ? group : group - q.nope_groups) * N);
    to[i] = q.out.at(t, h) + group * N;
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i)
    if (first + i * int(blockDim.x) < q.items) store<true>(to[i], x[i]);
}

template <class T, int N>
kvops_status start(const kvops_concat_mla_q_args& a) {
  int64_t groups = a.out.shape[2] / N, heads = a.out.shape[1];
  Queries<T> q = {view<const T, 3>(a.ql_nope),
                  view<const T, 3>(a.q_pe),
                  view<T, 3>(a.out),
                  Splitter(groups),
                  Splitter(heads),
                  a.out.shape[0] * heads * groups,
                  a.ql_nope.shape[2] / N};
  auto queue = [&]<int kUnroll>(int threads) {
    Grid grid = {.x = (q.items + threads * kUnroll - 1) / (threads * kUnroll), .threads = threads};
    return launch("concat_mla_q", concat_mla_q_kernel<T, N, kUnroll>, grid, a.out, q);
  };
  int64_t units = compute_units(a.out);
  if (q.items < 512 * units) return queue.template operator()<1>(128);
  return q.items < 4096 * units ? queue.template operator()<2>(kThreads)
                                : queue.template operator()<4>(kThreads);
}

// A copy looks at the size of elements only.
struct Bits16 {
  uint16_t bits;
};

template <class T>
kvops_status run(const kvops_concat_mla_q_args& a) {
  constexpr int64_t kSize = sizeof(T);
  auto aligned = [&](int64_t bytes) {
    for (auto* t : {&a.ql_nope, &a.q_pe, &a.out})
      if (!is_empty(*t) && !(t->shape[2] * kSize % bytes == 0 && rows_aligned(*t, kSize, bytes)))
        return false;
    return a.ql_nope.shape[2] * kSize % bytes == 0;
  };
  if (aligned(16)) return start<T, kGroup<T>>(a);
  if (kSize < 4 && aligned(4)) return start<T, 4 / int(kSize)>(a);
  return start<T, 1>(a);
}

}  // namespace

kvops_status concat_mla_q(const kvops_concat_mla_q_args& a) {
  return a.out.dtype == KVOPS_F32 ? run<float>(a) : run<Bits16>(a);
}

}  // namespace kvops::KVOPS_GPU
