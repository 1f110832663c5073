"""out = input / sqrt(mean(input^2) + epsilon) * weight, row by row."""
import numpy as np

from common import random_state, rounded, save_case, tensor


def reference(x, weight, epsilon):
    scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
    return x * scale * (1 if weight is None else weight)


def case(name, dtype, shape, weight_dtype=None, weight_shape=None, epsilon=1e-6, spread=1.0):
    random = random_state("rms_norm", name)
    x = rounded(random.standard_normal(shape) * spread, dtype)
    inputs, weight = {"input": tensor(dtype, x)}, None
    if weight_dtype:
        weight = rounded(1 + 0.2 * random.standard_normal(weight_shape or shape[-1]), weight_dtype)
        inputs["weight"] = tensor(weight_dtype, weight)
        if np.ndim(weight) == 2:
            weight = weight.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1])
    save_case("rms_norm", name, inputs, {"out": tensor(dtype, reference(x, weight, epsilon))},
              {"epsilon": epsilon})


for dtype in ("f32", "f16", "bf16"):
    case("weighted-" + dtype, dtype, (5, 192), dtype)
    case("odd-" + dtype, dtype, (3, 77), "f32")
    case("plain-" + dtype, dtype, (2, 3, 40))
case("row-weights", "bf16", (3, 2, 65), "bf16", (3, 65))
case("tiny", "f32", (2, 16), "f32", epsilon=1e-12, spread=1e-18)
