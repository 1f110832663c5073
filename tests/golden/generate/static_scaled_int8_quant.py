"""Codes RNE(clamp(RN(RN(x * RN(1 / scale)) + azp), -128, 127)), in float32; NaN gives -128."""
import numpy as np

from caches import F32, values
from common import Bits, decode, random_state, save_case, tensor

OP = "static_scaled_int8_quant"


def codes(x, inverse, azp=0):
    with np.errstate(all="ignore"):
        y = F32(x) * F32(inverse) + F32(azp)
    return np.rint(np.clip(np.where(np.isnan(y), -128, y), -128, 127)).astype(np.int8)


def case(name, dtype, shape, scale, azp=None):
    random = random_state(OP, name)
    x = values(random, shape, dtype)
    ties = F32(scale) * (np.arange(12) - 5.5)  # halves where the reciprocal is exact
    x.reshape(-1)[-12:] = ties
    x = tensor(dtype, x)
    out = codes(decode(x.array, dtype), F32(1) / F32(scale), azp or 0)
    inputs = {"input": x, "scale": tensor("f32", np.array([scale]))}
    if azp is not None:
        inputs["azp"] = Bits("i32", np.array(azp))
    save_case(OP, name, inputs, {"out": Bits("i8", out)})


if __name__ == "__main__":
    case("f32", "f32", (7, 33), 0.0625)
    case("bf16-azp", "bf16", (3, 70), 0.037, -77)
    case("f16-azp", "f16", (2, 3, 41), 0.5, 5)
