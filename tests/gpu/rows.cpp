// What a shape list does not say: a row has the same bits wherever it stands, offsets pass 2^32
// elements, and the calling thread's current device stays what it was.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "device.h"

using namespace test;

TEST_CASE("rms_norm on a GPU: a row alone equals the row in any batch, at any address") {
  Stream stream;
  for (int64_t d : {1, 33, 128, 769, 2880, 4096, 8192, 16392, 40000}) {
    constexpr int64_t kRows = 67;
    Both<float> x(KVOPS_F32, {kRows, d}), y(KVOPS_F32, {kRows, d}), moved(KVOPS_F32, {d + 3}),
        alone(KVOPS_F32, {d + 3});
    std::mt19937 generator{uint32_t(d)};
    std::normal_distribution<float> normal;
    for (auto& v : x.h) v = normal(generator);
    x.up(stream);
    kvops_rms_norm_args a = {sizeof a, x.on_gpu(stream), {}, y.on_gpu(stream), 1e-6};
    REQUIRE(kvops_rms_norm(&a) == KVOPS_OK);
    auto batch = y.down(stream);
    for (int64_t row : {int64_t(0), int64_t(41), kRows - 1}) {
      for (int64_t shift : {0, 1, 3}) {
        std::copy_n(x.h.begin() + row * d, d, moved.h.begin() + shift);
        moved.up(stream);
        kvops_rms_norm_args one = {
            sizeof one, moved.on_gpu(stream), {}, alone.on_gpu(stream), 1e-6};
        for (auto* t : {&one.input, &one.out})
          t->data = static_cast<float*>(t->data) + shift, t->shape[0] = d;
        REQUIRE(kvops_rms_norm(&one) == KVOPS_OK);
        auto got = alone.down(stream);
        CHECK(!std::memcmp(&got[size_t(shift)], &batch[size_t(row * d)], size_t(d) * 4));
      }
    }
  }
}

TEST_CASE("rms_norm on a GPU: more than 2^32 elements") {
  Stream stream;
  constexpr int64_t kD = 65536, kRows = (int64_t(1) << 32) / kD + 3;
  void* data = nullptr;
  if (kvops_malloc(kGpu, kRows * kD * 2, &data)) return;  // needs 8 GiB
  need(kvops_fill(kGpu, stream.get(), data, 0x3C, kRows * kD * 2));
  Both<uint16_t> row(KVOPS_BF16, {1, kD}), alone(KVOPS_BF16, {1, kD});
  for (size_t i = 0; i < row.h.size(); ++i) row.h[i] = uint16_t(0x3F00 + i % 200);
  row.up(stream);
  auto* last = static_cast<uint16_t*>(data) + (kRows - 1) * kD;
  need(kvops_copy(kGpu, stream.get(), last, row.on_gpu(stream).data, kD * 2));
  const int64_t shape[] = {kRows, kD};
  auto all = kvops_dense(data, kGpu, stream.get(), KVOPS_BF16, 2, shape);
  kvops_rms_norm_args a = {sizeof a, all, {}, all, 1e-6};  // in place
  CHECK(kvops_rms_norm(&a) == KVOPS_OK);
  kvops_rms_norm_args one = {sizeof one, row.on_gpu(stream), {}, alone.on_gpu(stream), 1e-6};
  CHECK(kvops_rms_norm(&one) == KVOPS_OK);
  need(kvops_copy(kGpu, stream.get(), row.h.data(), last, kD * 2));
  stream.wait();
  CHECK((alone.down(stream) == row.h));
  need(kvops_free(kGpu, data));
}

TEST_CASE("reshape_and_cache_flash on a GPU: strides past 2^32 bytes") {
  Stream stream;
  constexpr int64_t kStride = (int64_t(1) << 32) + 48;  // of a block, in elements
  void* data = nullptr;
  if (kvops_malloc(kGpu, kStride + 4096, &data)) return;  // needs 4 GiB
  Both<uint16_t> key(KVOPS_BF16, {4, 2, 16});
  Both<int64_t> slots(KVOPS_I64, {4});
  Both<float> scale(KVOPS_F32, {1});
  for (size_t i = 0; i < key.h.size(); ++i) key.h[i] = uint16_t(0x3F80 + i);
  slots.h = {5, 4, 1, -1}, scale.h = {0.5f};  // 2 blocks of 4
  key.up(stream);
  slots.up(stream);
  scale.up(stream);
  const int64_t shape[] = {2, 4, 2, 16};
  auto k = kvops_dense(data, kGpu, stream.get(), KVOPS_F8_E4M3, 4, shape);
  k.stride[0] = kStride;
  auto v = k;
  v.data = static_cast<char*>(data) + 1024;
  kvops_reshape_and_cache_flash_args a = {};
  a.struct_size = sizeof a;
  a.key = a.value = key.on_gpu(stream);
  a.key_cache = k, a.value_cache = v;
  a.slot_mapping = slots.on_gpu(stream);
  a.k_scale = a.v_scale = scale.on_gpu(stream);
  REQUIRE(kvops_reshape_and_cache_flash(&a) == KVOPS_OK);
  Both<uint8_t> small(KVOPS_F8_E4M3, {2, 4, 2, 16}), other(KVOPS_F8_E4M3, {2, 4, 2, 16});
  auto c = a;
  c.key = c.value = key.on_cpu();
  c.key_cache = small.on_cpu(), c.value_cache = other.on_cpu();
  c.slot_mapping = slots.on_cpu();
  c.k_scale = c.v_scale = scale.on_cpu();
  REQUIRE(kvops_reshape_and_cache_flash(&c) == KVOPS_OK);
  std::vector<uint8_t> got(32);
  for (int64_t slot : {5, 4, 1}) {
    auto at = slot / 4 * kStride + slot % 4 * 32;
    need(kvops_copy(kGpu, stream.get(), got.data(), static_cast<char*>(data) + at, 32));
    stream.wait();
    CHECK(!std::memcmp(got.data(), &small.h[size_t(slot * 32)], 32));
  }
  need(kvops_free(kGpu, data));
}

