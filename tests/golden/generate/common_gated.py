"""Cases of the gated activations: rows of 2d elements become rows of d."""
import numpy as np

from common import random_state, rounded, save_case, tensor

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-3, -3.5, 6.0, -9.0, 20.0, -87.0, -88.5, -100.0, 300.0, 6e4,
           -6e4, 1e-7, -1e-7, 3e-39, 2e38, -2e38, np.inf, -np.inf, np.nan]


def overflowed(e):
    """What an exponential in f32 is: infinity from 2^128 on."""
    return np.where(e >= (2 - 2.0**-24) * 2.0**127, np.inf, e)


def silu(x, alpha=1.0):
    return x / (1 + overflowed(np.exp(-(alpha * x))))


def halves(x, dtype):
    d = x.shape[-1] // 2
    return x[..., :d], x[..., d:]


def save_gated(op, function, scalars=None, suffix="", split=halves, spread=2.0,
               dtypes=("f32", "f16", "bf16"), cases=("random", "special")):
    """function(a, b, dtype) -> the result before the last rounding, in float64."""
    def case(name, dtype, x):
        x = rounded(x, dtype)
        with np.errstate(all="ignore"):
            out = function(*split(x, dtype), dtype)
        save_case(op, name + "-" + dtype + suffix, {"input": tensor(dtype, x)},
                  {"out": tensor(dtype, out)}, scalars)

    pairs = np.array([(a, b) for a in SPECIAL for b in (1.0, -0.0, 2.5, np.inf, np.nan)] +
                     [(b, a) for a in SPECIAL for b in (-2.0, 0.25)])
    special = pairs.T.reshape(-1) if split is halves else pairs.reshape(-1)
    for dtype in dtypes:
        if "random" in cases:
            random = random_state(op, dtype, suffix)
            case("random", dtype, random.standard_normal((2, 3, 2 * 83)) * spread)
        if "special" in cases:
            case("special", dtype, special)
