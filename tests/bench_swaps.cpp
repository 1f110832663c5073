// bench_swaps: swap_blocks and swap_blocks_batch beside one copy of the same bytes, on a CUDA
// device: random blocks, pinned memory, medians of the host's clock from the call to the end of the
// stream. Not a test. Bytes of copies to and from the CPU count once, within the device twice.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "kvcache_ops.h"

namespace {

constexpr kvops_device kGpu = {KVOPS_CUDA, 0}, kCpu = {KVOPS_CPU, 0};

void must(kvops_status status) {
  if (status)
    std::printf("%s\n", kvops_last_error()), std::exit(status == KVOPS_UNAVAILABLE ? 77 : 1);
}

void* stream = nullptr;

double now() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void measure(const char* what, const char* direction, int64_t blocks, int64_t size, bool within,
             const std::function<kvops_status()>& call) {
  std::vector<double> all, submit;
  for (int i = 0; i < 25; ++i) {
    double begin = now();
    must(call());
    double queued = now();
    must(kvops_stream_synchronize(kGpu, stream));
    if (i >= 4) all.push_back(now() - begin), submit.push_back(queued - begin);
  }
  std::sort(all.begin(), all.end()), std::sort(submit.begin(), submit.end());
  double median = all[all.size() / 2], bytes = double(blocks * size) * (within ? 2 : 1);
  std::printf("%-18s %s %5lld x %4lld KiB %10.1f us  submit %8.1f us %8.1f GB/s\n", what, direction,
              (long long)blocks, (long long)size / 1024, median, submit[submit.size() / 2],
              bytes / median * 1e-3);
}

struct Side {
  bool host;
  char* data;
};

kvops_tensor tensor(const Side& side, int64_t bytes) {
  return kvops_dense(side.data, side.host ? kCpu : kGpu, side.host ? nullptr : stream, KVOPS_U8, 1,
                     &bytes);
}

void direction(const char* name, Side src, Side dst, int64_t all, int64_t blocks, int64_t size) {
  std::mt19937 random(3);
  std::vector<int64_t> from(size_t(all / size)), to(from.size()), pairs, sources, targets, sizes;
  std::iota(from.begin(), from.end(), 0), std::iota(to.begin(), to.end(), 0);
  std::shuffle(from.begin(), from.end(), random), std::shuffle(to.begin(), to.end(), random);
  for (size_t i = 0; i < size_t(blocks); ++i) {
    pairs.insert(pairs.end(), {from[i], to[i]});
    sources.push_back(int64_t(reinterpret_cast<intptr_t>(src.data + from[i] * size)));
    targets.push_back(int64_t(reinterpret_cast<intptr_t>(dst.data + to[i] * size)));
    sizes.push_back(size);
  }
  bool within = !src.host && !dst.host;
  kvops_swap_blocks_args a = {};
  a.struct_size = sizeof a;
  a.src = tensor(src, all), a.dst = tensor(dst, all), a.block_size_in_bytes = size;
  int64_t shape[] = {blocks, 2};
  a.block_mapping = kvops_dense(pairs.data(), kCpu, nullptr, KVOPS_I64, 2, shape);
  kvops_swap_blocks_batch_args b = {};
  b.struct_size = sizeof b;
  b.queue.device = kGpu, b.queue.stream = stream;
  auto list = [&](std::vector<int64_t>& v) {
    return kvops_dense(v.data(), kCpu, nullptr, KVOPS_I64, 1, &blocks);
  };
  b.src_ptrs = list(sources), b.dst_ptrs = list(targets), b.sizes = list(sizes);
  measure("swap_blocks", name, blocks, size, within, [&] { return kvops_swap_blocks(&a); });
  measure("swap_blocks_batch", name, blocks, size, within,
          [&] { return kvops_swap_blocks_batch(&b); });
  measure("one copy", name, blocks, size, within,
          [&] { return kvops_copy(kGpu, stream, dst.data, src.data, blocks * size); });
}

}  // namespace

int main() {
  constexpr int64_t kAll = int64_t(4) << 30;
  void *first = nullptr, *second = nullptr, *host = nullptr;
  must(kvops_stream_create(kGpu, &stream));
  must(kvops_malloc(kGpu, kAll, &first));
  must(kvops_malloc(kGpu, kAll, &second));
  must(kvops_malloc_pinned(kGpu, kAll, &host));
  must(kvops_fill(kGpu, stream, first, 0x5A, kAll));
  must(kvops_fill(kGpu, stream, second, 0xA5, kAll));
  must(kvops_copy(kGpu, stream, host, first, kAll));
  must(kvops_stream_synchronize(kGpu, stream));
  Side a = {false, static_cast<char*>(first)}, b = {false, static_cast<char*>(second)},
       c = {true, static_cast<char*>(host)};
  const int64_t kShapes[][2] = {{64, 4096},    {4096, 4096},  {4096, 16384}, {256, 32768},
                                {1024, 65536}, {256, 262144}, {128, 524288}, {1024, 2 << 20}};
  for (auto& [blocks, size] : kShapes) {
    direction("D2H", a, c, kAll, blocks, size);
    direction("H2D", c, a, kAll, blocks, size);
    direction("D2D", a, b, kAll, blocks, size);
  }
  return 0;
}
