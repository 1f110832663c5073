// Fills tensors. Large ones repeat a pattern of about a million values, of a length that is prime,
// so that rows differ; conversions to fp8 are the library's own.
#include "cases/memory.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "plan.h"

namespace kvops::cases {
namespace {

constexpr int64_t kPattern = 1000003;

// To nearest even; the values are finite.
uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// |value| lies between 2^-14 and 2^15 or is flushed to zero: enough for N(0,1).
uint16_t to_f16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  auto sign = uint16_t(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits < 0x38800000) return sign;
  bits += 0xfff + (bits >> 13 & 1);
  return uint16_t(sign | ((bits - 0x38000000) >> 13));
}

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::string error() { return kvops_last_error(); }

// Floats in the storage of a dtype; fp8 through kvops_convert_fp8().
std::string stored(const std::vector<float>& values, kvops_dtype dtype,
                   std::vector<std::byte>& bytes) {
  if (dtype == KVOPS_F32) {
    bytes = bytes_of(values);
  } else if (dtype == KVOPS_BF16 || dtype == KVOPS_F16) {
    std::vector<uint16_t> half(values.size());
    std::transform(values.begin(), values.end(), half.begin(),
                   dtype == KVOPS_BF16 ? to_bf16 : to_f16);
    bytes = bytes_of(half);
  } else {
    bytes.resize(values.size());
    kvops_device cpu = {KVOPS_CPU, 0};
    auto count = int64_t(values.size());
    kvops_convert_fp8_args args = {};
    args.struct_size = sizeof args;
    args.src = kvops_dense(const_cast<float*>(values.data()), cpu, nullptr, KVOPS_F32, 1, &count);
    args.dst = kvops_dense(bytes.data(), cpu, nullptr, dtype, 1, &count);
    args.scale = 1;
    if (kvops_convert_fp8(&args)) return error();
  }
  return "";
}

int64_t count_of(const kvops_tensor& tensor) {
  int64_t count = 1;
  for (int i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
  return count;
}

}  // namespace

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(pinned_, other.pinned_);
  return *this;
}

Buffer::~Buffer() {
  if (data_) (pinned_ ? kvops_free_pinned : kvops_free)(device_, data_);
}

std::string Buffer::allocate(kvops_device device, int64_t bytes, bool pinned) {
  device_ = device;
  pinned_ = pinned;
  auto allocate = pinned ? kvops_malloc_pinned : kvops_malloc;
  return allocate(device, bytes, &data_) ? error() : "";
}

// One pattern per dtype; scales are positive and near 1/16, cos/sin tables hold rotations, so that
// an operator may run on its own results for ever.
const std::vector<std::byte>& Memory::pattern(const Tensor& tensor) {
  bool rotation = std::strcmp(tensor.info->name, "cos_sin_cache") == 0;
  bool scale = std::strstr(tensor.info->name, "scale") != nullptr;
  std::string key = rotation || scale ? tensor.info->name : kvops_dtype_name(tensor.shape.dtype);
  auto& bytes = patterns_[key];
  if (!bytes.empty()) return bytes;
  std::normal_distribution<float> normal;
  std::vector<float> values(kPattern);
  for (auto& value : values) value = normal(random_);
  if (scale)
    for (auto& value : values) value = 0.0625F * (1 + 0.1F * std::abs(value));
  if (rotation) {
    int64_t columns = tensor.shape.shape[1], half = columns / 2;
    values.resize(size_t(columns * std::max<int64_t>(1, kPattern / std::max<int64_t>(1, columns))));
    for (size_t i = 0; half && i < values.size(); ++i) {
      int64_t row = int64_t(i) / columns, column = int64_t(i) % columns;
      bool is_sin = column >= half;
      auto pair = double(is_sin ? column - half : column);
      double angle = double(row) * std::pow(10000.0, -pair / double(half));
      values[i] = float(is_sin ? std::sin(angle) : std::cos(angle));
    }
  }
  if (tensor.shape.dtype == KVOPS_U8 || tensor.shape.dtype == KVOPS_I8) {
    bytes.resize(kPattern);  // packed records: codes that are finite in every fp8 encoding
    for (auto& byte : bytes) byte = std::byte(random_() & 0x77);
  } else if (!stored(values, tensor.shape.dtype, bytes).empty()) {
    bytes.clear();
  }
  return bytes;
}

