"""Entries of requests as rows: copied, or RN_T(decode(code) * kv_scale)."""
import numpy as np

from caches import F32, faults
from common import Bits, decode, encode, random_state, save_case, tensor
from gathers import BLOCK, BLOCKS, Requests, bits

OP = "gather_and_maybe_dequant_cache"


def case(name, cache, out, scale=None, entry=41, seq_starts=None, count=False, zero=False, **which):
    random = random_state(OP, name)
    requests = Requests(random, seq_starts=seq_starts, bad=count, **which)
    codes = bits(random, (BLOCKS, BLOCK, entry), cache)
    before = bits(random, (requests.rows, entry), out)
    entries = codes
    if scale is not None:
        with np.errstate(all="ignore"):
            product = decode(codes, cache).astype(F32) * F32(scale)
        entries = encode(product.astype(np.float64), out)
    after, bad = requests.gather(entries, before, zero)
    inputs = {"kv_cache": Bits(cache, codes), "out": Bits(out, before),
              **requests.inputs("cu_seq_lens")}
    expected = {"out": Bits(out, after)}
    if scale is not None:
        inputs["kv_scale"] = tensor("f32", np.array(scale))
    if count:
        expected.update(faults(bad))
    save_case(OP, name, inputs, expected, {"zero_invalid": 1} if zero else None)


case("e4m3-bf16", "f8_e4m3", "bf16", 0.1, seq_starts=[4, 12, -7, 1, 11], count=True, zero=True)
case("e5m2-f16", "f8_e5m2", "f16", 3.7, seq_starts=[2, 0, 0, 8, 11])
case("e4m3fnuz-f32", "f8_e4m3fnuz", "f32", 0.37, count=True, lengths=(14, 0, 0, 4, 2))
case("e5m2fnuz-bf16", "f8_e5m2fnuz", "bf16", 1e-3, entry=67)
case("copy-bf16", "bf16", "bf16", seq_starts=[-4, 0, 5, 10, 30], count=True, before=2)
case("copy-f32", "f32", "f32", spare=0)
