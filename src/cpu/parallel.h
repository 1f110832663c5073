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

}  // namespace kvops::cpu
