// Threads of the CPU back end. Work is cut by index, never by thread, so that results do not depend
// on how many threads there are.
#pragma once
#include <cstdint>

namespace kvops::cpu {

// A reference to a callable; it must outlive the call it is passed to.
template <class Signature>
class FunctionRef;
template <class R, class... A>
class FunctionRef<R(A...)> {
 public:
  template <class F>
  FunctionRef(F& f)
      : object_(&f), call_([](void* o, A... a) -> R { return (*static_cast<F*>(o))(a...); }) {}
  R operator()(A... a) const { return call_(object_, a...); }

 private:
  void* object_;
  R (*call_)(void*, A...);
};

// Calls body(begin, end) for consecutive pieces of [0, n), each of `grain` indices (the last one
// may be shorter), on as many threads as there are, or on the caller's alone when n <= grain.
void parallel_pieces(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> body);

template <class F>
void parallel_for(int64_t n, int64_t grain, F&& body) {
  parallel_pieces(n, grain < 1 ? 1 : grain, FunctionRef<void(int64_t, int64_t)>(body));
}

int num_threads();

// Has the host taken over the threads (kvops_set_parallel_for)?
bool has_host_pool();

// Grain for rows that each move this many bytes: pieces of at least 128 KiB, about 5 us of memory
// traffic and several times what it takes to wake a thread.
constexpr int64_t rows_per_piece(int64_t bytes_per_row) {
  constexpr int64_t kPiece = int64_t{128} << 10;
  return bytes_per_row <= 0 ? kPiece : (kPiece + bytes_per_row - 1) / bytes_per_row;
}

}  // namespace kvops::cpu
