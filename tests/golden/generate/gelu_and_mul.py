"""out = RN_T(gelu(a)) * b, gelu(x) = x/2 * (1 + erf(x * sqrt(1/2))) with the factor of f32."""
import math

import numpy as np

from common import rounded
from common_gated import save_gated

ROOT = rounded(math.sqrt(0.5), "f32")
erf = np.vectorize(math.erf, otypes=[float])


def gelu_and_mul(a, b, dtype):
    return rounded(a * 0.5 * (1 + erf(a * ROOT)), dtype) * b


save_gated("gelu_and_mul", gelu_and_mul)
