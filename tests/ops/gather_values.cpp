// Gathers: what the bytes of an entry become, at any address, and past 32 bits.
#include <cmath>

#include "core/numeric.h"
#include "cpu/convert.h"
#include "ops/gather.h"
#include "ops/rows.h"

using namespace tests;
using std::vector;

namespace {

constexpr int64_t kFar = (int64_t{1} << 32) + 4096;

uint16_t half_bits(kvops_dtype dtype, float x) {
  return dtype == KVOPS_BF16 ? from_float<kvops::bf16>(x).bits : from_float<kvops::f16>(x).bits;
}
bool same_half(kvops_dtype dtype, uint16_t a, uint16_t b) {
  const int infinity = dtype == KVOPS_BF16 ? 0x7F80 : 0x7C00;
  return a == b || ((a & 0x7FFF) > infinity && (b & 0x7FFF) > infinity);
}

// Rows 0, 1, ... of one request over a cache of one block.
template <class Args>
Args one_request(int64_t rows) {
  static const vector<int32_t> table = {0};
  static vector<int32_t> starts(2);
  starts[1] = int32_t(rows);
  auto a = make<Args>();
  a.block_table = tensor(table, KVOPS_I32, {1, 1});
  if constexpr (requires { a.cu_seq_lens; }) a.cu_seq_lens = tensor(starts, KVOPS_I32, {2});
  if constexpr (requires { a.workspace_starts; })
    a.workspace_starts = tensor(starts, KVOPS_I32, {1});
  return a;
}

template <class C, class T>
void check_all_codes() {
  constexpr int64_t kSize = 256 + 37;
  vector<C> codes(3 * kSize);
  for (size_t i = 0; i < codes.size(); ++i) codes[i].bits = uint8_t(i);
  for (float scale : {1.0f, 0.1f, 1e-3f, 3e4f, 1e38f, 1e-41f, 0.0f, -2.5f, INFINITY, NAN}) {
    vector<T> out(codes.size());
    auto a = one_request<kvops_gather_and_maybe_dequant_cache_args>(3);
    a.kv_cache = tensor(codes, kvops::dtype_of<C>, {1, 3, kSize});
    a.kv_scale = tensor(&scale, KVOPS_F32, {});
    a.out = tensor(out, kvops::dtype_of<T>, {3, kSize});
    CHECK_OK(kvops_gather_and_maybe_dequant_cache(&a));
    for (size_t i = 0; i < codes.size(); ++i) {
      const float x = kvops::decode(codes[i]) * scale, y = to_float(out[i]);
      if (std::isnan(x)) {
        REQUIRE(std::isnan(y));
      } else {
        REQUIRE(same(out[i], from_float<T>(x)));
      }
    }
  }
}

template <class C>
void check_all_codes_to_every_float() {
  on_every_isa([] {
    check_all_codes<C, float>();
    check_all_codes<C, kvops::f16>();
    check_all_codes<C, kvops::bf16>();
  });
}

// 656-byte records with these scales; the rest is any bits.
Bytes records_with(const vector<float>& scales, unsigned seed) {
  auto records = random_bits<uint8_t>(scales.size() / 4 * 656, seed);
  for (size_t i = 0; i < scales.size(); ++i)
    std::memcpy(&records[i / 4 * 656 + 512 + i % 4 * 4], &scales[i], 4);
  return records;
}

vector<uint16_t> upconverted(const Bytes& records, int64_t entry, kvops_dtype dtype,
                             int64_t encoding = 0) {
  const int64_t n = int64_t(records.size()) / entry;
  vector<uint16_t> out(size_t(n * 576));
  auto run = [&](auto a, auto call) {
    a.kv_cache = tensor(records, KVOPS_U8, {1, n, entry});
    a.out = tensor(out, dtype, {n, 576});
    if constexpr (requires { a.fp8_encoding; }) a.fp8_encoding = encoding;
    CHECK_OK(call(&a));
  };
  if (entry == 656)
    run(one_request<kvops_cp_gather_and_upconvert_fp8_kv_cache_args>(n),
        kvops_cp_gather_and_upconvert_fp8_kv_cache);
  else
    run(one_request<kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args>(n),
        kvops_cp_gather_and_upconvert_nvfp4_kv_cache);
  return out;
}

}  // namespace

