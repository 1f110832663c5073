// Strides beyond 2^31 elements, on address space of which only a few pages come into being: every
// cache operator writes where 64-bit arithmetic says, and nowhere else.
#include "ops/tensors.h"

using namespace tests;
using std::vector;

namespace {

// A stride that 32 bits cannot hold, and whose lower 32 bits lie inside the mapping.
constexpr int64_t kFar = (int64_t{1} << 32) + 4096;

const vector<int64_t> kSlots = {0, 7, -1, 4};  // blocks of 4: (0, 0), (1, 3), (1, 0)
const float kOne = 1;

kvops_tensor one() { return tensor(const_cast<float*>(&kOne), KVOPS_F32, {1}); }

// Rows of a source far apart from each other: row t holds the number t + 1 (as f8_e4m3: 2^t).
struct Source {
  Sparse memory;
  Source(int64_t row) : memory(size_t(2 * (3 * kFar + row) + 4096)) {
    for (int64_t t = 0; t < 4; ++t)
      for (int64_t i = 0; i < row; ++i) memory.at<uint16_t>(t * kFar + i) = bits(t);
  }
  static uint16_t bits(int64_t t) { return uint16_t(0x3F80 + 0x80 * t); }  // bf16 2^t
  static uint8_t code(int64_t t) { return uint8_t(0x38 + 8 * t); }         // e4m3 2^t
};

}  // namespace

TEST_CASE("sparse: reshape_and_cache") {
  Source source(32);
  Sparse cache(size_t(2 * (kFar + 4096)) * 2);
  auto a = make<kvops_reshape_and_cache_args>();
  a.key = a.value = tensor(source.memory.data, KVOPS_BF16, {4, 2, 16}, {kFar, 16, 1});
  a.slot_mapping = slots(kSlots);
  a.key_cache = tensor(cache.data, KVOPS_BF16, {2, 2, 2, 4, 8}, {kFar, 64, 32, 8, 1});
  a.value_cache = tensor(cache.data + 512, KVOPS_BF16, {2, 2, 16, 4}, {kFar, 64, 4, 1});
  CHECK_OK(kvops_reshape_and_cache(&a));
  CHECK(cache.pages() == 2);
  for (size_t t : {0, 1, 3})
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t d = 0; d < 16; ++d) {
        const int64_t b = kSlots[t] / 4, o = kSlots[t] % 4;
        REQUIRE(cache.at<uint16_t>(b * kFar + h * 64 + d / 8 * 32 + o * 8 + d % 8) ==
                Source::bits(int64_t(t)));
        REQUIRE(cache.at<uint16_t>(256 + b * kFar + h * 64 + d * 4 + o) ==
                Source::bits(int64_t(t)));
      }
  CHECK(cache.at<uint16_t>(kFar + 1 * 8) == 0);
}

TEST_CASE("sparse: reshape_and_cache, every dimension of the cache far apart") {
  Source source(16);
  Sparse cache(size_t(9 * kFar + 4096));  // elements of one byte
  auto a = make<kvops_reshape_and_cache_args>();
  a.key = a.value = tensor(source.memory.data, KVOPS_BF16, {4, 1, 16}, {kFar, 16, 1});
  const vector<int64_t> slot = {0, 1};
  a.slot_mapping = slots(slot);
  a.k_scale = a.v_scale = one();
  a.key_cache = tensor(cache.data, KVOPS_F8_E4M3, {1, 1, 1, 2, 16}, {1, 1, 1, kFar, 1});
  a.value_cache = tensor(cache.data + 256, KVOPS_F8_E4M3, {1, 1, 16, 2}, {1, 1, 1, 2 * kFar});
  CHECK_OK(kvops_reshape_and_cache(&a));
  CHECK(cache.pages() == 3);
  for (int64_t t : {0, 1}) {
    CHECK(cache.at<uint8_t>(t * kFar + 15) == Source::code(t));
    CHECK(cache.at<uint8_t>(256 + t * 2 * kFar + 15) == Source::code(t));
  }
}

