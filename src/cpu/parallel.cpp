// The only user of OpenMP. A forked child runs serially: OpenMP's threads do not survive a fork.
#include "cpu/parallel.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "core/error.h"
#include "kvcache_ops/options.h"

namespace kvops::cpu {
namespace {

std::atomic<int> wanted{0};  // 0: as many as the process may use
std::atomic<bool> forked{false};

struct Pool {
  kvops_parallel_for function;
  void* context;
};
std::mutex pool_mutex;
Pool pool = {nullptr, nullptr};

Pool host_pool() {
  std::lock_guard lock(pool_mutex);
  return pool;
}

[[gnu::constructor]] void watch_forks() {
  pthread_atfork([] { pool_mutex.lock(); }, [] { pool_mutex.unlock(); },
                 [] {
                   forked = true;
                   pool_mutex.unlock();
                 });
}

// What a task of the host's pool needs to know.
struct Work {
  int64_t n, grain;
  FunctionRef<void(int64_t, int64_t)>* body;
};
void run_piece(void* context, int64_t i) {
  auto& w = *static_cast<Work*>(context);
  (*w.body)(i * w.grain, std::min(w.n, (i + 1) * w.grain));
}

}  // namespace

int num_threads() {
  if (forked) return 1;
  int n = wanted;
  return n ? n : omp_get_max_threads();
}

bool has_host_pool() { return host_pool().function != nullptr; }

void parallel_pieces(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) {
  if (n <= 0) return;
  int64_t pieces = (n - 1) / grain + 1;
  Work work = {n, grain, &body};
  auto host = pieces > 1 ? host_pool() : Pool{};
  if (host.function) return host.function(host.context, pieces, run_piece, &work);
  // Always a team of the same size: for a smaller one libgomp ends the threads that are too many,
  // and makes them anew for the next large one, at tens of us each.
  const int threads = num_threads();
  if (threads <= 1 || pieces <= 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < pieces; ++i) run_piece(&work, i);
    return;
  }
  // One piece each at most: the same thread has the same one again, and its memory in its cache.
  if (pieces <= threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t i = 0; i < pieces; ++i) run_piece(&work, i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < pieces; ++i) run_piece(&work, i);
}

}  // namespace kvops::cpu

using namespace kvops;

extern "C" {

kvops_status kvops_set_num_threads(int64_t threads) {
  if (threads < 0 || threads > 4096)
    return fail(KVOPS_INVALID_ARGUMENT, "kvops_set_num_threads", "threads",
                "is %lld, expected 0 to 4096", (long long)threads);
  cpu::wanted = int(threads);
  return KVOPS_OK;
}

kvops_status kvops_set_parallel_for(kvops_parallel_for function, void* context) {
  std::lock_guard lock(cpu::pool_mutex);
  cpu::pool = {function, context};
  return KVOPS_OK;
}

}  // extern "C"
