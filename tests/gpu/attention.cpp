// Paged attention on a GPU, what a shape list does not say: memory that may not be looked at, calls
// and batches to the bit, graphs, long contexts, faults, infinities, both kernels.
#include "attention.h"

#include <cuda_runtime_api.h>

using namespace test;

namespace {

// Half a unit is the rounding of each side, the rest the error of the sums.
constexpr double kHalf = 1.01, kFloat = 16;

double bound(kvops_dtype type) { return type == KVOPS_F32 ? kFloat : kHalf; }

// Every kernel: caches of both halves, f32, fp8.
constexpr struct {
  kvops_dtype type, cached;
} kTypes[] = {{KVOPS_BF16, KVOPS_BF16},   {KVOPS_F16, KVOPS_F16},
              {KVOPS_F32, KVOPS_F32},     {KVOPS_BF16, KVOPS_F8_E4M3},
              {KVOPS_F16, KVOPS_F8_E5M2}, {KVOPS_BF16, KVOPS_F8_E4M3FNUZ},
              {KVOPS_F32, KVOPS_F8_E4M3}, {KVOPS_F16, KVOPS_F8_E5M2FNUZ}};

}  // namespace

TEST_CASE("paged attention on a GPU: every head size") {
  for (int64_t size = 8; size <= 512; size += 8) {
    Paged p;
    p.type = p.cached = kTypes[size / 8 % 3].type;
    if (size % 16 == 0 && size % 32) {
      p.type = kTypes[3 + size / 32 % 5].type, p.cached = kTypes[3 + size / 32 % 5].cached;
    }
    p.size = size, p.heads = 6, p.kv_heads = 2, p.lens = {19, 2, 130};
    INFO(size << " " << kvops_dtype_name(p.cached));
    p.fill(unsigned(size));
    for (bool workspace : {false, true}) {
      p.run(p.gpu_args(workspace));
      CHECK(p.distance() <= bound(p.type));
      CHECK(p.lse_distance() < 1e-5);
    }
  }
}

TEST_CASE("paged attention on a GPU: every block size, group and layout; options") {
  for (auto& types : kTypes)
    for (int64_t block : {1, 3, 8, 13, 16, 24, 32, 100})
      for (auto layout : {CacheLayout::packed, CacheLayout::nhd}) {
        Paged p;
        p.type = types.type, p.cached = types.cached, p.block = block, p.layout = layout;
        const int64_t groups[] = {1, 4, 5, 8, 12, 16, 33};
        p.kv_heads = 2, p.heads = 2 * groups[size_t(block % 7)];
        p.lens = {0, 1, int32_t(block - 1), int32_t(block), int32_t(block + 1), 200, -3};
        p.with_slopes = block % 2, p.with_sinks = block % 3 == 0;
        p.options.softcap = block == 8 ? 2 : 0, p.options.window = block == 13 ? 50 : 0;
        INFO(kvops_dtype_name(p.type) << " " << kvops_dtype_name(p.cached) << " " << block);
        p.fill(unsigned(block));
        p.run(p.gpu_args(true));
        CHECK(p.distance() <= bound(p.type));
        CHECK(p.lse_distance() < 1e-5);
      }
}

TEST_CASE("paged attention on a GPU: unused slots change no bit, packed and NHD are the same") {
  for (auto& types : kTypes)
    for (int64_t block : {6, 16}) {
      std::vector<uint8_t> first;
      for (auto layout : {CacheLayout::packed, CacheLayout::nhd})
        for (uint8_t unused : {0x00, 0x7F, 0xFF, 0x7C}) {  // NaN or infinity in one dtype or other
          Paged p;
          p.type = types.type, p.cached = types.cached, p.block = block, p.layout = layout;
          p.unused = unused, p.options.window = 33;
          p.fill(3);
          auto bits = p.run(p.gpu_args(true));
          if (first.empty()) first = bits;
          INFO(kvops_dtype_name(p.cached) << " " << block << " " << int(unused));
          CHECK((bits == first));
        }
    }
}

TEST_CASE("paged attention on a GPU: v1 and v2 give the same bits, max_seq_len none") {
  for (auto& types : kTypes) {
    Paged p;
    p.type = types.type, p.cached = types.cached, p.lens = {3000, 17, 900, 0, 5000};
    p.fill(4);
    const auto bits = p.run(p.gpu_args(true));
    CHECK((p.run(p.gpu_args(true), kvops_paged_attention_v2) == bits));
    CHECK(p.distance() <= bound(p.type));
    for (int64_t most : {5000, 1 << 20}) {
      p.options.max_seq_len = most;
      CHECK((p.run(p.gpu_args(true)) == bits));
    }
    for (int i = 0; i < 20; ++i) CHECK((p.run(p.gpu_args(true)) == bits));
  }
}

