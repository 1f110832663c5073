"""key_cache[b, h, d / x, o, d % x] = conv(key[t, h, d]), value_cache[b, h, d, o] = conv(value)."""
import numpy as np

from caches import faults, filler, slot_list, store, values
from common import FLOATS, Bits, random_state, save_case, tensor


def case(name, source, cache, tokens=30, heads=2, size=32, blocks=3, block=16, run=21, extra=3):
    random = random_state("reshape_and_cache", name)
    x = 128 // FLOATS[cache].bits
    shape = (tokens + extra, heads, size)  # rows past `tokens` are not read
    key, value = values(random, shape, source), values(random, shape, source)
    scales = {} if source == cache else {"k_scale": [0.1], "v_scale": [7 / 128]}
    k, v = (store(a, source, cache, scales[s][0] if scales else 1)
            for a, s in ((key, "k_scale"), (value, "v_scale")))
    key_cache = filler(random, (blocks, heads, size // x, block, x), cache)
    value_cache = filler(random, (blocks, heads, size, block), cache)
    slots, bad = slot_list(random, tokens, blocks, block, run)
    after = faults(bad)
    inputs = {"key": tensor(source, key), "value": tensor(source, value),
              "key_cache": Bits(cache, key_cache), "value_cache": Bits(cache, value_cache),
              "slot_mapping": Bits("i64", slots)}
    inputs.update({s: tensor("f32", np.array(f)) for s, f in scales.items()})
    key_cache, value_cache = key_cache.copy(), value_cache.copy()
    for t, s in enumerate(slots):
        if 0 <= s < blocks * block:
            b, o = divmod(s, block)
            for d in range(size):
                key_cache[b, :, d // x, o, d % x] = k[t, :, d]
                value_cache[b, :, d, o] = v[t, :, d]
    expected = {"key_cache": Bits(cache, key_cache), "value_cache": Bits(cache, value_cache)}
    save_case("reshape_and_cache", name, inputs, {**expected, **after})


for dtype in ("f32", "f16", "bf16"):
    case("copy-" + dtype, dtype, dtype, size=16)
    case(dtype + "-e4m3", dtype, "f8_e4m3")
for cache in ("e5m2", "e4m3fnuz", "e5m2fnuz"):
    case("bf16-" + cache, "bf16", "f8_" + cache)
case("f32-e5m2", "f32", "f8_e5m2", size=48)
case("odd-block", "bf16", "bf16", size=40, block=5, blocks=9, run=12)
case("block-1", "f16", "f16", size=8, block=1, blocks=40, heads=3)
case("long-runs", "bf16", "f8_e4m3", tokens=40, size=16, heads=1, block=32, blocks=2, run=34)