TEST_CASE("gather: all codes of e4m3 by every scale, rounded once") {
  check_all_codes_to_every_float<kvops::f8_e4m3>();
}
TEST_CASE("gather: all codes of e5m2 by every scale, rounded once") {
  check_all_codes_to_every_float<kvops::f8_e5m2>();
}
TEST_CASE("gather: all codes of e4m3fnuz by every scale, rounded once") {
  check_all_codes_to_every_float<kvops::f8_e4m3fnuz>();
}
TEST_CASE("gather: all codes of e5m2fnuz by every scale, rounded once") {
  check_all_codes_to_every_float<kvops::f8_e5m2fnuz>();
}

TEST_CASE("fp8_ds_mla: any f32 scale is read as it is") {
  vector<float> scales = {0.1f,  2.1f,     0.37f, 1.0f,       0.0f, 1e-41f, 0x1p-126f, 3e38f,
                          -0.7f, INFINITY, NAN,   1.9999999f, 448,  1e-4f,  7.0f / 3,  0x1p-13f};
  std::mt19937 random(3);
  for (int i = 0; i < 240; ++i) scales.push_back(float(random() % 20000 + 1000) * 1e-4f);
  const auto records = records_with(scales, 5);
  on_every_isa([&] {
    for (kvops_dtype dtype : {KVOPS_BF16, KVOPS_F16})
      for (int64_t encoding : {KVOPS_FP8_OCP, KVOPS_FP8_FNUZ}) {
        const auto out = upconverted(records, 656, dtype, encoding);
        size_t truncated_differs = 0;
        for (size_t i = 0; i < out.size(); ++i) {
          const size_t n = i / 576, j = i % 576;
          const auto* record = &records[n * 656];
          if (j >= 512) {
            REQUIRE(!std::memcmp(&out[i], record + 528 + 2 * (j - 512), 2));
            continue;
          }
          const float code = encoding ? kvops::decode(kvops::f8_e4m3fnuz{record[j]})
                                      : kvops::decode(kvops::f8_e4m3{record[j]});
          const float scale = scales[4 * n + j / 128];
          REQUIRE(same_half(dtype, out[i], half_bits(dtype, code * scale)));
          const float power = kvops::bits_float(kvops::float_bits(scale) & 0xFF800000);
          truncated_differs += !same_half(dtype, out[i], half_bits(dtype, code * power));
        }
        CHECK(truncated_differs > out.size() / 2);  // the test would see a reader that truncates
      }
  });
}

TEST_CASE("nvfp4_ds_mla: every code by every scale is exact in both halves") {
  Bytes records(16 * 352);  // group g of record n has the scale 16 * n + g, modulo 256
  for (size_t n = 0; n < 16; ++n) {
    auto* record = &records[n * 352];
    for (size_t i = 0; i < 256; ++i) record[i] = uint8_t((2 * i % 16) | (2 * i + 1) % 16 << 4);
    for (size_t i = 0; i < 64; ++i) record[256 + i] = uint8_t(64 * (n % 4) + i);
    for (size_t g = 0; g < 32; ++g) record[320 + 8 * (g % 4) + g / 4] = uint8_t(16 * n + g);
  }
  static const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  on_every_isa([&] {
    for (kvops_dtype dtype : {KVOPS_BF16, KVOPS_F16}) {
      const auto out = upconverted(records, 352, dtype);
      for (size_t i = 0; i < out.size(); ++i) {
        const size_t n = i / 576, j = i % 576;
        double x = kvops::decode(kvops::f8_e4m3{records[n * 352 + 256 + (j & 63)]});
        if (j < 512) {
          const double scale = kvops::decode(kvops::f8_e4m3{uint8_t(16 * n + j / 16)});
          x = (j & 8 ? -values[j & 7] : values[j & 7]) * scale;
        }
        const auto got =
            dtype == KVOPS_BF16 ? to_float(kvops::bf16{out[i]}) : to_float(kvops::f16{out[i]});
        if (std::isnan(x)) {
          REQUIRE(std::isnan(got));
        } else {
          REQUIRE(double(got) == x);
          REQUIRE(std::signbit(got) == std::signbit(x));
        }
      }
    }
  });
}

