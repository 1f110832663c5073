"""key_cache[b, o, h, d] = conv(key[t, h, d], k_scale[h]), or pages of NVFP4 codes and scales."""
import numpy as np

from caches import faults, filler, nvfp4, slot_list, store, values
from common import Bits, random_state, rounded, save_case, tensor

OP = "reshape_and_cache_flash"


def write(name, random, inputs, caches, rows, slots, bad, put, scalars=None):
    """Puts the rows of both sides into copies of the caches and saves the case."""
    expected = faults(bad)
    blocks, block = next(iter(caches.values())).array.shape[:2]
    for side, cache in caches.items():
        array = cache.array.copy()
        for t, s in enumerate(slots):
            if 0 <= s < blocks * block:
                put(side, array[s // block], s % block, rows[side], t)
        expected[side] = Bits(cache.dtype, array)
    inputs = {**inputs, **caches, "slot_mapping": Bits("i64", slots)}
    save_case(OP, name, inputs, expected, scalars)


def plain(name, source, cache, heads=2, size=40, tokens=14, blocks=3, block=4, per_head=False):
    random = random_state(OP, name)
    shape = (tokens + 2, heads, size)
    inputs, rows, caches = {}, {}, {}
    for side, c in (("key", 0.1), ("value", 7 / 128)):
        x = values(random, shape, source)
        scale = rounded(c * np.exp(random.standard_normal(heads if per_head else 1)), "f32")
        inputs[side] = tensor(source, x)
        if source != cache:
            inputs[side[0] + "_scale"] = tensor("f32", scale)
        rows[side + "_cache"] = store(x, source, cache, scale[:, None])
        caches[side + "_cache"] = Bits(cache, filler(random, (blocks, block, heads, size), cache))

    def put(side, page, o, row, t):
        page[o] = row[t]

    write(name, random, inputs, caches, rows, *slot_list(random, tokens, blocks, block, 5), put)


def packed(name, source, heads, size, block, rule, layout):
    """NHD pages, whose bytes are all codes, then all scales."""
    random = random_state(OP, name)
    tokens, blocks, groups = 14, 3, size // 16
    inputs, rows, caches = {}, {}, {}
    for side in ("key", "value"):
        x = random.standard_normal((tokens, heads, size)) * np.exp2(
            random.randint(-3, 3, (tokens, heads, groups)).repeat(16, -1))
        for t, special in enumerate([[0.0], [-0.0, 0.0], [np.nan, 1, -3], [np.inf, -np.inf, 5, -1],
                                     [1e-6, -1e-6], [np.nan], [6e4, -6e4, 1],
                                     [3.0] + [0.0] * 15]):  # exact with 6 and with 4
            x[t, t % heads, :16] = np.resize(special, 16)
        x = rounded(x, source)
        scale = np.float32(3.5 / 448)
        inputs[side], inputs[side[0] + "_scale"] = tensor(source, x), tensor("f32", [scale])
        rows[side + "_cache"] = nvfp4(x, scale, rule == 2)
        page = (blocks, block, heads, 9 * groups)
        caches[side + "_cache"] = Bits("u8", filler(random, page, "u8"))

    def put(side, page, o, row, t):
        page, start = page.reshape(-1), block * heads * size // 2
        for h in range(heads):
            begin = (o * heads + h) * size // 2
            page[begin:begin + size // 2] = row[0][t, h]
            for g in range(groups):
                at, place = o, g
                if side == "value_cache" and layout == 1:
                    k = 4 * g + o % 4
                    at, place = 4 * (o // 4) + k // groups, k % groups
                page[start + (at * heads + h) * groups + place] = row[1][t, h, g]

    write(name, random, inputs, caches, rows, *slot_list(random, tokens, blocks, block, 5), put,
          {"format": rule, "v_scale_layout": layout})


for dtype in ("f32", "f16", "bf16"):
    plain("copy-" + dtype, dtype, dtype, size=33)
    plain(dtype + "-e4m3", dtype, "f8_e4m3")
for cache in ("e5m2", "e4m3fnuz", "e5m2fnuz"):
    plain("bf16-" + cache, "bf16", "f8_" + cache)
plain("per-head", "bf16", "f8_e4m3", heads=3, per_head=True)
plain("per-head-f32-e5m2", "f32", "f8_e5m2", heads=5, size=8, per_head=True)
plain("one-head-16", "f16", "f8_e4m3", heads=1, size=16)
plain("two-heads-8", "bf16", "f8_e4m3", heads=2, size=8, per_head=True)
plain("size-1", "bf16", "bf16", size=1, heads=3)
plain("size-46", "bf16", "bf16", size=46)
packed("nvfp4-transposed", "bf16", 2, 64, 4, 1, 1)
packed("nvfp4-linear", "f16", 2, 64, 4, 1, 2)
packed("nvfp4-48", "bf16", 3, 48, 8, 1, 1)
packed("nvfp4-80", "f16", 1, 80, 4, 1, 1)
packed("nvfp4-16", "bf16", 3, 16, 4, 1, 1)
packed("nvfp4-odd-block", "bf16", 2, 32, 5, 1, 2)
packed("4over6-transposed", "bf16", 2, 128, 4, 2, 1)
packed("4over6-linear", "f16", 1, 272, 4, 2, 2)
