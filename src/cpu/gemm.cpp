// Matrix product: which kernels, how the work is cut, and the loops around the kernels. A task is
// some rows by some panels. Its thread converts a few k blocks of its rows at a time, and takes
// each panel past them, so that the panel's blocks come from memory once and stay in the first
// cache while all rows use them; sums wait in the scratch between the groups of k blocks.
#include "cpu/gemm.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "core/dtype.h"
#include "core/integers.h"
#include "core/view.h"
#include "cpu/features.h"
#include "cpu/gemm_kernels.h"
#include "cpu/parallel.h"

namespace kvops::cpu {
namespace {

// Rows of a task: enough that a panel's bytes are wanted no faster than memory delivers them (128
// for 140 rows of products). Input and sums together leave room for a panel's block in 1 MiB of L2.
constexpr int64_t kTaskRows = 140, kInputBytes = 320 << 10, kSumsBytes = 256 << 10;
// Tasks of one product, where it is large enough: some for each of many threads. Unless rows are
// few, a task has several panels, because each task converts its rows anew.
constexpr int64_t kTasks = 64, kMostPanels = 64, kSomeTasks = 16, kSomePanels = 8;
// Products that a thread should have at once, or waking it costs more than it saves: about 2 us.
constexpr int64_t kPieceWork = 1 << 18;

std::atomic<GemmPath> most_path{GemmPath::amx};

const GemmKernels& choose_kernels(kvops_dtype dtype) {
  const Features f = features();
  const bool bf16 = dtype == KVOPS_BF16, i8 = dtype == KVOPS_I8;
  const GemmPath most = most_path.load(std::memory_order_relaxed);
  if (most >= GemmPath::amx && ((bf16 && f.amx_bf16) || (i8 && f.amx_int8)))
    return *gemm_amx_kernels(dtype);
  if (most >= GemmPath::dot && ((bf16 && f.bf16_dot) || (i8 && f.int8_dot)))
    return *gemm_dot_kernels(dtype);
  return *gemm_simd_kernels(dtype);
}

// Memory of one thread, kept for its next task.
struct Scratch {
  char* data = nullptr;
  size_t bytes = 0;
  ~Scratch() { std::free(data); }
  char* at_least(size_t wanted) {
    if (bytes >= wanted) return data;
    std::free(data);
    data = static_cast<char*>(std::aligned_alloc(64, wanted));
    bytes = data ? wanted : 0;
    return data;
  }
};
thread_local Scratch scratch;

// One product, of all or some columns.
struct Product {
  kvops_dtype dtype;
  int64_t m, k, n;
  const char* input;
  int64_t input_stride;
  const char* panels;
  const int32_t* starts;  // i8: of the first panel
  const char* bias;
  char* out;
  int64_t out_stride, out_size;  // elements, bytes of one
};

struct Plan {
  const Product& g;
  const GemmKernels& kernels;
  int64_t element, step_bytes, steps, blocks, panels;
  int64_t block_steps, together;   // steps of a block, panels that are taken at once: 1 or 2
  int64_t task_rows, row_tasks;    // rows of a task, tasks over the rows
  int64_t group;                   // k blocks that are converted at once
  int64_t task_panels, col_tasks;  // panels of a task, tasks over the panels
  int64_t input_bytes, sums_bytes;

  Plan(const Product& product, const GemmKernels& k);