TEST_CASE("gather: results past the last cache have the same bytes, at any alignment") {
  for (auto& op : kGathers) {
    INFO(op.name);
    // One page of 50 rows is wrong.
    const int64_t rows = (36 << 20) / op.row, pages = (rows + 49) / 50;
    Requests r = {pages, {}, {0, int32_t(rows)}, {}};
    for (int64_t p = 0; p < pages; ++p) r.table.push_back(int32_t(p * 7 % 11));
    r.table[5] = 11;
    auto large = gather_call(op, r, 11, 50, rows);
    const auto entries = decoded_entries(op, large);
    CHECK_OK(op.run(large));
    CHECK(large.faults == 1);
    for (int64_t t = 0; t < rows; ++t) {
      const auto* row = &large.out[size_t(t * op.row)];
      const auto block = size_t(t / 50 * 7 % 11);
      const bool left = t / 50 == 5;
      if (!left)
        REQUIRE(!std::memcmp(row, &entries[(block * 50 + size_t(t % 50)) * size_t(op.row)],
                             size_t(op.row)));
      for (int64_t i = 0; left && i < op.row; ++i) REQUIRE(row[i] == 0xA5);
    }
  }
}

TEST_CASE("cp_gather_and_upconvert_fp8_kv_cache: every rank's cache is a view of one buffer") {
  const int64_t ranks = 4, blocks = 6, block = 64;
  auto buffer = random_bits<uint8_t>(size_t(ranks * blocks * block * 656), 4);
  const vector<int32_t> local = {2, 0}, zero = {0};
  vector<int32_t> global;
  vector<uint16_t> parts, whole(size_t(ranks * 2 * block * 576));
  auto a = make<kvops_cp_gather_and_upconvert_fp8_kv_cache_args>();
  a.workspace_starts = tensor(zero, KVOPS_I32, {1});
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (auto b : local) global.push_back(int32_t(rank * blocks + b));
    vector<uint16_t> rows(size_t(2 * block * 576));
    a.kv_cache =
        tensor(&buffer[size_t(rank * blocks * block * 656)], KVOPS_U8, {blocks, block, 656});
    a.block_table = tensor(local, KVOPS_I32, {1, 2});
    a.out = tensor(rows, KVOPS_BF16, {2 * block, 576});
    CHECK_OK(kvops_cp_gather_and_upconvert_fp8_kv_cache(&a));
    parts.insert(parts.end(), rows.begin(), rows.end());
  }
  a.kv_cache = tensor(buffer, KVOPS_U8, {ranks * blocks, block, 656});
  a.block_table = tensor(global, KVOPS_I32, {1, 2 * ranks});
  a.out = tensor(whole, KVOPS_BF16, {ranks * 2 * block, 576});
  CHECK_OK(kvops_cp_gather_and_upconvert_fp8_kv_cache(&a));
  CHECK((whole == parts));
}

