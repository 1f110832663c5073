"""Codes and scales of the indexer's block-planar cache as two packed arrays."""
import numpy as np

from caches import faults
from common import Bits, random_state, save_case
from gathers import BLOCKS, Requests, bits

OP = "cp_gather_indexer_k_quant_cache"


def case(name, codes, d, groups, block=3, more=0, seq_starts=None, count=False, zero=False,
         **which):
    """more: bytes of an entry that hold nothing."""
    random = random_state(OP, name)
    requests = Requests(random, seq_starts=seq_starts, bad=count, block=block, **which)
    cache = bits(random, (BLOCKS, block, d + 4 * groups + more), "u8")
    pages = cache.reshape(BLOCKS, -1)
    inputs, expected = {"kv_cache": Bits("u8", cache), **requests.inputs("cu_seq_lens")}, {}
    for out, dtype, first, size in (("out_k", codes, 0, d), ("out_scale", "u8", block * d,
                                                             4 * groups)):
        entries = pages[:, first:first + block * size].reshape(BLOCKS, block, size)
        before = bits(random, (requests.rows, size), dtype)
        after, bad = requests.gather(entries, before, zero)
        expected[out] = Bits(dtype, after)
        if count or requests.rows > requests.starts[-1]:
            inputs[out] = Bits(dtype, before)
    if count:
        expected.update(faults(bad))
    save_case(OP, name, inputs, expected, {"zero_invalid": 1} if zero else None)


case("v32", "u8", 128, 1, seq_starts=[5, 1, 1, 2, 9], count=True, zero=True, before=1)
case("all-scales", "f8_e4m3", 96, 3, block=1, lengths=(3, 0, 4, 1))
case("mxfp4", "f8_e4m3fnuz", 64, 1, more=5, lengths=(8, 2), spare=0)
