"""z = RN_T(input + residual) replaces residual, z / sqrt(mean(z^2) + epsilon) * weight input."""
import numpy as np

from common import random_state, rounded, save_case, tensor


def case(name, dtype, x, residual, weight_dtype=None, epsilon=1e-6):
    x, residual = rounded(x, dtype), rounded(residual, dtype)
    inputs = {"input": tensor(dtype, x), "residual": tensor(dtype, residual)}
    weight = 1.0
    if weight_dtype:
        random = random_state("fused_add_rms_norm", "weight", name)
        weight = rounded(1 + 0.2 * random.standard_normal(x.shape[-1]), weight_dtype)
        inputs["weight"] = tensor(weight_dtype, weight)
    with np.errstate(all="ignore"):
        z = rounded(rounded(x + residual, "f32"), dtype)
        scale = 1 / np.sqrt(rounded((z * z).mean(-1, keepdims=True), "f32") + epsilon)
        out = z * scale * weight
    save_case("fused_add_rms_norm", name, inputs,
              {"input": tensor(dtype, out), "residual": tensor(dtype, z)}, {"epsilon": epsilon})


for dtype in ("f32", "f16", "bf16"):
    random = random_state("fused_add_rms_norm", dtype)
    normal = random.standard_normal
    case("weighted-" + dtype, dtype, normal((2, 3, 177)), normal((2, 3, 177)), dtype)
    a, b = normal((6, 33)), 30 * normal((6, 33))
    a[0, 3], a[1, 7], b[2, 5], a[3], b[3], b[4] = np.inf, np.nan, -np.inf, 0, 0, -a[4]
    case("special-" + dtype, dtype, a, b, "f32")
case("plain", "bf16", normal((40,)), normal((40,)), epsilon=1e-5)