// Lists of keys, ascending, and of diagonals, descending and down to 0: anywhere, at random.
std::vector<int64_t> Memory::sorted(const Tensor& tensor, int64_t count) {
  const bool slashes = std::strcmp(tensor.info->name, "slash_indexes") == 0;
  const int64_t row = std::max<int64_t>(1, tensor.shape.shape[tensor.shape.rank - 1]);
  std::vector<int64_t> values(static_cast<size_t>(count));
  for (auto& value : values)
    value = int64_t(random_() % uint64_t(std::max<int64_t>(1, tensor.bound)));
  for (auto list = values.begin(); list < values.end(); list += row) {
    *list = 0;
    std::sort(list, list + row);
    if (slashes) std::reverse(list, list + row);
  }
  return values;
}

// Set i takes the next entries of one random order, so that no two tokens share a slot or block
// while there are enough of them. Slots may come in runs, as those of a prompt do.
std::vector<int64_t> Memory::indices(const Tensor& tensor, size_t set) {
  auto count = count_of(tensor.shape);
  std::vector<int64_t> values(size_t(count), 0);
  if (tensor.is_length) {
    std::fill(values.begin(), values.end(), tensor.bound - 1);
  } else if (tensor.rows > 0) {
    auto batch = layout_->batch;
    for (int64_t i = 0; i < count; ++i)
      values[size_t(i)] = tensor.rows * std::min(i, batch) / std::max<int64_t>(batch, 1);
  } else if (std::strstr(tensor.info->name, "_indexes")) {
    values = sorted(tensor, count);
  } else if (std::strcmp(tensor.info->name, "block_mapping") == 0) {
    for (int side = 0; side < 2; ++side) {
      auto* name = side ? "dst" : "src";
      for (auto& other : layout_->tensors) {
        if (std::strcmp(other.info->name, name) != 0) continue;
        for (int64_t i = 0; i < count / 2; ++i)
          values[size_t(2 * i + side)] = (i * 7919 + int64_t(set)) % other.shape.shape[0];
      }
    }
  } else if (tensor.bound > 0) {
    bool slots = std::strcmp(tensor.info->name, "slot_mapping") == 0;
    auto run = size_t(slots ? std::clamp<int64_t>(layout_->run, 1, tensor.bound) : 1);
    auto& order = orders_[tensor.bound / int64_t(run)];
    if (order.empty()) {
      order.resize(size_t(tensor.bound) / run);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random_);
    }
    for (size_t i = 0; i < values.size(); ++i) {
      auto at = set * values.size() + i;
      values[i] = order[at / run % order.size()] * int64_t(run) + int64_t(at % run);
    }
  }
  return values;
}

// Copies of the batched swap: each set of addresses runs through memory of its own.
std::string Memory::addresses(const Tensor& tensor, std::vector<int64_t>& values) {
  auto size = layout_->traffic / (2 * std::max<int64_t>(1, int64_t(values.size())));
  size -= size % 16;
  if (std::strcmp(tensor.info->name, "sizes") == 0) {
    std::fill(values.begin(), values.end(), size);
    return "";
  }
  auto& buffer = buffers_.emplace_back();
  auto problem = buffer.allocate(device_, size * int64_t(values.size()), false);
  bytes_ += size * int64_t(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = int64_t(reinterpret_cast<intptr_t>(buffer.data())) + int64_t(i) * size;
  return problem;
}

// Caches that are reached by address. All sets share them: each touches other slots.
std::string Memory::cache_addresses(std::vector<int64_t>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (i == caches_.size()) {
      auto& buffer = buffers_.emplace_back();
      auto problem = buffer.allocate(device_, layout_->behind, false);
      if (!problem.empty()) return problem;
      if (kvops_fill(device_, nullptr, buffer.data(), 0, layout_->behind)) return error();
      bytes_ += layout_->behind;
      caches_.push_back(int64_t(reinterpret_cast<intptr_t>(buffer.data())));
    }
    values[i] = caches_[i];
  }
  return "";
}

