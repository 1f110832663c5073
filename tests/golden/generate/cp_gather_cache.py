"""Entries of requests as rows, bit for bit."""
from caches import faults
from common import Bits, random_state, save_case
from gathers import BLOCK, BLOCKS, Requests, bits

OP = "cp_gather_cache"


def case(name, dtype, entry, seq_starts=None, count=False, zero=False, end=None, **which):
    """end: what the last of cu_seq_lens is instead of the end of the last request."""
    random = random_state(OP, name)
    requests = Requests(random, seq_starts=seq_starts, bad=count, **which)
    if end is not None:
        requests.starts[-1] = end
    entries = bits(random, (BLOCKS, BLOCK) + entry, dtype)
    before = bits(random, (requests.rows,) + entry, dtype)
    after, bad = requests.gather(entries, before, zero)
    inputs = {"kv_cache": Bits(dtype, entries), "out": Bits(dtype, before),
              **requests.inputs("cu_seq_lens")}
    expected = {"out": Bits(dtype, after)}
    if count:
        expected.update(faults(bad))
    save_case(OP, name, inputs, expected, {"zero_invalid": 1} if zero else None)


case("bf16", "bf16", (3, 5), seq_starts=[5, 1, 1, 2, 9], count=True, zero=True, before=1)
case("u8", "u8", (33,), end=100)  # rows past out are none
case("i64", "i64", (), end=8)     # an end before the last request
case("f32", "f32", (2, 2, 3), lengths=(3, 9, 1), spare=0)
