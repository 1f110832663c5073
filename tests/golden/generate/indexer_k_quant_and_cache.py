"""Codes and scales of groups of q elements, in blocks of all codes, then all scales."""
import numpy as np

from caches import F32, amax, faults, filler, pow2_ceil, quantise, slot_list, values
from common import Bits, random_state, rounded, save_case, tensor

OP = "indexer_k_quant_and_cache"


def keys(random, rows, d, q, dtype):
    """Groups of any size, of zeros, NaN and infinities, and at powers of two."""
    x = values(random, (rows, d // q, q), dtype, special=False)
    for r, special in enumerate([[0.0, -0.0], [np.nan], [np.nan, 2, -1], [np.inf, 1, -1],
                                 [1.75, -1], [448.0, 1e-3], [1e-5, -1e-7], [-3e38, 1e5]]):
        x[r % rows, r % (d // q)] = np.resize(special, q)
    return rounded(x, dtype)


def case(name, dtype, rule, encoding, d, q, rows, slots, spare=0):
    random = random_state(OP, name)
    blocks, block, groups = 3, 4, d // q
    code, largest = (("f8_e4m3", 448), ("f8_e4m3fnuz", 224))[encoding]
    k = keys(random, rows, d, q, dtype)
    slot, bad = slot_list(random, slots, blocks, block, 2)
    slot[rows:] = -1
    bad = int((slot >= blocks * block).sum())
    cache = filler(random, (blocks, block * (d + 4 * groups + spare)), "u8")
    with np.errstate(all="ignore"):
        scale = np.maximum(amax(k, 0), F32(1e-4)) / F32(largest)
    scale = (pow2_ceil(scale) if rule == 0 else scale).astype("<f4")
    codes = quantise(k, scale[..., None], code).reshape(rows, d)
    after = cache.copy()
    for t, s in enumerate(slot[:rows]):
        if not 0 <= s < blocks * block:
            continue
        page, off, at = after[s // block], s % block, block * d
        page[off * d:off * d + d] = codes[t]
        page[at + 4 * groups * off:at + 4 * groups * (off + 1)] = scale[t].view(np.uint8)
    shape = (blocks, block, -1)
    scalars = {"quant_block_size": q}
    if rule:
        scalars["scale_rule"] = rule
    if encoding:
        scalars["fp8_encoding"] = encoding
    save_case(OP, name, {"k": tensor(dtype, k.reshape(rows, d)),
                         "kv_cache": Bits("u8", cache.reshape(shape)),
                         "slot_mapping": Bits("i64", slot)},
              {"kv_cache": Bits("u8", after.reshape(shape)), **faults(bad)}, scalars)


case("deepseek", "bf16", 0, 0, 128, 128, 11, 11)
case("f16-amax", "f16", 1, 0, 96, 32, 12, 9, spare=5)
case("f32-fnuz", "f32", 0, 1, 36, 4, 9, 11)
case("bf16-amax-fnuz", "bf16", 1, 1, 88, 44, 11, 11)