TEST_CASE("sparse: every gather, with blocks and slots of the cache far apart") {
  for (auto& op : kGathers) {
    INFO(op.name);
    const bool planar = op.entry == 72;
    const int64_t slot = planar ? 72 : kFar, size = op.entry;
    Sparse cache(size_t(5 * kFar + 4096));
    auto bytes = random_bits<uint8_t>(size_t(4 * size), 9);  // 2 blocks of 2
    for (int64_t i = 0; i < 4; ++i)
      std::memcpy(cache.data + i / 2 * 3 * kFar + i % 2 * slot, &bytes[size_t(i * size)],
                  size_t(size));
    auto near = gather_call(op, {2, {1, 0}, {0, 4}, {}}, 2, 2, 4);
    near.cache = bytes;
    auto far = near;
    CHECK_OK(op.run(near));
    auto put = [&](auto a, auto call, kvops_dtype in, kvops_dtype out) {
      static const float scale = 0.37f;
      a.kv_cache = tensor(cache.data, in, {2, 2, size}, {3 * kFar, slot, 1});
      if constexpr (requires { a.cu_seq_lens; })
        a.cu_seq_lens = tensor(far.requests.starts, KVOPS_I32, {2});
      if constexpr (requires { a.workspace_starts; })
        a.workspace_starts = tensor(far.requests.starts, KVOPS_I32, {1});
      if constexpr (requires { a.kv_scale; })
        a.kv_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {});
      if constexpr (requires { a.out; })
        a.out = tensor(far.out, out, {4, op.row / kvops_dtype_size(out)});
      if constexpr (requires { a.out_k; }) {
        a.out_k = tensor(far.out.data(), KVOPS_U8, {4, 64}, {72, 1});
        a.out_scale = tensor(far.out.data() + 64, KVOPS_U8, {4, 8}, {72, 1});
      }
      CHECK_OK(call(&a));
    };
    if (op.entry == 24)
      put(gather_args<kvops_gather_and_maybe_dequant_cache_args>(far),
          kvops_gather_and_maybe_dequant_cache, KVOPS_F8_E4M3, KVOPS_BF16);
    if (op.entry == 33)
      put(gather_args<kvops_cp_gather_cache_args>(far), kvops_cp_gather_cache, KVOPS_U8, KVOPS_U8);
    if (op.entry == 656)
      put(gather_args<kvops_cp_gather_and_upconvert_fp8_kv_cache_args>(far),
          kvops_cp_gather_and_upconvert_fp8_kv_cache, KVOPS_U8, KVOPS_BF16);
    if (op.entry == 352)
      put(gather_args<kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args>(far),
          kvops_cp_gather_and_upconvert_nvfp4_kv_cache, KVOPS_U8, KVOPS_BF16);
    if (planar)
      put(gather_args<kvops_cp_gather_indexer_k_quant_cache_args>(far),
          kvops_cp_gather_indexer_k_quant_cache, KVOPS_U8, KVOPS_U8);
    CHECK((far.out == near.out));
  }
}

TEST_CASE("sparse: a block table of 2^32 entries, rows far apart") {
  constexpr int64_t kWidth = int64_t{1} << 30;
  Sparse table(size_t(16 * kWidth)), out(size_t(9 * kFar));
  const vector<int32_t> starts = {0, 0, 1, 1, 3},
                        seq_starts = {0, int32_t(kWidth - 1), 0, int32_t(kWidth - 2)};
  const auto cache = random_bits<uint8_t>(5 * 8, 2);
  table.at<int32_t>(2 * kWidth - 1) = 3;
  table.at<int32_t>(4 * kWidth - 2) = 4;
  table.at<int32_t>(4 * kWidth - 1) = 2;
  int64_t faults = 0;
  auto a = make<kvops_cp_gather_cache_args>();
  a.kv_cache = tensor(cache, KVOPS_U8, {5, 1, 8});
  a.block_table = tensor(table.data, KVOPS_I32, {4, kWidth});
  a.cu_seq_lens = tensor(starts, KVOPS_I32, {5});
  a.seq_starts = tensor(seq_starts, KVOPS_I32, {4});
  a.faults = tensor(&faults, KVOPS_I64, {1});
  a.out = tensor(out.data, KVOPS_U8, {3, 8}, {4 * kFar, 1});
  CHECK_OK(kvops_cp_gather_cache(&a));
  CHECK(faults == 0);
  CHECK(out.pages() == 3);
  for (int64_t t : {0, 1, 2})
    CHECK(!std::memcmp(out.data + t * 4 * kFar, &cache[size_t(t == 0 ? 24 : t == 1 ? 32 : 16)], 8));
}
