// NVFP4 pages: a reader written from the layout alone, the quality of what it reads, and the vector
// code of every target against the scalar arithmetic that all back ends share.
#include <cmath>

#include "core/nvfp4.h"
#include "ops/tensors.h"

using namespace tests;
using std::vector;

namespace {

using Args = kvops_reshape_and_cache_flash_args;

struct Pages {
  int64_t heads, size, blocks, block;
  bool hnd;
  int64_t layout;
  int64_t page() const { return block * heads * size * 9 / 16; }
  Extents shape() const { return {blocks, block, heads, size * 9 / 16}; }
  Extents stride() const {
    const int64_t width = size * 9 / 16;
    return hnd ? Extents{2 * page(), width, block * width, 1}
               : Extents{2 * page(), heads * width, width, 1};
  }

  // Element d of the row at position o of a page of one side, times the tensor's scale.
  float read(const uint8_t* data, int64_t o, int64_t h, int64_t d, bool value) const {
    const int64_t groups = size / 16, g = d / 16, codes = block * heads * size / 2;
    auto row = [&](int64_t at) { return hnd ? h * block + at : at * heads + h; };
    const uint8_t byte = data[row(o) * (size / 2) + d / 2];
    static const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    const int code = d % 2 ? byte >> 4 : byte & 15;
    int64_t at = o, place = g;
    if (value && layout == KVOPS_V_SCALE_TRANSPOSED) {
      const int64_t k = 4 * g + o % 4;
      at = 4 * (o / 4) + k / groups, place = k % groups;
    }
    const uint8_t scale = data[codes + row(at) * groups + place];
    const int exponent = scale >> 3 & 15, mantissa = scale & 7;
    const float s =
        exponent ? std::ldexp(float(8 + mantissa), exponent - 10) : std::ldexp(float(mantissa), -9);
    return (code & 8 ? -values[code & 7] : values[code & 7]) * s;
  }
};

struct Quality {
  double dot = 0, x2 = 0, y2 = 0, error2 = 0, nonzero = 0, count = 0;
  void add(double x, double y) {
    dot += x * y, x2 += x * x, y2 += y * y, error2 += (x - y) * (x - y);
    nonzero += y != 0, ++count;
  }
};

Args call_of(const vector<uint16_t>& x, int64_t tokens, const Pages& p, vector<uint8_t>& memory,
             const float& scale, const vector<int64_t>& slot, int64_t format) {
  auto a = make<Args>();
  a.key = a.value = tensor(x, KVOPS_BF16, {tokens, p.heads, p.size});
  a.key_cache = tensor(memory.data(), KVOPS_U8, p.shape(), p.stride());
  a.value_cache = a.key_cache, a.value_cache.data = memory.data() + p.page();
  a.slot_mapping = slots(slot), a.format = format, a.v_scale_layout = p.layout;
  a.k_scale = a.v_scale = tensor(const_cast<float*>(&scale), KVOPS_F32, {});
  return a;
}

}  // namespace

TEST_CASE("NVFP4 pages give back what was written, in every geometry") {
  for (int64_t format : {KVOPS_FORMAT_NVFP4, KVOPS_FORMAT_NVFP4_4OVER6})
    for (int64_t size : {16, 48, 64, 80, 128, 256})
      for (int64_t block : {4, 8, 16, 32})
        for (int64_t heads : {1, 3, 8})
          for (int kind = 0; kind < 4; ++kind) {
            const Pages p = {heads, size, 3, block, kind % 2 == 1, 1 + kind / 2};
            const int64_t tokens = p.blocks * block;
            auto x = random_bf16(size_t(tokens * heads * size), unsigned(size + block));
            float amax = 0;
            for (auto bits : x) amax = std::max(amax, std::abs(from_bf16(bits)));
            const float scale = amax / 448;
            vector<int64_t> slot;
            for (int64_t t = 0; t < tokens; ++t) slot.push_back((t * 5 + 1) % tokens);
            vector<uint8_t> memory(size_t(2 * p.page() * p.blocks), 0xFF);
            auto a = call_of(x, tokens, p, memory, scale, slot, format);
            CHECK_OK(kvops_reshape_and_cache_flash(&a));
            Quality quality[2];
            for (int64_t t = 0; t < tokens; ++t)
              for (int64_t h = 0; h < heads; ++h)
                for (int64_t d = 0; d < size; ++d)
                  for (int side = 0; side < 2; ++side) {
                    const int64_t s = slot[size_t(t)];
                    auto* page = memory.data() + s / block * 2 * p.page() + side * p.page();
                    const float y = p.read(page, s % block, h, d, side) * scale;
                    quality[side].add(from_bf16(x[size_t((t * heads + h) * size + d)]), y);
                  }
            INFO("size " << size << " block " << block << " heads " << heads << " kind " << kind);
            for (auto& q : quality) {
              REQUIRE(q.dot / std::sqrt(q.x2 * q.y2) >= 0.99);
              REQUIRE(std::sqrt(q.error2 / q.x2) <= 0.15);
              REQUIRE(std::abs(std::sqrt(q.y2 / q.x2) - 1) <= 0.15);
              REQUIRE(q.nonzero / q.count >= 0.75);
            }
          }
}

