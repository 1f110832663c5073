"""g = min(gate, limit), u = clip(up, -limit, limit), out = (u + 1) g / (1 + exp(-alpha g)); gate
and up are neighbours. NaN stays NaN."""
import numpy as np

from common import rounded
from common_gated import overflowed, save_gated


def swiglu(alpha, limit):
    def function(gate, up, dtype):
        top, slope = rounded(limit, "f32"), rounded(alpha, "f32")
        g, u = np.minimum(gate, top), np.maximum(np.minimum(up, top), -top)
        product = rounded(rounded(u + 1, "f32") * g, "f32")  # overflows as in f32
        return product / (1 + overflowed(np.exp(-(g * slope))))
    return function


def neighbours(x, dtype):
    return x[..., 0::2], x[..., 1::2]


save_gated("swigluoai_and_mul", swiglu(1.702, 7.0), {"alpha": 1.702, "limit": 7.0},
           split=neighbours, spread=4.0)
save_gated("swigluoai_and_mul", swiglu(1.0, 0.7), {"alpha": 1.0, "limit": 0.7}, "-tight",
           neighbours, cases=("random",))