std::string Memory::upload(void* data, const std::vector<std::byte>& pattern, int64_t bytes) {
  auto done = std::min(int64_t(pattern.size()), bytes);
  if (bytes && !done) return error();
  if (kvops_copy(device_, nullptr, data, pattern.data(), done)) return error();
  while (done < bytes) {  // whole patterns, twice as many each time
    auto part = std::min(done, bytes - done);
    auto* to = static_cast<std::byte*>(data) + done;
    if (kvops_copy(device_, nullptr, to, data, part)) return error();
    done += part;
  }
  return kvops_stream_synchronize(device_, nullptr) ? error() : "";
}

std::string Memory::fill_tensor(const Tensor& tensor, size_t set, void*& data) {
  bool host = tensor.shape.device.type == KVOPS_CPU && device_.type != KVOPS_CPU;
  auto& buffer = buffers_.emplace_back();
  auto problem = buffer.allocate(device_, tensor.bytes, host);
  if (!problem.empty()) return problem;
  bytes_ += tensor.bytes;
  data = buffer.data();
  auto dtype = tensor.shape.dtype;
  const bool counts = tensor.shape.dtype == KVOPS_I32 && tensor.info->flags & KVOPS_ARG_WRITTEN;
  if (tensor.info->flags & (KVOPS_ARG_SIZED | KVOPS_ARG_COUNTER) || counts)
    return kvops_fill(device_, nullptr, data, 0, tensor.bytes) ? error() : "";
  if (dtype != KVOPS_I32 && dtype != KVOPS_I64) return upload(data, pattern(tensor), tensor.bytes);
  auto values = indices(tensor, set);
  bool is_address = std::strstr(tensor.info->name, "_ptrs") != nullptr;
  if (is_address || std::strcmp(tensor.info->name, "sizes") == 0) {
    problem = layout_->behind ? cache_addresses(values) : addresses(tensor, values);
    if (!problem.empty()) return problem;
  }
  if (dtype == KVOPS_I64) return upload(data, bytes_of(values), tensor.bytes);
  return upload(data, bytes_of(std::vector<int32_t>(values.begin(), values.end())), tensor.bytes);
}

std::string Memory::fill(const Layout& layout, kvops_device device, int sets) {
  layout_ = &layout;
  device_ = device;
  std::map<std::string, void*> shared;
  for (size_t set = 0; set < size_t(sets); ++set) {
    calls_.push_back(layout.args);
    for (auto& tensor : layout.tensors) {
      auto& slot = tensor_at(calls_.back().data(), tensor.info);
      if (tensor.is_shared && set) {
        slot.data = shared[tensor.info->name];
        continue;
      }
      auto problem = fill_tensor(tensor, set, slot.data);
      if (!problem.empty()) return problem;
      if (tensor.is_shared) shared[tensor.info->name] = slot.data;
    }
    // Every set has a weight of its own.
    if (harness::handle_argument(*layout.op) &&
        !handles_.give(*layout.op, calls_.back().data(), false))
      return error();
    bytes_ += harness::weight_bytes(*layout.op, calls_.back().data());
    harness::fill_plan(layout.op->name, calls_.back().data(), true);
  }
  return "";
}

void Memory::use_stream(void* stream) {
  for (auto& call : calls_)
    for (auto& tensor : layout_->tensors) {
      auto& slot = tensor_at(call.data(), tensor.info);
      if (slot.device.type != KVOPS_CPU) slot.stream = stream;
    }
}

}  // namespace kvops::cases