TEST_CASE("NVFP4: the smaller error of 4 and 6 wins") {
  const Pages p = {4, 128, 2, 16, false, KVOPS_V_SCALE_LINEAR};
  const int64_t tokens = 32;
  auto x = random_bf16(size_t(tokens * p.heads * p.size), 9);
  const float scale = 0.01f;
  vector<int64_t> slot(32);
  for (size_t i = 0; i < slot.size(); ++i) slot[i] = int64_t(i);
  double error[2];
  for (int rule : {0, 1}) {
    vector<uint8_t> memory(size_t(2 * p.page() * p.blocks));
    auto a = call_of(x, tokens, p, memory, scale, slot, KVOPS_FORMAT_NVFP4 + rule);
    CHECK_OK(kvops_reshape_and_cache_flash(&a));
    Quality q;
    for (int64_t i = 0; i < int64_t(x.size()); ++i) {
      const int64_t t = i / (p.heads * p.size);
      auto* page = memory.data() + t / p.block * 2 * p.page();
      const float y = p.read(page, t % p.block, i / p.size % p.heads, i % p.size, false);
      q.add(from_bf16(x[size_t(i)]), y * scale);
    }
    error[rule] = q.error2;
  }
  CHECK(error[1] < 0.95 * error[0]);
}

TEST_CASE("NVFP4: debug=bounds refuses scales that are not positive and finite") {
  const Pages p = {2, 32, 2, 4, false, KVOPS_V_SCALE_LINEAR};
  auto x = random_bf16(size_t(2 * p.heads * p.size), 1);
  vector<uint8_t> memory(size_t(2 * p.page() * p.blocks), 0xEE);
  const auto untouched = memory;
  float good = 1, scale = 0;
  const vector<int64_t> slot = {0, 5};
  auto a = call_of(x, 2, p, memory, good, slot, KVOPS_FORMAT_NVFP4);
  REQUIRE(!kvops_set_option("debug", "bounds"));
  for (kvops_tensor* side : {&a.k_scale, &a.v_scale}) {
    side->data = &scale;
    for (float bad : {0.0f, -1.0f, INFINITY, NAN}) {
      scale = bad;
      CHECK(kvops_reshape_and_cache_flash(&a) == KVOPS_INVALID_ARGUMENT);
    }
    side->data = &good;
  }
  kvops_error e = {};
  e.struct_size = sizeof e;
  REQUIRE(!kvops_get_error(&e));
  CHECK(std::string(e.message) ==
        "reshape_and_cache_flash: v_scale: element 0 is nan, expected a positive finite number");
  CHECK(e.element == 0);
  CHECK((memory == untouched));
  CHECK_OK(kvops_reshape_and_cache_flash(&a));
  kvops_set_option("debug", "");
  a.k_scale.data = &scale;
  CHECK_OK(kvops_reshape_and_cache_flash(&a));  // the bytes mean nothing, but nothing breaks
}

TEST_CASE("NVFP4: vectors equal the scalar arithmetic on any bits") {
  const Pages p = {2, 272, 8, 4, false, KVOPS_V_SCALE_LINEAR};
  const int64_t tokens = 32, groups = p.size / 16;
  vector<int64_t> slot(32);
  for (size_t i = 0; i < slot.size(); ++i) slot[i] = int64_t(i);
  on_every_isa([&] {
    for (unsigned seed = 0; seed < 24; ++seed) {
      auto x = seed < 8 ? random_bits<uint16_t>(size_t(tokens * p.heads * p.size), seed)
                        : random_bf16(size_t(tokens * p.heads * p.size), seed,
                                      std::ldexp(1.0f, int(seed) * 6 - 90));
      const float scale = std::ldexp(seed % 3 ? 1.7f : 1.0f, int(seed % 5) * 9 - 20);
      const int64_t format = seed % 2 ? KVOPS_FORMAT_NVFP4 : KVOPS_FORMAT_NVFP4_4OVER6;
      vector<uint8_t> memory(size_t(2 * p.page() * p.blocks));
      auto a = call_of(x, tokens, p, memory, scale, slot, format);
      CHECK_OK(kvops_reshape_and_cache_flash(&a));
      for (int64_t g = 0; g < tokens * p.heads * groups; ++g) {
        float values[16];
        for (int64_t i = 0; i < 16; ++i) values[i] = from_bf16(x[size_t(16 * g + i)]);
        auto expected = kvops::nvfp4_quantise(values, 1 / scale, seed % 2 == 0);
        const int64_t row = g / groups, t = row / p.heads;
        auto* page = memory.data() + t / p.block * 2 * p.page();
        const int64_t in_page = (t % p.block * p.heads + row % p.heads) * groups + g % groups;
        REQUIRE(!std::memcmp(page + 8 * in_page, expected.codes, 8));
        REQUIRE(page[p.block * p.heads * p.size / 2 + in_page] == expected.scale.bits);
      }
    }
  });
}