TEST_CASE("sparse: reshape_and_cache_flash") {
  Source source(32);
  for (kvops_dtype dtype : {KVOPS_BF16, KVOPS_F8_E4M3}) {
    const int64_t w = kvops_dtype_size(dtype);
    Sparse cache(size_t(w * (3 * kFar + 8192)));
    auto a = make<kvops_reshape_and_cache_flash_args>();
    a.key = a.value = tensor(source.memory.data, KVOPS_BF16, {4, 2, 16}, {kFar, 16, 1});
    a.slot_mapping = slots(kSlots);
    a.k_scale = a.v_scale = one();
    // HND with heads far apart, and blocks further.
    a.key_cache = tensor(cache.data, dtype, {2, 4, 2, 16}, {2 * kFar, 16, kFar, 1});
    a.value_cache = tensor(cache.data + 64 * w, dtype, {2, 4, 2, 16}, {2 * kFar, 16, kFar, 1});
    CHECK_OK(kvops_reshape_and_cache_flash(&a));
    CHECK(cache.pages() == 4);
    for (size_t t : {0, 1, 3})
      for (int64_t h = 0; h < 2; ++h) {
        const int64_t at = kSlots[t] / 4 * 2 * kFar + kSlots[t] % 4 * 16 + h * kFar + 15;
        for (int64_t side : {0, 64}) {
          if (w == 2) REQUIRE(cache.at<uint16_t>(at + side) == Source::bits(int64_t(t)));
          if (w == 1) REQUIRE(cache.at<uint8_t>(at + side) == Source::code(int64_t(t)));
        }
      }
  }
}

TEST_CASE("sparse: reshape_and_cache_flash, NVFP4 pages") {
  Source source(32);
  Sparse cache(size_t(kFar + 4096));
  const float scale = 1.0f / 448;
  auto a = make<kvops_reshape_and_cache_flash_args>();
  a.key = a.value = tensor(source.memory.data, KVOPS_BF16, {4, 2, 16}, {kFar, 16, 1});
  a.slot_mapping = slots(kSlots);
  a.k_scale = a.v_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {});
  a.key_cache = tensor(cache.data, KVOPS_U8, {2, 4, 2, 9}, {kFar, 18, 9, 1});
  a.value_cache = tensor(cache.data + 72, KVOPS_U8, {2, 4, 2, 9}, {kFar, 18, 9, 1});
  a.format = KVOPS_FORMAT_NVFP4, a.v_scale_layout = KVOPS_V_SCALE_LINEAR;
  CHECK_OK(kvops_reshape_and_cache_flash(&a));
  CHECK(cache.pages() == 2);
  for (size_t t : {0, 1, 3})
    for (int64_t side : {0, 72}) {
      const int64_t page = kSlots[t] / 4 * kFar + side, row = kSlots[t] % 4 * 2 + 1;
      CHECK(cache.at<uint8_t>(page + row * 8 + 7) == 0x77);  // the largest of its group: 6
      CHECK(cache.at<uint8_t>(page + 64 + row) != 0);
    }
}

