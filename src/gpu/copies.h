// How swap_blocks and swap_blocks_batch copy, on the host: which copies a kernel makes and which
// the driver.
//
//   kernel   up to kMost pieces of 256 KiB, their addresses in the kernel's parameters; the CPU's
//            memory where it is pinned. A copy of blocks within an H200's memory, 64 KiB each, is
//            bound by memory; the driver takes 4 us for each one, also in a batch.
//   driver   one copy at a time: memory that no kernel reaches (pageable, another device's), and
//            copies within the device that are long enough to be worth one each.
//            As a batch: long copies between CPU and device. The copy engine moves 55 GB/s where
//            kernels move 51, but each of its copies takes 0.5 us more: even at 512 KiB.
#pragma once
#include <vector>

#include "core/copies.h"
#include "gpu/launch.h"

namespace kvops::KVOPS_GPU {

// ---- the back end's part ------------------------------------------------------------------------

// What an address leads to; the whole range [begin, end) around it has the same answer, if one is
// known.
struct Memory {
  uintptr_t begin = 0, end = 0;
  int64_t shift = 0;       // to the address that kernels use
  bool reachable = false;  // by kernels of the device
  bool host = false;       // the CPU's

  // Are so many bytes from there on in the range, and within reach?
  bool holds(const void* p, int64_t bytes) const {
    auto address = reinterpret_cast<uintptr_t>(p);
    return reachable && begin <= address && address < end && uint64_t(bytes) <= end - address;
  }
};
Memory memory_at(const void* address, const kvops_tensor& on);

// Is a graph being recorded on the stream? If that cannot be said: yes.
bool is_capturing(const kvops_tensor& on);

// Queues n copies that do not depend on each other: as a batch if that is given, one after the
// other where there is no such thing. The error names the element of the copy that failed.
struct Batch {
  bool any_order;  // sources may be read before earlier work of the stream ends
};
kvops_status driver_copies(const char* op, const kvops_tensor& on, const Copy* copies, int64_t n,
                           const Batch* batch);

// ---- the common part ----------------------------------------------------------------------------

inline constexpr int64_t kPiece = 256 << 10, kLongOnLink = 1 << 20, kLongWithin = 32 << 20;

// Pieces of one kernel: its parameters take longer to queue the larger they are. A call begins with
// some, so that the device works while the others are listed.
#if defined(__HIP__)
inline constexpr int kFew = 50, kSome = 200, kMost = 200;  // parameters have 4 KiB
#else
inline constexpr int kFew = 50, kSome = 300, kMost = 1000;  // 20 KiB
#endif

struct Piece {
  const char* from;
  char* to;
};
template <int N>
struct Pieces {
  uint32_t count = 0, longest = 0;
  uint32_t bytes[N];
  Piece at[N];
};

// Copies that do not depend on each other between two calls of flush().
class Copies {
 public:
  Copies(const char* op, const kvops_tensor& on, bool any_order);
  // The tensor lies on the device: its addresses are not asked for.
  void know(const kvops_tensor& t);
  bool is_reachable(const char* address, int64_t bytes);
  kvops_status add(const Copy& copy) {
    auto &from = near_[0], &to = near_[1];
    const bool apart = copy.to >= copy.from + copy.bytes || copy.from >= copy.to + copy.bytes;
    if (copy.bytes > kPiece || !apart || !from.holds(copy.from, copy.bytes) ||
        !to.holds(copy.to, copy.bytes) || (from.host && to.host))
      return add_parts(copy);
    return append(reinterpret_cast<uintptr_t>(copy.from) + uintptr_t(from.shift),
                  reinterpret_cast<uintptr_t>(copy.to) + uintptr_t(to.shift), uint32_t(copy.bytes),
                  from.host || to.host);
  }
  kvops_status flush();

 private:
  // Where kernels find the first `bytes` from an address on.
  struct Side {
    uintptr_t address;
    int64_t bytes;
    bool reachable, host;
  };
  Side look(const char* address, int64_t bytes, Memory& near);
  Memory memory(uintptr_t address, Memory& near);
  kvops_status add_parts(Copy copy);
  kvops_status add_whole(const Copy& copy, const Side& from, const Side& to);
  kvops_status append(uintptr_t from, uintptr_t to, uint32_t bytes, bool link) {
    auto& pieces = pieces_[link];
    auto i = pieces.count++;
    pieces.bytes[i] = bytes;
    pieces.at[i] = {reinterpret_cast<const char*>(from), reinterpret_cast<char*>(to)};
    if (bytes > pieces.longest) pieces.longest = bytes;
    return pieces.count < uint32_t(most_) ? KVOPS_OK : launch_pieces(pieces);
  }
  template <int N>
  kvops_status launch_few(const Grid& grid, const Pieces<kMost>& pieces);
  kvops_status launch_pieces(Pieces<kMost>& pieces);

  const char* op_;
  const kvops_tensor& on_;
  Batch batch_;
  std::vector<Memory> known_;  // by address, apart from each other
  Memory near_[2];             // most copies lie where those before them did
  std::vector<Copy> long_;
  Pieces<kMost> pieces_[2];  // within the device; to or from the CPU
  int most_ = kSome;
};

}  // namespace kvops::KVOPS_GPU
