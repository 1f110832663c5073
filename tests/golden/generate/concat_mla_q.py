"""[ql_nope | q_pe] along the last dimension: any bits, NaN payloads among them."""
import numpy as np

from caches import filler
from common import Bits, random_state, save_case

OP = "concat_mla_q"


def case(name, dtype, tokens, heads, nope, rope):
    random = random_state(OP, name)
    left, right = (filler(random, (tokens, heads, n), dtype) for n in (nope, rope))
    save_case(OP, name, {"ql_nope": Bits(dtype, left), "q_pe": Bits(dtype, right)},
              {"out": Bits(dtype, np.concatenate([left, right], -1))})


case("deepseek", "bf16", 2, 3, 512, 64)
case("nope-1024", "f16", 1, 2, 1024, 64)
case("odd", "f32", 5, 3, 77, 9)
case("no-rope", "bf16", 3, 1, 33, 0)