TEST_CASE("paged attention on a GPU: few units and many, whole and in parts") {
  for (int i : {0, 1, 3})
    for (int64_t kv_heads : {1, 20, 50}) {  // teams of 8, 4 and 2 blocks on an H200
      Paged p;
      p.type = kTypes[i].type, p.cached = kTypes[i].cached, p.lens = {2500, 900};
      p.kv_heads = kv_heads, p.heads = 4 * kv_heads;
      INFO(kvops_dtype_name(p.cached) << " " << kv_heads);
      p.fill(13);
      const auto bits = p.run(p.gpu_args(true));
      CHECK(p.distance() <= bound(p.type));
      CHECK(p.lse_distance() < 1e-5);
      for (int again = 0; again < 20; ++again) CHECK((p.run(p.gpu_args(true)) == bits));
      p.lens = {300, 40}, p.lengths->h = p.lens;
      p.up();
      p.run(p.gpu_args(true));
      CHECK(p.distance() <= bound(p.type));
    }
}

TEST_CASE("paged attention on a GPU: batch_invariant rows are the same alone and in any batch") {
  for (auto& types : kTypes) {
    Paged p;
    p.type = types.type, p.cached = types.cached;
    p.lens = {3000, 5, 1100, 64, 0, 20000, 512, 513};
    p.options.batch_invariant = 1;
    p.fill(5);
    const auto all = p.run(p.gpu_args(true));
    CHECK(p.distance() <= bound(p.type));
    CHECK((p.run(p.gpu_args(false)) == all));  // also without a workspace
    for (int64_t s = 0; s < p.seqs(); ++s) {
      for (bool workspace : {false, true}) {
        auto a = p.gpu_args(workspace);
        auto slice = [&](kvops_tensor& t) {
          t.data = static_cast<char*>(t.data) + s * t.stride[0] * kvops_dtype_size(t.dtype);
          t.shape[0] = 1;
        };
        slice(a.query), slice(a.out), slice(a.block_table), slice(a.seq_lens), slice(a.lse);
        const auto bits = p.run(a);
        CHECK(std::equal(bits.begin() + s * p.row_bytes(), bits.begin() + (s + 1) * p.row_bytes(),
                         all.begin() + s * p.row_bytes()));
      }
    }
  }
}

TEST_CASE("paged attention on a GPU: bad blocks and lengths beyond the table are left out") {
  for (auto& types : kTypes)
    for (bool sparse : {false, true}) {
      Paged p;
      p.type = types.type, p.cached = types.cached, p.fault_every = 5, p.extra_length = 40;
      p.lens = {300, 1, 77, 900, 0, 640};
      if (sparse) {
        p.options.blocksparse_vert_stride = 3, p.options.blocksparse_block_size = 32;
        p.options.blocksparse_local_blocks = 2, p.options.blocksparse_head_sliding_step = 1;
      }
      p.fill(6);
      p.run(p.gpu_args(true));
      CHECK(p.distance() <= bound(p.type));
      CHECK(p.faults->down(p.stream)[0] == p.faults->h[0]);
      CHECK(p.faults->h[0] > 10);
    }
}