TEST_CASE("sparse: concat_and_cache_mla") {
  Source source(576);
  struct {
    int64_t format;
    kvops_dtype dtype;
    int64_t entry;
  } const kinds[] = {{KVOPS_FORMAT_PLAIN, KVOPS_BF16, 576},
                     {KVOPS_FORMAT_PLAIN, KVOPS_F8_E4M3, 576},
                     {KVOPS_FORMAT_FP8_DS_MLA, KVOPS_U8, 656},
                     {KVOPS_FORMAT_NVFP4_DS_MLA, KVOPS_U8, 352}};
  for (auto& kind : kinds) {
    const int64_t w = kvops_dtype_size(kind.dtype);
    Sparse cache(size_t(w * (5 * kFar + 4096)));
    auto a = make<kvops_concat_and_cache_mla_args>();
    a.kv_c = tensor(source.memory.data, KVOPS_BF16, {4, 512}, {kFar, 1});
    a.k_pe = tensor(source.memory.data + 1024, KVOPS_BF16, {4, 64}, {kFar, 1});
    a.slot_mapping = slots(kSlots);
    a.kv_scale = one(), a.format = kind.format;
    a.kv_cache = tensor(cache.data, kind.dtype, {2, 4, kind.entry}, {2 * kFar, kFar, 1});
    CHECK_OK(kvops_concat_and_cache_mla(&a));
    CHECK(cache.pages() == 3);
    for (size_t t : {0, 1, 3}) {
      const int64_t at = kSlots[t] / 4 * 2 * kFar + kSlots[t] % 4 * kFar;
      const auto bits = Source::bits(int64_t(t));
      auto& last = cache.at<uint8_t>(w * (at + kind.entry) - 1);
      if (kind.dtype == KVOPS_BF16 || kind.entry == 656) CHECK(last == bits >> 8);
      if (kind.dtype == KVOPS_F8_E4M3) CHECK(last == Source::code(int64_t(t)));
      if (kind.entry == 352) CHECK(last != 0);
    }
  }
}

TEST_CASE("sparse: swap_blocks") {
  const int64_t block = (int64_t{1} << 31) + 64;  // bytes, of which a swap of pages moves few
  Sparse memory(size_t(4 * block));
  auto a = make<kvops_swap_blocks_args>();
  a.block_size_in_bytes = 64;
  a.src = a.dst = tensor(memory.data, KVOPS_U8, {4 * block});
  const int64_t last = 4 * block / 64 - 1, far = block / 64 * 3;
  const vector<int64_t> pairs = {1, last, last, far, far, 2};
  a.block_mapping = tensor(pairs, KVOPS_I64, {3, 2});
  memory.at<uint8_t>(64) = 0xAB;
  CHECK_OK(kvops_swap_blocks(&a));
  CHECK(memory.pages() == 3);
  for (int64_t b : {last, far, int64_t{2}}) CHECK(memory.at<uint8_t>(64 * b) == 0xAB);
}

TEST_CASE("sparse: swap_blocks_batch") {
  Sparse memory(size_t(2 * kFar));
  memory.at<uint32_t>(0) = 0x12345678;
  auto address = [&](int64_t byte) {
    return int64_t(reinterpret_cast<uintptr_t>(memory.data) + uintptr_t(byte));
  };
  const vector<int64_t> from = {address(0), address(1)},
                        to = {address(kFar), address(2 * kFar - 4)};
  const vector<int64_t> sizes = {4, 2};
  auto a = make<kvops_swap_blocks_batch_args>();
  a.queue = tensor(memory.data, KVOPS_U8, {1});
  a.src_ptrs = slots(from), a.dst_ptrs = slots(to), a.sizes = slots(sizes);
  CHECK_OK(kvops_swap_blocks_batch(&a));
  CHECK(memory.pages() == 3);
  CHECK(memory.at<uint32_t>(kFar / 4) == 0x12345678);
  CHECK(memory.at<uint16_t>(kFar - 2) == 0x3456);
}

TEST_CASE("sparse: convert_fp8") {
  Source source(40);
  Sparse codes(size_t(3 * kFar + 4096));
  auto a = make<kvops_convert_fp8_args>();
  a.src = tensor(source.memory.data, KVOPS_BF16, {4, 40}, {kFar, 1});
  a.dst = tensor(codes.data, KVOPS_F8_E4M3, {4, 40}, {kFar, 1});
  a.scale = 1;
  CHECK_OK(kvops_convert_fp8(&a));
  CHECK(codes.pages() == 4);
  for (int64_t t = 0; t < 4; ++t) CHECK(codes.at<uint8_t>(t * kFar + 39) == Source::code(t));
  std::swap(a.src, a.dst);
  a.scale = 2;
  CHECK_OK(kvops_convert_fp8(&a));
  for (int64_t t = 0; t < 4; ++t)
    CHECK(source.memory.at<uint16_t>(t * kFar + 39) == Source::bits(t + 1));
}
