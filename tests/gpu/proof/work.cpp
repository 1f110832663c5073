// See work.h.
#include "work.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace proof {
namespace {

constexpr kvops_device kCpu = {KVOPS_CPU, 0};

bool on_host(const Tensor& t) { return t.arg->flags & KVOPS_ARG_HOST; }
bool written(const Tensor& t) { return t.arg->flags & KVOPS_ARG_WRITTEN; }

// Do all tensors that are written or hold integers have elements?
bool does_something(const kvops_op_info& op, const Shapes& shapes) {
  bool all = true;
  for (size_t i = 0; i < op.num_args; ++i) {
    auto& arg = *op.args[i];
    std::vector<int64_t> shape;
    if (arg.kind != KVOPS_ARG_TENSOR || !shapes.present(arg) || !shapes.shape(arg, &shape))
      continue;
    const bool matters = arg.flags & KVOPS_ARG_WRITTEN || shapes.dtype(arg) >= KVOPS_U8;
    all = all && (!matters || harness::count(shape) > 0);
  }
  return all;
}

}  // namespace

Work::Work(const kvops_op_info& op, const ShapeCase& c, kvops_device device, void* stream,
           Pinned pinned)
    : op_(op), shapes_(op, c), device_(device), stream_(stream), pinned_(pinned) {}

Work::~Work() {
  for (auto& item : items_) place_release(&item);
  for (auto* backup : backups_) kvops_free(device_, backup);
  if (workspace_) kvops_free(device_, workspace_);
}

// Guards and gaps are a NaN in every float dtype.
std::string Work::lay(size_t i) {
  auto& t = tensors_[i];
  auto& p = items_[i];
  if (place(&p, t.arg->shape, t.dtype, int(t.shape.size()), t.shape.data(),
            t.elements.empty() ? nullptr : t.elements.data(), LAYOUT_DENSE, 0xFF, nullptr))
    return "the host has no memory left";
  const bool source = !written(t),
             pinned = t.arg->flags & KVOPS_ARG_ANYWHERE &&
                      pinned_ == (source ? Pinned::source : Pinned::destination);
  if (place_upload(&p, on_host(t) ? kCpu : device_, on_host(t) ? nullptr : stream_, pinned))
    return kvops_last_error();
  return "";
}

// Addresses and descriptors of where everything lies.
void Work::point() {
  args_.assign(op_.args_size / 8, 0);
  auto* base = reinterpret_cast<char*>(args_.data());
  std::memcpy(base, &op_.args_size, sizeof(size_t));
  shapes_.put_scalars(base);
  kvops_tensor place = {};
  place.device = device_, place.stream = stream_;
  for (size_t i = 0; i < op_.num_args; ++i)
    if (op_.args[i]->flags & KVOPS_ARG_PLACE)
      std::memcpy(base + op_.args[i]->offset, &place, sizeof place);
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (tensors_[i].arg != &harness::kBehind)
      std::memcpy(base + tensors_[i].arg->offset, &items_[i].tensor, sizeof(kvops_tensor));
}

std::string Work::upload(size_t i) {
  auto& p = items_[i];
  if (kvops_copy(p.home, p.home.type == KVOPS_CPU ? nullptr : stream_, p.base, p.image, p.bytes))
    return kvops_last_error();
  return "";
}

std::string Work::prepare(std::vector<Tensor> tensors) {
  tensors_ = std::move(tensors);
  items_.resize(tensors_.size());
  std::vector<int64_t> addresses;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto& t = tensors_[i];
    if (std::strstr(t.arg->name, "_ptrs") && !addresses.empty()) {
      std::memcpy(t.elements.data(), addresses.data(), 8 * addresses.size());
      addresses.clear();
    }
    auto problem = lay(i);
    if (!problem.empty()) return problem;
    if (t.arg == &harness::kBehind)
      addresses.push_back(int64_t(reinterpret_cast<intptr_t>(items_[i].tensor.data)));
  }
  point();
  if (place_workspace(&op_, args_.data(), device_, stream_, &workspace_)) return kvops_last_error();
  return "";
}

