// Copies of many pieces of memory by one kernel: see copies.h. A block of threads takes tiles of
// 16 KiB, by 16 bytes at a time where both sides and the length of the piece are multiples of that,
// by 4 or by single bytes elsewhere.
#include <algorithm>
#include <climits>

#include "gpu/copies.h"
#include "gpu/vec.cuh"

namespace kvops::KVOPS_GPU {
namespace {

using namespace kvops::gpu;

constexpr int kThreads = 256, kUnroll = 4, kTile = kThreads * kUnroll * 16;

// Thread blocks of copies to or from the CPU: enough to fill PCIe 5 x16 by an H200; more would only
// keep others from its SMs while they wait.
constexpr int64_t kLinkBlocks = 16;

template <class W>
__device__ inline void copy_tile(char* to, const char* from, int bytes) {
  int words = bytes / int(sizeof(W));
  for (int first = int(threadIdx.x); first < words; first += kThreads * kUnroll) {
    W word[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i)
      if (first + i * kThreads < words)
        word[i] = reinterpret_cast<const W*>(from)[first + i * kThreads];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i)
      if (first + i * kThreads < words) reinterpret_cast<W*>(to)[first + i * kThreads] = word[i];
  }
}

template <int N>
__global__ void __launch_bounds__(kThreads) copy_kernel(KVOPS_IN_PLACE Pieces<N> pieces) {
  uint32_t tiles = (pieces.longest + kTile - 1) / kTile;  // of a piece
  for (uint32_t block = blockIdx.x; block < pieces.count * tiles; block += gridDim.x) {
    uint32_t i = block / tiles, first = (block - i * tiles) * kTile;
    int bytes = int(pieces.bytes[i]) - int(first);
    if (bytes <= 0) continue;
    if (bytes > kTile) bytes = kTile;
    const char* from = pieces.at[i].from + first;
    char* to = pieces.at[i].to + first;
    auto all =
        reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) | uintptr_t(bytes);
    if (all % 16 == 0)
      copy_tile<Words4>(to, from, bytes);
    else if (all % 4 == 0)
      copy_tile<uint32_t>(to, from, bytes);
    else
      copy_tile<uint8_t>(to, from, bytes);
  }
}

// One copy whose sides overlap, by one block: tiles are read before they are written, in the order
// in which no tile is written before it has been read.
__global__ void __launch_bounds__(kMaxThreads)
    move_kernel(char* to, const char* from, int64_t bytes) {
  constexpr int kBytes = 8, kAll = kMaxThreads * kBytes;
  int64_t tiles = (bytes + kAll - 1) / kAll;
  for (int64_t t = 0; t < tiles; ++t) {
    int64_t first = (to < from ? t : tiles - 1 - t) * kAll + int(threadIdx.x);
    char byte[kBytes];
#pragma unroll
    for (int i = 0; i < kBytes; ++i)
      if (first + i * kMaxThreads < bytes) byte[i] = from[first + i * kMaxThreads];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kBytes; ++i)
      if (first + i * kMaxThreads < bytes) to[first + i * kMaxThreads] = byte[i];
    __syncthreads();
  }
}

}  // namespace

Copies::Copies(const char* op, const kvops_tensor& on, bool any_order)
    : op_(op), on_(on), batch_{any_order} {}

