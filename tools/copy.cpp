// Copies by memcpy, plain and streaming stores, and sums, alone and by a team of threads.
#include "copy.h"

#include <algorithm>
#include <cstring>

#include "graph.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvops {
namespace {

void by_memcpy(void* dst, const void* src, size_t bytes) { std::memcpy(dst, src, bytes); }

#if defined(__x86_64__)
// Both take whole 32-byte steps; the rest goes byte by byte.
template <class Store>
__attribute__((target("avx"), always_inline)) inline void by_stores(void* dst, const void* src,
                                                                    size_t bytes, Store store) {
  auto* to = static_cast<char*>(dst);
  auto* from = static_cast<const char*>(src);
  size_t i = 0;
  for (; i + 32 <= bytes; i += 32)
    store(to + i, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
  std::memcpy(to + i, from + i, bytes - i);
}

__attribute__((target("avx"))) void by_plain_stores(void* dst, const void* src, size_t bytes) {
  by_stores(
      dst, src, bytes, [](char* to, __m256i v) __attribute__((target("avx"))) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
      });
}

// dst is 32-byte aligned: pieces of buffers that are 256-byte aligned.
__attribute__((target("avx"))) void by_streaming_stores(void* dst, const void* src, size_t bytes) {
  by_stores(
      dst, src, bytes, [](char* to, __m256i v) __attribute__((target("avx"))) {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to), v);
      });
  _mm_sfence();
}

// The sum of whole 512-byte steps, eight chains; kAhead: asks for lines so many bytes ahead.
template <int64_t kAhead>
__attribute__((target("avx2"))) void sum(const char* from, size_t bytes) {
  __m256i chains[8] = {};
  for (size_t i = 0; i + 512 <= bytes; i += 512)
    for (size_t j = 0; j < 512; j += 32) {
      if (kAhead && j % 64 == 0) _mm_prefetch(from + i + j + kAhead, _MM_HINT_T0);
      auto v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + j));
      chains[j / 32 % 8] = _mm256_add_epi32(chains[j / 32 % 8], v);
    }
  for (auto& chain : chains) __asm__ volatile("" : : "x"(chain));
}

template <int64_t kAhead>
__attribute__((target("avx2"))) void by_sums(void* dst, const void* src, size_t bytes) {
  sum<kAhead>(static_cast<const char*>(src), bytes);
  sum<kAhead>(static_cast<const char*>(dst), bytes);
}
#endif

}  // namespace

Team::Team(int threads) {
  for (int i = 0; i + 1 < threads; ++i) threads_.emplace_back([this, i] { serve(i); });
}

Team::~Team() {
  stop_ = true;
  rest(false);
  for (auto& thread : threads_) thread.join();
}

void Team::rest(bool resting) {
  resting_ = resting;
  resting_.notify_all();
}

void Team::serve(int index) {
  for (int seen = 0; !stop_.load(std::memory_order_relaxed);) {
    if (round_.load(std::memory_order_acquire) == seen) {
      resting_.wait(true, std::memory_order_relaxed);
      continue;
    }
    ++seen;
    (*work_)(index);
    pending_.fetch_sub(1, std::memory_order_release);
  }
}

void Team::run(const std::function<void(int)>& work) {
  work_ = &work;
  pending_ = int(threads_.size());
  round_.fetch_add(1, std::memory_order_release);
  work(int(threads_.size()));
  while (pending_.load(std::memory_order_acquire)) {
  }
}

std::string Copies::prepare(kvops_device device, int64_t bytes, int64_t span, int threads) {
  device_ = device;
  size_ = std::max<int64_t>(bytes / 2, 64);
  auto step = (size_ + 255) / 256 * 256;
  places_ = span ? std::max<int64_t>(2, span / (2 * step)) : 1;
  for (auto* buffer : {&src_, &dst_}) {
    auto problem = buffer->allocate(device, step * places_, false);
    if (!problem.empty()) return problem;
    if (kvops_fill(device, nullptr, buffer->data(), 1, step * places_)) return kvops_last_error();
  }
  if (device.type != KVOPS_CPU) {
    kinds_ = {{"device", nullptr, false}};
    return "";
  }
  kinds_ = {{"memcpy", by_memcpy, false}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx")) {
    kinds_.push_back({"plain", by_plain_stores, false});
    kinds_.push_back({"streaming", by_streaming_stores, false});
  }
#endif
  if (threads < 2) return "";
  team_ = std::make_unique<Team>(threads);
  for (auto kind : std::vector<Kind>(kinds_)) kinds_.push_back({kind.name, kind.copy, true});
  return "";
}

void Copies::add_reads() {
#if defined(__x86_64__)
  if (device_.type != KVOPS_CPU || !__builtin_cpu_supports("avx2")) return;
  for (bool team : {false, true}) {
    if (team && !team_) continue;
    kinds_.push_back({"sum", by_sums<0>, team, -1, true});
    kinds_.push_back({"sum, 2 KiB ahead", by_sums<2048>, team, -1, true});
  }
#endif
}

void Copies::use_stream(void* stream, bool kernels) {
  stream_ = stream;
  for (int i = 0; kernels && i < kCopyKernels; ++i) kinds_.push_back({"kernel", nullptr, false, i});
}

void Copies::sleep() {
  if (team_) team_->rest(true);
}

void Copies::wake() {
  if (!team_) return;
  team_->rest(false);
  team_->run([](int) {});
}

bool Copies::run(size_t kind, size_t i) {
  auto step = (size_ + 255) / 256 * 256;
  auto offset = int64_t(i % size_t(places_)) * step;
  auto* dst = static_cast<char*>(dst_.data()) + offset;
  auto* src = static_cast<const char*>(src_.data()) + offset;
  auto& k = kinds_[kind];
  if (k.kernel >= 0) return copy_by_kernel(k.kernel, stream_, dst, src, size_);
  if (!k.copy) return kvops_copy(device_, stream_, dst, src, size_) == KVOPS_OK;
  if (!k.team) {
    k.copy(dst, src, size_t(size_));
    return true;
  }
  auto part = (size_ / team_->size() + 255) / 256 * 256;
  team_->run([&](int thread) {
    auto begin = std::min(size_, thread * part);
    auto end = thread + 1 == team_->size() ? size_ : std::min(size_, begin + part);
    k.copy(dst + begin, src + begin, size_t(end - begin));
  });
  return true;
}

}  // namespace kvops