  int64_t tasks() const { return row_tasks * col_tasks; }
  bool one_group() const { return group >= blocks; }
  bool run(int64_t task) const;
  void convert(int64_t row, int64_t rows, int64_t block, char* to) const;
  void multiply(int64_t p, int64_t count, int64_t rows, int64_t block, const char* input,
                char* sums) const;
  void finish(int64_t p, int64_t row, int64_t rows, const char* sums) const;
};

Plan::Plan(const Product& product, const GemmKernels& k) : g(product), kernels(k) {
  element = dtype(g.dtype).size;
  step_bytes = gemm_step_bytes(g.dtype);
  steps = gemm_steps(g.dtype, g.k);
  block_steps = k.steps;
  blocks = std::max<int64_t>(1, ceil_div(steps, block_steps));
  panels = ceil_div(g.n, kGemmPanel);
  const int64_t most = kTaskRows / k.most_rows * k.most_rows;
  row_tasks = ceil_div(g.m, most);
  task_rows = std::min(most, round_up(ceil_div(g.m, row_tasks), k.most_rows));
  row_tasks = ceil_div(g.m, task_rows);
  const int64_t rows = std::min(g.m, task_rows);
  const int64_t padded = k.whole_tiles ? round_up(rows, kGemmTileSteps) : rows;
  group = std::clamp<int64_t>(kInputBytes / (padded * k.pitch), 1, blocks);
  together = g.m <= k.pair_rows ? 2 : 1;
  const int64_t tile_bytes = padded * kGemmPanel * 4;
  const int64_t fit = one_group() ? kMostPanels : kSumsBytes / tile_bytes;
  const int64_t some = std::clamp<int64_t>(panels / kSomeTasks, 1, kSomePanels);
  const int64_t least = together == 2 ? 2 : some;
  task_panels = std::min(std::max(ceil_div(panels * row_tasks, kTasks), least), fit);
  col_tasks = ceil_div(panels, task_panels);
  input_bytes = group * padded * k.pitch;
  sums_bytes = (one_group() ? together : task_panels) * tile_bytes;
}

// Rows of one k block, in place for the kernels.
void Plan::convert(int64_t row, int64_t rows, int64_t block, char* to) const {
  const int64_t per_block = block_steps * gemm_per_step(g.dtype), first = block * per_block;
  const int64_t k = std::min(g.k - first, per_block);
  if (k <= 0) return;  // there is no k at all
  const char* x = g.input + (row * g.input_stride + first) * element;
  for (int64_t r = 0; r < rows; ++r)
    kernels.convert(x + r * g.input_stride * element, k, to + r * kernels.pitch);
}

// One k block of one panel, or of two, for all rows of a task.
void Plan::multiply(int64_t p, int64_t count, int64_t rows, int64_t block, const char* input,
                    char* sums) const {
  alignas(64) static constexpr int32_t kZeros[2 * kGemmPanel] = {};
  const int64_t panel_bytes = steps * step_bytes, block_bytes = block_steps * step_bytes;
  GemmBlock b = {};
  b.panel = g.panels + p * panel_bytes + block * block_bytes;
  b.steps = std::min(steps - block * block_steps, block_steps);
  if (block == 0) b.start = kernels.offset ? g.starts + p * kGemmPanel : kZeros;
  if (count == 2) {
    b.rows = input, b.tile = sums, b.pair = panel_bytes;
    return kernels.pairs[rows - 1](b);
  }
  // The rows that use this block fetch the one that comes next: of this panel, or where the group
  // ends, of the next one. With few rows the hardware's guess is as good.
  const int64_t most = kernels.most_rows, parts = ceil_div(rows, most);
  const bool last = !one_group() && block % group == group - 1;
  b.next = b.panel + (last ? panel_bytes - (group - 1) * block_bytes : block_bytes);
  b.lines = rows <= kernels.few_rows ? 0 : ceil_div(kGemmTileSteps * step_bytes / 64, parts);
  for (int64_t i = 0; i < parts; ++i) {
    // As even as they can be, but for whole tiles, of which only the last one may be padded.
    const int64_t begin = kernels.whole_tiles ? i * most : rows * i / parts;
    const int64_t end = kernels.whole_tiles ? std::min(rows, begin + most) : rows * (i + 1) / parts;
    b.rows = input + begin * kernels.pitch;
    b.tile = sums + begin * kGemmPanel * 4;
    kernels.kernels[end - begin - 1](b);
    b.next += b.lines * 64 * (block_steps / kGemmTileSteps);
  }
}

void Plan::finish(int64_t p, int64_t row, int64_t rows, const char* sums) const {
  const int64_t col = p * kGemmPanel;
  gemm_finish(
      g.dtype,
      {rows, std::min(g.n - col, kGemmPanel), sums, g.bias ? g.bias + col * element : nullptr,
       g.out + (row * g.out_stride + col) * g.out_size, g.out_stride * g.out_size});
}

bool Plan::run(int64_t task) const {
  const int64_t row = task % row_tasks * task_rows, rows = std::min(g.m - row, task_rows);
  const int64_t first = task / row_tasks * task_panels, end = std::min(panels, first + task_panels);
  char* const input = scratch.at_least(size_t(input_bytes + sums_bytes));
  if (!input) return false;
  if (kernels.begin) kernels.begin();
  const int64_t block_bytes = input_bytes / group;
  const int64_t tile_bytes = one_group() ? 0 : sums_bytes / task_panels;
  for (int64_t from = 0; from < blocks; from += group) {
    const int64_t to = std::min(blocks, from + group);
    for (int64_t b = from; b < to; ++b) convert(row, rows, b, input + (b - from) * block_bytes);
    for (int64_t p = first, count = 0; p < end; p += count) {
      count = std::min(together, end - p);
      char* sums = input + input_bytes + (p - first) * tile_bytes;
      for (int64_t b = from; b < to; ++b)
        multiply(p, count, rows, b, input + (b - from) * block_bytes, sums);
      for (int64_t i = 0; to == blocks && i < count; ++i)
        finish(p + i, row, rows, sums + i * rows * kGemmPanel * 4);
    }
  }
  if (kernels.end) kernels.end();
  return true;
}

}  // namespace

void limit_gemm_path(GemmPath most) { most_path = most; }

int64_t gemm_packed_bytes(const GemmShape& s) {
  const int64_t panel = gemm_steps(s.dtype, s.k) * gemm_step_bytes(s.dtype);
  return ceil_div(s.n, kGemmPanel) * (panel + (s.dtype == KVOPS_I8 ? kGemmPanel * 4 : 0));
}

void gemm_pack(const GemmShape& s, const kvops_tensor& weight, std::byte* packed) {
  const int64_t element = dtype(s.dtype).size, panels = ceil_div(s.n, kGemmPanel);
  const int64_t bytes = gemm_steps(s.dtype, s.k) * gemm_step_bytes(s.dtype);
  const auto* from = static_cast<const char*>(weight.data);
  const int64_t k_stride = weight.stride[0], n_stride = weight.stride[1];
  parallel_for(panels, rows_per_piece(bytes), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t col = p * kGemmPanel;
      auto* starts = reinterpret_cast<int32_t*>(packed + panels * bytes) + col;
      gemm_pack_panel(s.dtype,
                      {s.k, std::min(s.n - col, kGemmPanel), from + col * n_stride * element,
                       k_stride, n_stride},
                      packed + p * bytes, s.dtype == KVOPS_I8 ? starts : nullptr);
    }
  });
}

