"""Element d of token t stands where include/kvcache_ops/cpu.h says, as conv(key), conv(value)."""
import numpy as np

from caches import faults, filler, slot_list, store, values
from common import Bits, random_state, save_case, tensor

ISAS = {"vec": 1, "vec16": 2, "amx": 3}


def places(isa, block, size):
    """Offsets of [token, element] in the memory of a block and head: of keys, of values."""
    t, d = np.arange(block)[:, None], np.arange(size)[None, :]
    if isa != "amx":
        return d * block + t, t * size + d
    return (t // 16 * 16 * size + d // 2 * 32 + t % 16 * 2 + d % 2,
            d // 16 * 16 * block + t // 2 * 32 + d % 16 * 2 + t % 2)


def case(name, isa, source, cache, tokens=44, heads=2, size=32, blocks=2, block=32, run=35):
    random = random_state("cpu_attn_reshape_and_cache", name)
    shape = (tokens, heads, size)
    sides = [values(random, shape, source) for _ in range(2)]
    scales = [0.1, 7 / 128] if source != cache else [1, 1]
    caches = [filler(random, (blocks, heads, block * size), cache) for _ in range(2)]
    slots, bad = slot_list(random, tokens, blocks, block, run)
    more = np.array([0, 1 << 40, blocks * block - 1])  # slots past the tokens are not read
    inputs = {"slot_mapping": Bits("i64", np.append(slots, more))}
    expected = faults(bad)
    for side, x, scale, memory, place in zip(("key", "value"), sides, scales, caches,
                                             places(isa, block, size)):
        bits = store(x, source, cache, scale)
        inputs[side] = tensor(source, x)
        whole = (blocks, heads, block, size)
        inputs[side + "_cache"] = Bits(cache, memory.reshape(whole))
        memory = memory.copy()
        for t, s in enumerate(slots):
            if 0 <= s < blocks * block:
                b, o = divmod(s, block)
                memory[b][:, place[o]] = bits[t]
        expected[side + "_cache"] = Bits(cache, memory.reshape(whole))
    scalars = {"isa": ISAS[isa]}
    if source != cache:
        scalars.update(k_scale=scales[0], v_scale=scales[1])
    save_case("cpu_attn_reshape_and_cache", name, inputs, expected, scalars)


case("amx-bf16", "amx", "bf16", "bf16")
case("amx-f16-e5m2", "amx", "f16", "f8_e5m2", size=160, heads=1)
case("vec16-f32", "vec16", "f32", "f32", size=16, block=48, blocks=1, tokens=40, heads=1)
case("vec-bf16-e4m3", "vec", "bf16", "f8_e4m3", size=64)