void Copies::know(const kvops_tensor& t) {
  auto begin = reinterpret_cast<uintptr_t>(t.data), end = begin + uintptr_t(bytes_above(t));
  for (auto& m : known_) {
    if (begin > m.end || m.begin > end) continue;
    m.begin = std::min(m.begin, begin), m.end = std::max(m.end, end);
    return;
  }
  known_.push_back({begin, end, 0, true, false});
  std::sort(known_.begin(), known_.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
}

Memory Copies::memory(uintptr_t address, Memory& near) {
  auto holds = [&](const Memory& m) { return m.begin <= address && address < m.end; };
  auto after = [&](uintptr_t x) {
    return std::upper_bound(known_.begin(), known_.end(), x,
                            [](uintptr_t y, const Memory& m) { return y < m.begin; });
  };
  if (holds(near)) return near;
  auto next = after(address);
  if (next != known_.begin() && holds(next[-1])) return near = next[-1];
  Memory found = memory_at(reinterpret_cast<const void*>(address), on_);
  if (found.end - found.begin > 1) known_.insert(after(found.begin), near = found);
  return found;
}

// A range of the CPU's may be pinned in parts: each part is a copy of its own, for the driver, too.
Copies::Side Copies::look(const char* address, int64_t bytes, Memory& near) {
  auto begin = reinterpret_cast<uintptr_t>(address), last = begin + uintptr_t(bytes) - 1;
  Memory m = memory(begin, near);
  Side side = {begin + uintptr_t(m.shift), bytes, m.reachable, m.host};
  if (m.reachable && last < m.end) return side;
  if (m.reachable && m.end - m.begin > 1) {
    side.bytes = int64_t(m.end - begin);
    return side;
  }
  Memory end = memory(last, near);
  if (end.reachable == m.reachable && end.host == m.host && end.shift == m.shift) return side;
  if (end.begin > begin && end.begin < last) side.bytes = int64_t(end.begin - begin);
  side.reachable = false;
  return side;
}

bool Copies::is_reachable(const char* address, int64_t bytes) {
  for (int64_t done = 0; done < bytes;) {
    Side side = look(address + done, bytes - done, near_[0]);
    if (!side.reachable) return false;
    done += side.bytes;
  }
  return true;
}

kvops_status Copies::add_parts(Copy copy) {
  for (Copy part = copy; copy.bytes > 0; copy.bytes -= part.bytes) {
    Side from = look(copy.from, copy.bytes, near_[0]), to = look(copy.to, copy.bytes, near_[1]);
    part = copy, part.bytes = std::min(from.bytes, to.bytes);
    if (auto s = add_whole(part, from, to)) return s;
    copy.from += part.bytes, copy.to += part.bytes;
  }
  return KVOPS_OK;
}

kvops_status Copies::add_whole(const Copy& copy, const Side& from, const Side& to) {
  if (!from.reachable || !to.reachable || (from.host && to.host))
    return driver_copies(op_, on_, &copy, 1, nullptr);
  if (ranges_meet(copy.to, copy.from, copy.bytes))
    return launch(op_, move_kernel, {.x = 1, .threads = kMaxThreads}, on_, copy.to, copy.from,
                  copy.bytes);
  bool link = from.host || to.host;
  if (copy.bytes >= (link ? kLongOnLink : kLongWithin)) {
    long_.push_back(copy);
    return KVOPS_OK;
  }
  for (int64_t at = 0; at < copy.bytes; at += kPiece)
    if (auto s = append(from.address + uintptr_t(at), to.address + uintptr_t(at),
                        uint32_t(std::min(copy.bytes - at, kPiece)), link))
      return s;
  return KVOPS_OK;
}

template <int N>
kvops_status Copies::launch_few(const Grid& grid, const Pieces<kMost>& pieces) {
  Pieces<N> few;
  few.count = pieces.count, few.longest = pieces.longest;
  std::copy_n(pieces.bytes, pieces.count, few.bytes);
  std::copy_n(pieces.at, pieces.count, few.at);
  return launch(op_, copy_kernel<N>, grid, on_, few);
}

kvops_status Copies::launch_pieces(Pieces<kMost>& pieces) {
  if (!pieces.count) return KVOPS_OK;
  int64_t blocks = int64_t(pieces.count) * ((pieces.longest + kTile - 1) / kTile);
  if (&pieces == &pieces_[1]) blocks = std::min(blocks, kLinkBlocks);
  Grid grid = {.x = blocks, .threads = kThreads};
  auto status = pieces.count <= uint32_t(kFew) ? launch_few<kFew>(grid, pieces)
                : pieces.count <= uint32_t(kSome)
                    ? launch_few<kSome>(grid, pieces)
                    : launch(op_, copy_kernel<kMost>, grid, on_, pieces);
  pieces.count = pieces.longest = 0;
  most_ = kMost;
  return status;
}

kvops_status Copies::flush() {
  for (auto& pieces : pieces_)
    if (auto s = launch_pieces(pieces)) return s;
  if (long_.empty()) return KVOPS_OK;
  auto s = driver_copies(op_, on_, long_.data(), int64_t(long_.size()), &batch_);
  long_.clear();
  return s;
}

}  // namespace kvops::KVOPS_GPU
