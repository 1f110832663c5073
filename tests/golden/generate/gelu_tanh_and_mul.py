"""out = RN_T(gelu(a)) * b, gelu(x) = x/2 * (1 + tanh(B (x + K x^3))) with the factors of f32."""
import math

import numpy as np

from common import rounded
from common_gated import save_gated

B, K = rounded(math.sqrt(2 / math.pi), "f32"), rounded(0.044715, "f32")


def gelu_tanh_and_mul(a, b, dtype):
    return rounded(0.5 * a * (1 + np.tanh(B * (a + K * a * a * a))), dtype) * b


save_gated("gelu_tanh_and_mul", gelu_tanh_and_mul)