TEST_CASE("paged attention on a GPU: a graph follows lengths, tables and data") {
  for (bool invariant : {false, true}) {
    Paged p;
    p.lens = {4000, 300, 9000}, p.options.batch_invariant = invariant;
    p.fill(7);
    auto a = p.gpu_args(true);
    auto stream = static_cast<cudaStream_t>(p.stream.get());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    REQUIRE(kvops_paged_attention_v1(&a) == KVOPS_OK);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    const int32_t lengths[][3] = {{4000, 300, 9000}, {1, 0, 17}, {3999, 2, 8000}, {0, 0, 0}};
    for (auto& l : lengths) {
      std::copy(l, l + 3, p.lengths->h.begin());
      std::reverse(p.table->h.begin(), p.table->h.begin() + 100);
      p.up();
      REQUIRE(cudaGraphLaunch(exec, stream) == cudaSuccess);
      const auto replayed = p.results();
      CHECK(p.distance() <= kHalf);
      p.faults->up(p.stream);
      CHECK((p.run(a) == replayed));
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
}

TEST_CASE("paged attention on a GPU: one token, and 131072") {
  for (int i : {0, 2, 3}) {
    Paged p;
    p.type = kTypes[i].type, p.cached = kTypes[i].cached;
    p.lens = {1, 131072}, p.heads = 8, p.kv_heads = 1;
    p.fill(8);
    for (bool workspace : {false, true}) {
      p.run(p.gpu_args(workspace));
      // Of 131072 products whose sum nearly cancels, both sides lose f32's last bits.
      CHECK(p.distance() <= (p.type == KVOPS_F32 ? 64 : kHalf));
      CHECK(p.lse_distance() < 1e-5);
    }
  }
}

TEST_CASE("paged attention on a GPU: NaN and infinity of a live token arrive") {
  for (int i : {0, 1, 2}) {
    Paged p;
    p.type = p.cached = kTypes[i].type, p.lens = {40}, p.heads = 4, p.kv_heads = 1;
    p.fill(9);
    const uint32_t infinity = p.type == KVOPS_F32   ? 0x7F800000
                              : p.type == KVOPS_F16 ? 0x7C00
                                                    : 0x7F80;
    const uint32_t nan = infinity | 1;
    const auto n = size_t(p.bytes());
    const int64_t b = p.table->h[0];
    std::memcpy(&p.values->h[size_t(p.value_at(b, 0, 3, 5)) * n], &nan, n);
    std::memcpy(&p.values->h[size_t(p.value_at(b, 0, 4, 6)) * n], &infinity, n);
    p.up();
    p.run(p.gpu_args(true));
    auto out = p.out->down(p.stream);
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t d = 0; d < p.size; ++d) {
        const double x = number_of(p.type, &out[size_t(h * p.size + d) * n]);
        CHECK(std::isnan(x) == (d == 5));
        CHECK(std::isinf(x) == (d == 6));
      }
    std::memcpy(&p.keys->h[size_t(p.key_at(b, 0, 3, 0)) * n], &nan, n);
    p.up();
    p.run(p.gpu_args(true));
    out = p.out->down(p.stream);
    for (size_t j = 0; j < out.size(); j += n) CHECK(std::isnan(number_of(p.type, &out[j])));
  }
}

TEST_CASE("paged attention on a GPU: the portable kernel takes every call, too") {
  for (auto& types : kTypes) {
    Paged p;
    p.type = types.type, p.cached = types.cached, p.lens = {700, 40, 1, 3000};
    p.fill(10);
    kvops_set_option("impl", "paged_attention_v1:portable");
    const auto bits = p.run(p.gpu_args(true));
    CHECK(p.distance() <= bound(p.type));
    kvops_set_option("impl", "");
    const bool halves = p.type != KVOPS_F32;
    CHECK((p.run(p.gpu_args(true)) != bits) == halves);
    CHECK(p.distance() <= bound(p.type));
  }
}

TEST_CASE("paged attention on a GPU: a million sequences") {
  Paged p;
  p.lens.assign(1 << 20, 1), p.heads = p.kv_heads = 1, p.size = 8, p.block = 1;
  p.fill(11);
  for (bool workspace : {false, true}) {
    p.run(p.gpu_args(workspace));
    auto out = p.out->down(p.stream);
    int wrong = 0;
    for (int64_t s = 0; s < p.seqs(); ++s)
      wrong += std::memcmp(&out[size_t(s) * 16], &p.values->h[size_t(p.table->h[size_t(s)]) * 16],
                           16) != 0;
    CHECK(wrong == 0);
  }
}

TEST_CASE("paged attention on a GPU: blocks more than 2^32 bytes apart") {
  constexpr int64_t kApart = (int64_t(1) << 32) + 4096;  // elements
  for (int i : {0, 3}) {
    Paged p;
    p.type = kTypes[i].type, p.cached = kTypes[i].cached, p.lens = {9, 12}, p.kv_heads = 1;
    p.fill(12);
    const auto near = p.run(p.gpu_args(true));
    void* data = nullptr;
    const int64_t bytes = (2 * kApart + (1 << 20)) * p.bytes();
    if (kvops_malloc(kGpu, bytes, &data)) return;  // needs 16 GiB
    auto a = p.gpu_args(true);
    const int64_t page = p.kv_heads * p.block * p.size * p.bytes();
    for (auto* cache : {&a.key_cache, &a.value_cache}) {
      auto* to = static_cast<char*>(data) + (cache == &a.key_cache ? 0 : (1 << 19));
      for (int64_t b = 0; b < p.blocks; ++b)
        need(kvops_copy(kGpu, p.stream.get(), to + b * kApart * p.bytes(),
                        static_cast<char*>(cache->data) + b * page, page));
      cache->data = to, cache->stride[0] = kApart;
    }
    CHECK((p.run(a) == near));
    need(kvops_free(kGpu, data));
  }
}