bool gemm(const Gemm& g) {
  if (g.m <= 0 || g.shape.n <= 0) return true;
  const auto t = g.shape.dtype;
  const Product product = {t,
                           g.m,
                           g.shape.k,
                           g.shape.n,
                           static_cast<const char*>(g.input),
                           g.input_stride,
                           reinterpret_cast<const char*>(g.packed),
                           nullptr,
                           static_cast<const char*>(g.bias),
                           static_cast<char*>(g.out),
                           g.out_stride,
                           dtype(t).size};
  const Plan plan(product, choose_kernels(t));
  const int64_t work = ceil_div(g.m * std::max<int64_t>(g.shape.k, 1) * g.shape.n, plan.tasks());
  std::atomic<bool> enough = true;
  parallel_for(plan.tasks(), ceil_div(kPieceWork, work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      if (!plan.run(task)) enough = false;
  });
  return enough;
}

bool gemm_i8(const GemmI8& g) {
  if (g.m <= 0 || g.end <= g.begin) return true;
  const int64_t panel = gemm_steps(KVOPS_I8, g.shape.k) * gemm_step_bytes(KVOPS_I8);
  const int64_t panels = ceil_div(g.shape.n, kGemmPanel), first = g.begin / kGemmPanel;
  const auto* packed = reinterpret_cast<const char*>(g.packed);
  const Product product = {
      KVOPS_I8,
      g.m,
      g.shape.k,
      g.end - g.begin,
      reinterpret_cast<const char*>(g.input),
      g.input_stride,
      packed + first * panel,
      reinterpret_cast<const int32_t*>(packed + panels * panel) + first * kGemmPanel,
      nullptr,
      reinterpret_cast<char*>(g.sums),
      g.sums_stride,
      4};
  const Plan plan(product, choose_kernels(KVOPS_I8));
  for (int64_t task = 0; task < plan.tasks(); ++task)
    if (!plan.run(task)) return false;
  return true;
}

}  // namespace kvops::cpu
