"""A scale and, asymmetric, a zero point for every row, in float32; codes as the static form."""
import numpy as np

from caches import F32
from common import Bits, random_state, rounded, save_case, tensor
from static_scaled_int8_quant import codes

OP = "dynamic_scaled_int8_quant"


def row(x, asymmetric):
    """(codes, scale, azp) of one row of float32."""
    numbers = x[~np.isnan(x)]
    if not numbers.size or not numbers.any():
        constant = F32(0)
    elif asymmetric and numbers.min() == numbers.max():
        constant = numbers[0]
    else:
        constant = None
    if constant == 0 and not asymmetric:
        return codes(x, 1), F32(1), 0
    if constant is not None:
        return np.full(x.shape, np.sign(constant), np.int8), abs(constant) or F32(1), 0
    if not asymmetric:
        scale, azp = np.abs(numbers).max() / F32(127), 0
    else:
        scale = (numbers.max() - numbers.min()) / F32(255)
    scale = max(scale, F32(2.0**-126))
    if asymmetric:
        azp = int(np.clip(np.rint(F32(-128) - numbers.min() / scale), -2.0**31, 2.0**31 - 1))
    return codes(x, F32(1) / scale, azp), scale, azp


def case(name, dtype, leading, d, asymmetric):
    """Rows of any size and offset; zeros, a constant, NaN, one element alone, nearly constant."""
    random = random_state(OP, name)
    rows = int(np.prod(leading))
    x = random.standard_normal((rows, d)) * np.exp2(random.randint(-8, 8, (rows, 1)))
    x += np.exp2(random.randint(-3, 8, (rows, 1)))
    for r, special in enumerate([[0.0, -0.0], [-2.5], [np.nan, 1, -3], [np.nan], [0, 0, 7],
                                 [1000, 1001], [1e-7, -6e-8]]):
        x[r] = np.resize(special, d)
    x = rounded(x, dtype)
    results = [row(F32(r), asymmetric) for r in x]
    out, scale, azp = (np.array(part) for part in zip(*results))
    inputs = {"input": tensor(dtype, x.reshape(*leading, d))}
    expected = {"out": Bits("i8", out.reshape(*leading, d)),
                "scale": tensor("f32", scale.reshape(*leading, 1))}
    if asymmetric:  # a tensor that has contents is given in every variant
        inputs["azp"] = Bits("i32", np.arange(rows).reshape(*leading, 1))
        expected["azp"] = Bits("i32", azp.reshape(*leading, 1))
    save_case(OP, name, inputs, expected)


if __name__ == "__main__":
    case("f32", "f32", (11,), 37, False)
    case("f16", "f16", (2, 5), 33, False)
    case("bf16-azp", "bf16", (3, 4), 67, True)
    case("f32-azp", "f32", (12,), 40, True)
    case("f16-azp", "f16", (9,), 1, True)
