// What the tests of gathers share: requests with their block table, the five operators behind one
// call, and what each row must hold. Decoded entries come from a gather of one request whose table
// is 0, 1, 2, ...; that these are right is the business of golden cases and of gather_values.cpp.
#pragma once
#include <set>
#include <utility>

#include "ops/tensors.h"

namespace tests {

using Bytes = std::vector<uint8_t>;

// starts: first row of each request, then the end of the last one.
struct Requests {
  int64_t width;
  std::vector<int32_t> table, starts, seq_starts;  // no seq_starts: absent

  int64_t batch() const { return int64_t(starts.size()) - 1; }
};

// One call: a cache of `blocks` blocks, rows of any bytes before.
struct GatherCall {
  Requests requests;
  int64_t blocks, block, rows;
  Bytes cache, out;
  int64_t faults = 0;
  bool zero = false;
};

template <class Args>
Args gather_args(GatherCall& c) {
  auto a = make<Args>();
  const int64_t batch = c.requests.batch();
  a.block_table = tensor(c.requests.table, KVOPS_I32, {batch, c.requests.width});
  if (!c.requests.seq_starts.empty())
    a.seq_starts = tensor(c.requests.seq_starts, KVOPS_I32, {batch});
  a.faults = tensor(&c.faults, KVOPS_I64, {1});
  a.zero_invalid = c.zero;
  return a;
}

// An operator, by the bytes of an entry and of a row.
struct GatherOp {
  const char* name;
  int64_t entry, row;
  bool with_end;  // else the last request owns all rows to the last
  kvops_status (*run)(GatherCall&);
};

template <class Args>
kvops_status run_with_end(GatherCall& c, kvops_dtype in, int64_t entry, kvops_dtype to,
                          kvops_status (*call)(const Args*)) {
  static const float scale = 0.37f;
  auto a = gather_args<Args>(c);
  a.cu_seq_lens = tensor(c.requests.starts, KVOPS_I32, {c.requests.batch() + 1});
  a.kv_cache = tensor(c.cache, in, {c.blocks, c.block, entry});
  a.out = tensor(c.out, to, {c.rows, entry});
  if constexpr (requires { a.kv_scale; })
    a.kv_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {1});
  return call(&a);
}

template <class Args>
kvops_status run_record(GatherCall& c, int64_t entry, kvops_status (*call)(const Args*)) {
  auto a = gather_args<Args>(c);
  a.workspace_starts = tensor(c.requests.starts, KVOPS_I32, {c.requests.batch()});
  a.kv_cache = tensor(c.cache, KVOPS_U8, {c.blocks, c.block, entry});
  a.out = tensor(c.out, KVOPS_BF16, {c.rows, 576});
  return call(&a);
}

// Codes and scales of a row stand next to each other: both outputs have strides of their own.
inline kvops_status run_indexer(GatherCall& c) {
  auto a = gather_args<kvops_cp_gather_indexer_k_quant_cache_args>(c);
  a.cu_seq_lens = tensor(c.requests.starts, KVOPS_I32, {c.requests.batch() + 1});
  a.kv_cache = tensor(c.cache, KVOPS_U8, {c.blocks, c.block, 72});
  a.out_k = tensor(c.out.data(), KVOPS_U8, {c.rows, 64}, {72, 1});
  a.out_scale = tensor(c.out.data() + 64, KVOPS_U8, {c.rows, 8}, {72, 1});
  return kvops_cp_gather_indexer_k_quant_cache(&a);
}

inline const GatherOp kGathers[] = {
    {"gather_and_maybe_dequant_cache", 24, 48, true,
     [](GatherCall& c) {
       return run_with_end(c, KVOPS_F8_E4M3, 24, KVOPS_BF16, kvops_gather_and_maybe_dequant_cache);
     }},
    {"cp_gather_cache", 33, 33, true,
     [](GatherCall& c) { return run_with_end(c, KVOPS_U8, 33, KVOPS_U8, kvops_cp_gather_cache); }},
    {"cp_gather_and_upconvert_fp8_kv_cache", 656, 1152, false,
     [](GatherCall& c) { return run_record(c, 656, kvops_cp_gather_and_upconvert_fp8_kv_cache); }},
    {"cp_gather_and_upconvert_nvfp4_kv_cache", 352, 1152, false,
     [](GatherCall& c) {
       return run_record(c, 352, kvops_cp_gather_and_upconvert_nvfp4_kv_cache);
     }},
    {"cp_gather_indexer_k_quant_cache", 72, 72, true, run_indexer},
};

inline GatherCall gather_call(const GatherOp& op, const Requests& requests, int64_t blocks,
                              int64_t block, int64_t rows) {
  GatherCall c = {requests, blocks, block, rows, {}, {}};
  c.cache = random_bits<uint8_t>(size_t(blocks * block * op.entry), 7);
  c.out = Bytes(size_t(rows * op.row), 0xA5);
  return c;
}

// All entries of the cache, decoded, in the order of blocks and slots.
inline Bytes decoded_entries(const GatherOp& op, const GatherCall& c) {
  const auto n = int32_t(c.blocks * c.block);
  auto all = gather_call(op, {c.blocks, {}, {0, n}, {}}, c.blocks, c.block, n);
  for (int32_t b = 0; b < c.blocks; ++b) all.requests.table.push_back(b);
  all.cache = c.cache;
  CHECK_OK(op.run(all));
  REQUIRE(all.faults == 0);
  return all.out;
}

// What the call must write, row by row, and the faults that it must count.
inline std::pair<Bytes, int64_t> expected_rows(const GatherOp& op, const GatherCall& c) {
  auto& r = c.requests;
  const auto entries = decoded_entries(op, c);
  Bytes out = c.out;
  std::set<std::pair<int64_t, int64_t>> bad;
  const int64_t end = op.with_end ? std::min<int64_t>(r.starts.back(), c.rows) : c.rows;
  for (int64_t b = 0; b < r.batch(); ++b) {
    const int64_t last = b + 1 < r.batch() ? std::min<int64_t>(r.starts[size_t(b) + 1], end) : end;
    for (int64_t t = std::max(r.starts[size_t(b)], 0); t < last; ++t) {
      const int64_t pos =
          t - r.starts[size_t(b)] + (r.seq_starts.empty() ? 0 : r.seq_starts[size_t(b)]);
      const int64_t page = pos < 0 ? -((c.block - 1 - pos) / c.block) : pos / c.block;
      const int64_t block = page < 0 || page >= r.width ? -1 : r.table[size_t(b * r.width + page)];
      auto* row = &out[size_t(t * op.row)];
      if (block >= 0 && block < c.blocks) {
        std::memcpy(row, &entries[size_t((block * c.block + pos % c.block) * op.row)],
                    size_t(op.row));
      } else {
        bad.emplace(b, page);
        if (c.zero) std::memset(row, 0, size_t(op.row));
      }
    }
  }
  return {out, int64_t(bad.size())};
}

inline void check_gather(const GatherOp& op, GatherCall c) {
  INFO(op.name);
  const auto [out, faults] = expected_rows(op, c);
  CHECK_OK(op.run(c));
  CHECK((c.out == out));
  CHECK(c.faults == faults);
}

}  // namespace tests
