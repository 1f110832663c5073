"""concat_and_cache_mla for several layers, whose caches are reached by address."""
import numpy as np

from caches import faults, filler, fp8_record, slot_list, store, values
from common import NUMBERS, Bits, addresses, random_state, save_case, tensor

OP = "concat_and_cache_mla_grouped"


def case(name, source, cache, latent, rope, entries, scalars=None, scales=None, same_slots=False,
         known=True):
    """entries(kv_c, k_pe, layer) -> the bits of one entry per token; gaps of 3 and of 5 elements.
    The caches are two pieces of one memory. known: num_blocks is given, and faults are there."""
    random = random_state(OP, name)
    layers, tokens, blocks, block = 2, 11, 3, 4
    kv_c = values(random, (layers, tokens + 1, latent), source)
    k_pe = values(random, (layers, tokens, rope), source)
    pairs = [slot_list(random, tokens, blocks, block, 3) for _ in range(layers)]
    slots = np.array([pairs[0 if same_slots else y][0] for y in range(layers)])
    if not known:
        slots[slots >= blocks * block] = -1
    rows = [entries(kv_c[y, :tokens], k_pe[y], y) for y in range(layers)]
    entry_stride = rows[0].shape[-1] + 3
    block_stride = block * entry_stride + 5
    before = filler(random, (layers, blocks * block_stride), cache)
    after = before.copy()
    for y in range(layers):
        for t, s in enumerate(slots[y]):
            if 0 <= s < blocks * block:
                at = s // block * block_stride + s % block * entry_stride
                after[y, at:at + rows[y].shape[-1]] = rows[y][t]
    size = before.itemsize
    inputs = {"kv_c": tensor(source, kv_c), "k_pe": tensor(source, k_pe),
              "slot_mapping": Bits("i64", slots), "caches": Bits(cache, before),
              "kv_cache_ptrs": addresses([("caches", y * before.shape[1] * size)
                                          for y in range(layers)])}
    expected = {"caches": Bits(cache, after)}
    scalars = dict(scalars or {}, cache_dtype=NUMBERS[cache], block_size=block,
                   block_stride=block_stride, entry_stride=entry_stride)
    if known:
        expected.update(faults(2 * layers))
        scalars["num_blocks"] = blocks
    if scales:
        inputs["kv_scales"] = tensor("f32", np.array(scales))
    save_case(OP, name, inputs, expected, scalars)


def plain(source, cache, scales=(None, None)):
    return lambda c, p, y: store(np.concatenate([c, p], -1), source, cache, scales[y])


case("fp8-ds", "bf16", "u8", 512, 64, lambda c, p, y: fp8_record("bf16", 0, 0)(c, p),
     {"format": 3}, known=False)
case("f16-e4m3", "f16", "f8_e4m3", 33, 9, plain("f16", "f8_e4m3", (0.1, 0.037)),
     scales=(0.1, 0.037))
case("copy-f32", "f32", "f32", 20, 7, plain("f32", "f32"), same_slots=True, known=False)
