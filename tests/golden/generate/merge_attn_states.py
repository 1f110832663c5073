"""Two attention results over disjoint keys, merged by their natural-log sums of exponentials."""
import numpy as np

from common import Bits, decode, encode, random_state, rounded, save_case, tensor

TOP = {"f8_e4m3": 448.0, "f8_e4m3fnuz": 224.0}


def reference(p, s, p_lse, s_lse, suffix_only):
    """p, s: [tokens, heads, size]; lse: [heads, tokens]. Returns out, lse, and which side is
    copied: 1 the prefix, 2 the suffix, 0 neither."""
    tokens, heads, _ = p.shape
    out, lse, copied = np.zeros(p.shape), np.zeros(p_lse.shape), np.zeros((tokens, heads), int)
    for t in range(tokens):
        for h in range(heads):
            a, b = p_lse[h, t], s_lse[h, t]
            if t >= tokens - suffix_only:
                out[t, h], lse[h, t], copied[t, h] = s[t, h], b, 2
                continue
            a, b = (-np.inf if np.isinf(x) else x for x in (a, b))
            top = np.fmax(a, b)
            if top == -np.inf:
                out[t, h], lse[h, t], copied[t, h] = p[t, h], -np.inf, 1
            elif -np.inf in (a, b):
                side = 1 if b == -np.inf else 2
                out[t, h], lse[h, t], copied[t, h] = (p, s)[side - 1][t, h], top, side
            else:
                x, y = np.exp(a - top), np.exp(b - top)
                out[t, h] = p[t, h] * (x / (x + y)) + s[t, h] * (y / (x + y))
                lse[h, t] = np.log(x + y) + top
    return out, lse, copied


def case(name, dtype, shape=(7, 3, 24), out=None, scale=None, lse=True, suffix_only=0, empty=0.2,
         nans=False, keep_nan=0, spread=1.0):
    random = random_state("merge_attn_states", name)
    tokens, heads, size = shape
    sides, logs = [], []
    for _ in range(2):
        sides.append(encode(spread * random.standard_normal(shape), dtype))
        log = rounded(3 * random.standard_normal((heads, tokens)), "f32")
        wild = random.uniform(size=log.shape)
        infinite = np.where(random.uniform(size=log.shape) < 0.5, np.inf, -np.inf)
        log[wild < empty] = infinite[wild < empty]
        logs.append(log)
    values = [decode(x, dtype) for x in sides]
    if nans:  # what an empty side holds is not read; a NaN in a live one must arrive
        for i, log in enumerate(logs):
            dead = np.isinf(log).T & (np.isfinite(logs[1 - i]).T)
            values[i][dead] = np.nan
            values[i][0, 0, :3] = np.nan
        logs[0][0, 1], logs[0][1, 2], logs[1][1, 2] = np.nan, np.nan, np.inf
        sides = [encode(v, dtype) for v in values]
    with np.errstate(invalid="ignore"):
        merged, log, copied = reference(values[0], values[1], logs[0], logs[1], suffix_only)
    if out:
        factor = float(rounded(1 / rounded(np.array([scale]), "f32"), "f32")[0])
        x = np.clip(merged * factor, -TOP[out], TOP[out])
        bits = encode(np.where(np.isnan(x) & (keep_nan == 0), TOP[out], x), out)
    else:
        bits = encode(merged, dtype)
        for i, side in enumerate(sides):
            bits[copied == i + 1] = side[copied == i + 1]
    inputs = {"prefix_output": Bits(dtype, sides[0]), "suffix_output": Bits(dtype, sides[1]),
              "prefix_lse": tensor("f32", logs[0]), "suffix_lse": tensor("f32", logs[1])}
    expected = {"out": Bits(out or dtype, bits)}
    if out:
        inputs["out_scale"] = tensor("f32", np.array([scale]))
    if lse:
        expected["out_lse"] = tensor("f32", log)
    scalars = {"suffix_only_tokens": suffix_only, "keep_nan": keep_nan}
    save_case("merge_attn_states", name, inputs, expected, {k: v for k, v in scalars.items() if v})


if __name__ == "__main__":
    for dtype in ("f32", "f16", "bf16"):
        case("empty-" + dtype, dtype)
        case("nan-" + dtype, dtype, shape=(9, 17, 8), nans=True)
    for out, dtype in (("f8_e4m3", "bf16"), ("f8_e4m3fnuz", "f16")):
        case("%s-%s" % (out, dtype), dtype, out=out, scale=0.05, suffix_only=2)
    for size in (1, 33):
        case("size-%d" % size, "f16", (3, 2, size))
    for out in TOP:
        case(out + "-nan", "bf16", (9, 17, 8), out=out, scale=0.5, nans=True, suffix_only=1)
        case(out + "-keep-nan", "bf16", (9, 17, 8), out=out, scale=0.5, nans=True, suffix_only=1,
             keep_nan=1)
    case("saturated", "f32", (4, 2, 16), out="f8_e4m3fnuz", scale=0.01, spread=3.0)
    case("suffix-only", "f16", suffix_only=3)
    case("all-suffix", "bf16", suffix_only=7)
    case("all-empty", "bf16", empty=1.1, suffix_only=1)
    case("no-token", "bf16", (0, 3, 24))
    case("plain", "f32", (2, 40, 16), empty=0, lse=False)
