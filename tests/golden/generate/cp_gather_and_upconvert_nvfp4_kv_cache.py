"""352-byte records of requests as rows of 576 halves."""
import numpy as np

from caches import E2M1, faults
from common import Bits, decode, encode, random_state, save_case
from gathers import BLOCK, BLOCKS, Requests, bits

OP = "cp_gather_and_upconvert_nvfp4_kv_cache"


def decoded(records, out):
    """e2m1 * e4m3 is exact in either half, but for NaN."""
    pairs = records[..., :256]
    codes = np.stack([pairs & 15, pairs >> 4], -1).reshape(pairs.shape[:-1] + (512,))
    values = E2M1[codes & 7] * np.where(codes & 8, -1.0, 1.0)
    group = np.arange(32)
    scales = decode(records[..., 320:], "f8_e4m3")[..., 8 * (group % 4) + group // 4]
    latent = values * np.repeat(scales, 16, -1)
    return encode(np.concatenate([latent, decode(records[..., 256:320], "f8_e4m3")], -1), out)


def case(name, out, seq_starts=None, zero=False, **which):
    random = random_state(OP, name)
    requests = Requests(random, seq_starts=seq_starts, **which)
    records = bits(random, (BLOCKS, BLOCK, 352), "u8")
    before = bits(random, (requests.rows, 576), out)
    after, bad = requests.gather(decoded(records, out), before, zero, owned_to_the_end=True)
    save_case(OP, name, {"kv_cache": Bits("u8", records), "out": Bits(out, before),
                         **requests.inputs("workspace_starts")},
              {"out": Bits(out, after), **faults(bad)}, {"zero_invalid": 1} if zero else None)


case("bf16", "bf16", seq_starts=[3, 0, 1, 5, 9], zero=True, before=1, spare=1)
case("f16", "f16", spare=2)
