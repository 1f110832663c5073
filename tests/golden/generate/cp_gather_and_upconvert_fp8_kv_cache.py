"""656-byte records of requests as rows of 576 halves."""
import numpy as np

from caches import F32, faults
from common import Bits, decode, encode, random_state, save_case
from gathers import BLOCK, BLOCKS, Requests, bits

OP = "cp_gather_and_upconvert_fp8_kv_cache"
SCALES = [1.0, 0.37, 2.1, 0.1, 0.0, 1e-41, 3e38, np.inf, np.nan, -1.5, 2.0**-126, 7e-3]


def case(name, out, encoding=0, seq_starts=None, count=False, zero=False, **which):
    random = random_state(OP, name)
    requests = Requests(random, seq_starts=seq_starts, bad=count, **which)
    records = bits(random, (BLOCKS, BLOCK, 656), "u8")
    scales = random.uniform(0.1, 2.1, (BLOCKS, BLOCK, 4)).astype("<f4")
    scales.flat[::5] = SCALES
    records[..., 512:528] = scales.view(np.uint8).reshape(BLOCKS, BLOCK, 16)
    values = decode(records[..., :512], ("f8_e4m3", "f8_e4m3fnuz")[encoding]).astype(F32)
    with np.errstate(all="ignore"):
        product = values * np.repeat(scales, 128, -1)
    rope = np.ascontiguousarray(records[..., 528:]).view("<u2")
    entries = np.concatenate([encode(product.astype(np.float64), out), rope], -1)
    before = bits(random, (requests.rows, 576), out)
    after, bad = requests.gather(entries, before, zero, owned_to_the_end=True)
    inputs = {"kv_cache": Bits("u8", records), **requests.inputs("workspace_starts")}
    expected = {"out": Bits(out, after)}
    if count:
        inputs["out"] = Bits(out, before)
        expected.update(faults(bad))
    scalars = {"zero_invalid": 1} if zero else {}
    if encoding:
        scalars["fp8_encoding"] = encoding
    save_case(OP, name, inputs, expected, scalars)


case("bf16", "bf16", seq_starts=[4, 0, 1, 2, 8], count=True, zero=True, before=2, spare=1)
case("f16", "f16", lengths=(7, 0, 0, 4), spare=0)
case("bf16-fnuz", "bf16", 1, lengths=(3, 4, 0), spare=2)
case("f16-fnuz", "f16", 1, seq_starts=[0, 13, -1, 7, 1], count=True, spare=2)
