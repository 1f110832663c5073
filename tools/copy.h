// The yardstick of `kvops bench`: copies of as many bytes as a call moves. On the CPU memcpy, plain
// stores and streaming stores, each by one thread and by all, and for calls that mostly read sums
// of as many bytes; on a GPU copies within its memory.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cases/memory.h"

namespace kvops {

// Threads that wait in a short loop: a copy of a few microseconds would drown in a slower start.
class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  // work(i) for i in [0, threads), the last on the calling thread.
  void run(const std::function<void(int)>& work);
  int size() const { return int(threads_.size()) + 1; }
  // Between measurements the waiting threads sleep, so as not to slow others down.
  void rest(bool resting);

 private:
  void serve(int index);
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<int> round_{0}, pending_{0};
  std::atomic<bool> stop_{false}, resting_{true};
};

class Copies {
 public:
  // Copies of bytes / 2, which read and write bytes in all: through `span` bytes
  // of memory, or (0) in the same place over and over. "" or what went wrong.
  std::string prepare(kvops_device device, int64_t bytes, int64_t span, int threads);
  // Adds sums of all bytes, of what copies read and of what they write. CPU only.
  void add_reads();
  // A GPU's copies run on this stream: by its driver and, where graphs are replayed, by kernels.
  void use_stream(void* stream, bool kernels);
  size_t kinds() const { return kinds_.size(); }
  const char* name(size_t kind) const { return kinds_[kind].name; }
  bool is_team(size_t kind) const { return kinds_[kind].team; }
  bool is_read(size_t kind) const { return kinds_[kind].reads; }
  // Copy number i of a kind; successive ones touch other memory.
  bool run(size_t kind, size_t i);
  // The team sleeps, or is awake and waits for the next copy.
  void sleep();
  void wake();

 private:
  using Function = void (*)(void* dst, const void* src, size_t bytes);
  struct Kind {
    const char* name;
    Function copy;
    bool team;
    int kernel = -1;
    bool reads = false;
  };
  std::vector<Kind> kinds_;
  kvops_device device_{};
  int64_t size_ = 0, places_ = 1;
  void* stream_ = nullptr;
  cases::Buffer src_, dst_;
  std::unique_ptr<Team> team_;
};

}  // namespace kvops
