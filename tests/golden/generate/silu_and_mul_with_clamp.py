"""g = RN_T(min(a, limit)), u = RN_T(clip(b, -limit, limit)),
out = RN_T(g / (1 + exp(-alpha g))) * (u + beta). NaN stays NaN."""
import numpy as np

from common import rounded
from common_gated import overflowed, save_gated


def clamped(limit, alpha, beta):
    def function(a, b, dtype):
        top, slope, shift = (rounded(v, "f32") for v in (limit, alpha, beta))
        g = rounded(np.minimum(a, top), dtype)
        u = rounded(np.maximum(np.minimum(b, top), -top), dtype)
        gate = rounded(g / (1 + overflowed(np.exp(-(slope * g)))), dtype)
        return gate * rounded(u + shift, "f32")
    return function


def save(limit, alpha, beta, **options):
    scalars = {"limit": limit, "alpha": alpha, "beta": beta}
    save_gated("silu_and_mul_with_clamp", clamped(limit, alpha, beta), scalars, spread=limit,
               **options)


save(7.0, 1.0, 0.0)
save(3.3, 1.702, 1.0, suffix="-shifted", cases=("random",))