TEST_CASE("device: facts, pinned memory, copies, fills and the current device") {
  kvops_device_info info = {};
  info.struct_size = sizeof info;
  REQUIRE(kvops_get_device_info(kGpu, &info) == KVOPS_OK);
  CHECK(std::strlen(info.name) > 0);
  CHECK(!std::strncmp(info.arch, "sm_", 3));
  CHECK(info.memory_bytes > 0);
  CHECK(info.cache_bytes > 0);
  CHECK(info.compute_units > 0);
  CHECK(info.warp_size == 32);
  CHECK(info.fp8_e4m3 == KVOPS_F8_E4M3);

  Stream stream;
  void *pinned = nullptr, *data = nullptr;
  need(kvops_malloc_pinned(kGpu, 1 << 20, &pinned));
  need(kvops_malloc(kGpu, 1 << 20, &data));
  CHECK(uintptr_t(data) % 256 == 0);
  need(kvops_fill(kGpu, stream.get(), data, 0x5A, 1 << 20));
  need(kvops_copy(kGpu, stream.get(), pinned, data, 1 << 20));
  stream.wait();
  auto* bytes = static_cast<uint8_t*>(pinned);
  CHECK(std::all_of(bytes, bytes + (1 << 20), [](uint8_t b) { return b == 0x5A; }));
  need(kvops_free(kGpu, data));
  need(kvops_free_pinned(kGpu, pinned));
  int current = -1;
  CHECK(cudaGetDevice(&current) == cudaSuccess);
  CHECK(current == 0);
  // An absurd allocation fails with a text, and the device still works.
  CHECK(kvops_malloc(kGpu, int64_t(1) << 46, &data) == KVOPS_OUT_OF_MEMORY);
  CHECK(std::strstr(kvops_last_error(), "kvops_malloc: bytes: "));
  need(kvops_malloc(kGpu, 256, &data));
  need(kvops_free(kGpu, data));
  kvops_device none = {KVOPS_CUDA, 99};
  CHECK(kvops_malloc(none, 256, &data) == KVOPS_UNAVAILABLE);
}

namespace {

CUcontext current_context() {
  CUresult (*get)(CUcontext*) = nullptr;
  cudaDriverEntryPointQueryResult result;
  REQUIRE(cudaGetDriverEntryPointByVersion("cuCtxGetCurrent", reinterpret_cast<void**>(&get), 13000,
                                           cudaEnableDefault, &result) == cudaSuccess);
  CUcontext context = nullptr;
  REQUIRE(get(&context) == CUDA_SUCCESS);
  return context;
}

}  // namespace

TEST_CASE("device: the other GPU's tensors are computed there, whatever is current") {
  int32_t devices = 0;
  kvops_device_count(KVOPS_CUDA, &devices);
  if (devices < 2) return;  // one GPU: nothing to tell apart
  kvops_device second = {KVOPS_CUDA, 1};
  void* own = nullptr;
  need(kvops_malloc(kGpu, 256, &own));  // makes the first device's context
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  auto context = current_context();
  REQUIRE(context);
  void* data = nullptr;
  need(kvops_malloc(second, 1024, &data));
  CHECK(current_context() == context);
  need(kvops_fill(second, nullptr, data, 0x3F, 1024));
  const int64_t shape[] = {1, 256};
  auto t = kvops_dense(data, second, nullptr, KVOPS_F32, 2, shape);
  kvops_rms_norm_args a = {sizeof a, t, {}, t, 1e-6};
  CHECK(kvops_rms_norm(&a) == KVOPS_OK);
  CHECK(current_context() == context);
  std::vector<float> got(256);
  need(kvops_copy(second, nullptr, got.data(), data, 1024));
  need(kvops_stream_synchronize(second, nullptr));
  CHECK(got[7] == Approx(1.0f).epsilon(1e-5));
  int current = -1;
  CHECK(cudaGetDevice(&current) == cudaSuccess);
  CHECK(current == 0);
  cudaPointerAttributes where = {};
  CHECK(cudaPointerGetAttributes(&where, data) == cudaSuccess);
  CHECK(where.device == 1);
  need(kvops_free(second, data));
  need(kvops_free(kGpu, own));
}
