// swap_blocks and swap_blocks_batch on a GPU, against copies on the CPU made one after the other:
// every direction, pinned, registered and pageable memory, dependent pairs, graphs, long copies.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>

#include "graph.h"

using namespace test;

namespace {

std::mt19937 generator(13);

int64_t below(int64_t n) { return int64_t(generator() % uint64_t(n)); }

void randomise(std::vector<uint8_t>& bytes) {
  for (auto& b : bytes) b = uint8_t(generator());
}

enum class Where { device, pinned, pageable, registered, half_registered };
constexpr Where kHosts[] = {Where::pinned, Where::pageable, Where::registered,
                            Where::half_registered};

// Bytes somewhere, and what they should be.
class Place {
 public:
  Place(Where where, int64_t bytes) : where_(where), h(size_t(bytes)) {
    if (where == Where::device) {
      need(kvops_malloc(kGpu, bytes, &data_));
    } else if (where == Where::pinned) {
      need(kvops_malloc_pinned(kGpu, bytes, &data_));
    } else {
      data_ = std::aligned_alloc(4096, size_t(bytes + 4095) / 4096 * 4096);
      auto some = where == Where::registered ? bytes : bytes / 2 / 4096 * 4096;
      if (where != Where::pageable && some)
        registered_ = cudaHostRegister(data_, size_t(some), 0) == cudaSuccess;
    }
    randomise(h);
    up();
  }
  ~Place() {
    if (registered_) cudaHostUnregister(data_);
    if (where_ == Where::device)
      kvops_free(kGpu, data_);
    else if (where_ == Where::pinned)
      kvops_free_pinned(kGpu, data_);
    else
      std::free(data_);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  void up() {
    if (where_ != Where::device) return void(std::memcpy(data_, h.data(), h.size()));
    need(kvops_copy(kGpu, nullptr, data_, h.data(), int64_t(h.size())));
    need(kvops_stream_synchronize(kGpu, nullptr));
  }
  // Waits for nothing but the copy of this.
  bool is_as_expected() const {
    std::vector<uint8_t> got(h.size());
    if (where_ != Where::device) {
      std::memcpy(got.data(), data_, h.size());
    } else {
      need(kvops_copy(kGpu, nullptr, got.data(), data_, int64_t(h.size())));
      need(kvops_stream_synchronize(kGpu, nullptr));
    }
    return got == h;
  }
  char* data() const { return static_cast<char*>(data_); }
  kvops_tensor tensor(const Stream& stream) const {
    auto bytes = int64_t(h.size());
    bool device = where_ == Where::device;
    return kvops_dense(data_, device ? kGpu : kCpu, device ? stream.get() : nullptr, KVOPS_U8, 1,
                       &bytes);
  }

 private:
  Where where_;
  void* data_ = nullptr;
  bool registered_ = false;

 public:
  std::vector<uint8_t> h;
};

kvops_tensor list(std::vector<int64_t>& v) {
  auto n = int64_t(v.size());
  return kvops_dense(v.data(), kCpu, nullptr, KVOPS_I64, 1, &n);
}

kvops_swap_blocks_args swap(const kvops_tensor& src, const kvops_tensor& dst,
                            std::vector<int64_t>& pairs, int64_t block) {
  kvops_swap_blocks_args a = {};
  a.struct_size = sizeof a;
  a.src = src, a.dst = dst, a.block_size_in_bytes = block;
  int64_t shape[] = {int64_t(pairs.size()) / 2, 2};
  a.block_mapping = kvops_dense(pairs.data(), kCpu, nullptr, KVOPS_I64, 2, shape);
  return a;
}

// The same on the CPU's copies, pair by pair.
void expect(const uint8_t* src, uint8_t* dst, const std::vector<int64_t>& pairs, int64_t block) {
  for (size_t i = 0; i < pairs.size(); i += 2)
    std::memmove(dst + pairs[i + 1] * block, src + pairs[i] * block, size_t(block));
}

// Runs of blocks, single ones, some onto themselves.
std::vector<int64_t> any_pairs(int64_t count, int64_t from_blocks, int64_t to_blocks) {
  std::vector<int64_t> pairs;
  int64_t from = 0, to = 0;
  for (int64_t i = 0; i < count; ++i) {
    bool runs = i && below(3) && from + 1 < from_blocks && to + 1 < to_blocks;
    from = runs ? from + 1 : below(from_blocks), to = runs ? to + 1 : below(to_blocks);
    if (below(20) == 0) to = from = std::min(from, to_blocks - 1);
    pairs.insert(pairs.end(), {from, to});
  }
  return pairs;
}

constexpr int64_t kSizes[] = {1, 3, 20, 48, 4096, 65536 + 16, 70001};

}  // namespace

TEST_CASE("swap_blocks on a GPU: pairs in one tensor take effect in order") {
  Stream stream;
  for (int64_t block : kSizes) {
    for (int64_t blocks : {2, 7, 300}) {
      if (block * blocks > (8 << 20)) continue;
      Place memory(Where::device, block * blocks + 5);
      for (int64_t count : {1, 40, 2500}) {
        auto pairs = any_pairs(count, blocks, blocks);
        expect(memory.h.data(), memory.h.data(), pairs, block);
        auto a = swap(memory.tensor(stream), memory.tensor(stream), pairs, block);
        REQUIRE(kvops_swap_blocks(&a) == KVOPS_OK);
        stream.wait();
        CHECK(memory.is_as_expected());
      }
    }
  }
}

TEST_CASE("swap_blocks on a GPU: src and dst may overlap by part of a block") {
  Stream stream;
  for (int64_t block : {1, 24, 4096, 100'003}) {
    constexpr int64_t kBlocks = 12;
    for (int64_t shift : {int64_t(1), block / 2, block, block + 1, 3 * block}) {
      for (bool back : {false, true}) {
        Place memory(Where::device, block * kBlocks + shift);
        auto pairs = any_pairs(60, kBlocks, kBlocks);
        auto low = memory.tensor(stream), high = low;
        low.shape[0] = high.shape[0] = block * kBlocks;
        high.data = memory.data() + shift;
        auto* first = memory.h.data();
        if (back)
          expect(first + shift, first, pairs, block);
        else
          expect(first, first + shift, pairs, block);
        auto a = swap(back ? high : low, back ? low : high, pairs, block);
        REQUIRE(kvops_swap_blocks(&a) == KVOPS_OK);
        stream.wait();
        CHECK(memory.is_as_expected());
      }
    }
  }
}

TEST_CASE("swap_blocks on a GPU: to and from the CPU, whatever its memory is") {
  Stream stream;
  for (auto where : kHosts) {
    for (int64_t block : {int64_t(3), int64_t(4096), int64_t(65536 + 16), int64_t(700'000)}) {
      int64_t blocks = block > 100'000 ? 24 : 150;
      Place host(where, block * blocks), device(Where::device, block * blocks);
      for (int64_t count : {1, 30, 1200}) {
        auto pairs = any_pairs(count, blocks, blocks);  // the last of many writers wins
        expect(host.h.data(), device.h.data(), pairs, block);
        auto a = swap(host.tensor(stream), device.tensor(stream), pairs, block);
        REQUIRE(kvops_swap_blocks(&a) == KVOPS_OK);
        stream.wait();
        CHECK(device.is_as_expected());
        pairs = any_pairs(count, blocks, blocks);
        expect(device.h.data(), host.h.data(), pairs, block);
        a = swap(device.tensor(stream), host.tensor(stream), pairs, block);
        REQUIRE(kvops_swap_blocks(&a) == KVOPS_OK);
        if (where != Where::pageable) stream.wait();  // that is complete on return
        CHECK(host.is_as_expected());
        stream.wait();
      }
    }
  }
}

TEST_CASE("swap_blocks on a GPU: offsets past 2^32 bytes") {
  Stream stream;
  constexpr int64_t kBlock = 1 << 20, kBlocks = 4100;
  void* data = nullptr;
  if (kvops_malloc(kGpu, kBlock * kBlocks, &data)) return;  // needs 4 GiB
  Place small(Where::device, 2 * kBlock);
  auto big = small.tensor(stream);
  big.data = data, big.shape[0] = kBlock * kBlocks;
  std::vector<int64_t> pairs = {0, kBlocks - 1, 1, kBlocks - 3};
  auto a = swap(small.tensor(stream), big, pairs, kBlock);
  REQUIRE(kvops_swap_blocks(&a) == KVOPS_OK);
  std::vector<int64_t> back = {kBlocks - 1, 1, kBlocks - 3, 0};
  expect(std::vector<uint8_t>(small.h).data(), small.h.data(), {0, 1, 1, 0}, kBlock);
  a = swap(big, small.tensor(stream), back, kBlock);
  REQUIRE(kvops_swap_blocks(&a) == KVOPS_OK);
  stream.wait();
  CHECK(small.is_as_expected());
  need(kvops_free(kGpu, data));
}

namespace {

// Copies between places, none of which writes what another one reads or writes: the upper half of
// each place is written, piece by piece, from lower halves.
struct Batch {
  std::vector<int64_t> from, to, sizes;

  Batch(const std::vector<Place*>& places, int64_t most) {
    for (auto* place : places) {
      auto bytes = int64_t(place->h.size()), half = bytes / 2;
      for (int64_t at = half; at < bytes;) {
        auto* other = places[size_t(below(int64_t(places.size())))];
        int64_t size = std::min({below(most), bytes - at, int64_t(other->h.size()) / 2});
        int64_t first = below(int64_t(other->h.size()) / 2 - size + 1);
        if (below(4)) first &= -16, size &= -16;
        std::memcpy(&place->h[size_t(at)], &other->h[size_t(first)], size_t(size));
        from.push_back(int64_t(reinterpret_cast<uintptr_t>(other->data() + first)));
        to.push_back(int64_t(reinterpret_cast<uintptr_t>(place->data() + at)));
        sizes.push_back(size);
        at += size + 1 + below(64);
        if (below(2)) at = (at + 15) / 16 * 16;
      }
    }
  }
  kvops_swap_blocks_batch_args args(void* stream, int64_t any) {
    kvops_swap_blocks_batch_args a = {};
    a.struct_size = sizeof a;
    a.queue.device = kGpu, a.queue.stream = stream;
    a.src_ptrs = list(from), a.dst_ptrs = list(to), a.sizes = list(sizes);
    a.is_src_access_order_any = any;
    return a;
  }
};

}  // namespace

TEST_CASE("swap_blocks_batch on a GPU: all kinds of memory in one batch, on any stream") {
  Stream stream;
  for (int64_t most : {40, 5000, 90'000, 900'000}) {
    for (void* queue : {stream.get(), static_cast<void*>(nullptr)}) {
      int64_t bytes = 40 * most;
      Place a(Where::device, bytes), b(Where::device, bytes + 3), c(Where::pinned, bytes),
          d(Where::pageable, bytes), e(Where::half_registered, bytes);
      std::vector<Place*> all = {&a, &b, &c, &d, &e};
      Batch batch(all, most);
      auto args = batch.args(queue, most == 5000);
      REQUIRE(kvops_swap_blocks_batch(&args) == KVOPS_OK);
      need(kvops_stream_synchronize(kGpu, queue));
      for (auto* place : all) CHECK(place->is_as_expected());
    }
  }
}

TEST_CASE("swap_blocks_batch on a GPU: 100,000 copies") {
  Stream stream;
  Place device(Where::device, 4 << 20), host(Where::pinned, 4 << 20);
  std::vector<Place*> all = {&device, &host};
  Batch batch(all, 41);
  CHECK(batch.sizes.size() > 50'000);
  std::vector<int64_t> from = batch.from;
  auto args = batch.args(stream.get(), 0);
  REQUIRE(kvops_swap_blocks_batch(&args) == KVOPS_OK);
  std::fill(batch.from.begin(), batch.from.end(), 0);  // consumed
  stream.wait();
  for (auto* place : all) CHECK(place->is_as_expected());
}

TEST_CASE("graph: swaps of device and pinned memory follow the data, not the pairs") {
  Stream stream;
  constexpr int64_t kBlock = 8192, kBlocks = 40;
  Place device(Where::device, kBlock * kBlocks), host(Where::pinned, kBlock * kBlocks);
  Place third(Where::device, 4 << 20), long_host(Where::pinned, 4 << 20);
  auto out = any_pairs(300, kBlocks, kBlocks), in = any_pairs(300, kBlocks, kBlocks);
  auto within = any_pairs(300, kBlocks, kBlocks);
  std::vector<int64_t> halves = {0, 1, 1, 0};
  auto pairs = out;
  auto a = swap(device.tensor(stream), host.tensor(stream), pairs, kBlock);
  auto b = swap(host.tensor(stream), device.tensor(stream), in, kBlock);
  auto c = swap(device.tensor(stream), device.tensor(stream), within, kBlock);
  auto d = swap(long_host.tensor(stream), third.tensor(stream), halves, 2 << 20);
  std::vector<Place*> all = {&device, &host};
  Graph graph(stream, [&] {
    REQUIRE(kvops_swap_blocks(&a) == KVOPS_OK);
    std::fill(pairs.begin(), pairs.end(), 0);  // consumed
    REQUIRE(kvops_swap_blocks(&b) == KVOPS_OK);
    REQUIRE(kvops_swap_blocks(&c) == KVOPS_OK);
    REQUIRE(kvops_swap_blocks(&d) == KVOPS_OK);
  });
  for (int replay = 0; replay < 3; ++replay) {
    for (auto* place : {&device, &host, &third, &long_host}) randomise(place->h), place->up();
    expect(device.h.data(), host.h.data(), out, kBlock);
    expect(host.h.data(), device.h.data(), in, kBlock);
    expect(device.h.data(), device.h.data(), within, kBlock);
    expect(long_host.h.data(), third.h.data(), halves, 2 << 20);
    graph.replay();
    for (auto* place : {&device, &host, &third, &long_host}) CHECK(place->is_as_expected());
  }
  Batch batch(all, 9000);
  auto args = batch.args(stream.get(), 0);
  Graph other(stream, [&] { REQUIRE(kvops_swap_blocks_batch(&args) == KVOPS_OK); });
  other.replay();
  for (auto* place : all) CHECK(place->is_as_expected());
}

TEST_CASE("graph: pageable memory is refused while a stream captures, and captures go on") {
  Stream stream;
  constexpr int64_t kBlock = 4096, kBlocks = 8;
  Place device(Where::device, kBlock * kBlocks), host(Where::pageable, kBlock * kBlocks);
  std::vector<int64_t> pairs = {0, 3, 5, 1};
  auto a = swap(host.tensor(stream), device.tensor(stream), pairs, kBlock);
  auto b = swap(device.tensor(stream), host.tensor(stream), pairs, kBlock);
  auto good = swap(device.tensor(stream), device.tensor(stream), pairs, kBlock);
  std::vector<Place*> all = {&device, &host};
  Batch batch(all, 3000);
  auto c = batch.args(stream.get(), 0);
  for (auto* place : all) place->up();
  Graph graph(stream, [&] {
    CHECK(kvops_swap_blocks(&a) == KVOPS_UNSUPPORTED);
    CHECK(std::strstr(kvops_last_error(), "swap_blocks: src: is in pageable memory"));
    CHECK(kvops_swap_blocks(&b) == KVOPS_UNSUPPORTED);
    CHECK(std::strstr(kvops_last_error(), "swap_blocks: dst: is in pageable memory"));
    CHECK(kvops_swap_blocks_batch(&c) == KVOPS_UNSUPPORTED);
    REQUIRE(kvops_swap_blocks(&good) == KVOPS_OK);
  });
  randomise(device.h), device.up();
  expect(device.h.data(), device.h.data(), pairs, kBlock);
  graph.replay();
  for (auto* place : all) CHECK(place->is_as_expected());
}