std::string Work::change(uint64_t seed) {
  auto fresh = harness::draw(op_, shapes_, seed);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (on_host(tensors_[i]) || std::strstr(tensors_[i].arg->name, "_ptrs")) continue;
    tensors_[i].elements = std::move(fresh[i].elements);
    if (!tensors_[i].elements.empty())
      place_scatter(&items_[i], items_[i].image, tensors_[i].elements.data());
    auto problem = upload(i);
    if (!problem.empty()) return problem;
  }
  return kvops_stream_synchronize(device_, stream_) ? kvops_last_error() : "";
}

std::string Work::restore() {
  backups_.resize(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto& p = items_[i];
    if (!written(tensors_[i])) continue;
    if (!backups_[i] && (kvops_malloc(device_, p.bytes, &backups_[i]) ||
                         kvops_copy(device_, stream_, backups_[i], p.image, p.bytes)))
      return kvops_last_error();
    if (kvops_copy(device_, stream_, p.base, backups_[i], p.bytes)) return kvops_last_error();
  }
  return "";
}

void Work::spoil(bool spoilt) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto& p = items_[i];
    if (!on_host(tensors_[i])) continue;
    std::memcpy(p.base, p.image, size_t(p.bytes));
    if (spoilt) std::memset(p.base, 0x81, size_t(p.bytes));
  }
}

std::string Work::read(std::vector<Bytes>* all) {
  all->resize(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto& p = items_[i];
    (*all)[i].resize(size_t(p.bytes));
    if (kvops_copy(p.home, p.home.type == KVOPS_CPU ? nullptr : stream_, (*all)[i].data(), p.base,
                   p.bytes))
      return kvops_last_error();
  }
  return kvops_stream_synchronize(device_, stream_) ? kvops_last_error() : "";
}

std::vector<Bytes> Work::images() const {
  std::vector<Bytes> all;
  for (auto& p : items_) all.emplace_back(p.image, p.image + p.bytes);
  return all;
}

Bytes Work::elements(size_t i, const Bytes& image) const {
  Bytes values(size_t(items_[i].count * items_[i].size));
  place_gather(&items_[i], image.data(), values.data());
  return values;
}

std::string difference(const Work& work, const std::vector<Bytes>& got,
                       const std::vector<Bytes>& want) {
  for (size_t i = 0; i < work.size(); ++i) {
    if (got[i] == want[i]) continue;
    size_t at = 0;
    while (got[i][at] == want[i][at]) ++at;
    char text[160];
    std::snprintf(text, sizeof text, "%s: byte %zu of %zu (elements begin at %lld) is %d, not %d",
                  work.tensor(i).arg->name, at, got[i].size(), (long long)work.place_of(i).offset,
                  got[i][at], want[i][at]);
    return text;
  }
  return "";
}

std::vector<ShapeCase> sample(const Options& o, const kvops_op_info& op, size_t most, int64_t limit,
                              bool faults) {
  std::string error, missing;
  std::vector<ShapeCase> fit, chosen;
  bool counts = false;
  for (size_t i = 0; i < op.num_args; ++i) counts = counts || op.args[i]->flags & KVOPS_ARG_COUNTER;
  if (faults && !counts) return {};
  for (auto& c : harness::read_cases(o.folder + "/" + op.name + ".txt", &error)) {
    if (faults) c.value["faults"] = std::string("1");
    Shapes shapes(op, c);
    if (!shapes.complete(&missing) || !does_something(op, shapes)) continue;
    const int64_t n = harness::elements(op, shapes), behind = harness::bytes_behind(op, shapes);
    if (n + behind <= limit) fit.push_back(c);
  }
  for (size_t i = 0; i < fit.size() && i < most; ++i)
    chosen.push_back(fit[fit.size() <= most ? i : i * fit.size() / most]);
  return chosen;
}

}  // namespace proof
