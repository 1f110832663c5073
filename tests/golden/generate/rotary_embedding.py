"""Pairs of every head are turned by the angle of the token's position: (x c - y s, y c + x s)."""
import numpy as np

from common import random_state, rounded, save_case, tensor

OP, MAX_POS = "rotary_embedding", 50


def table(rot, dtype):
    angle = np.arange(MAX_POS)[:, None] * 10000.0 ** (-2 * np.arange(rot // 2) / rot)
    return rounded(np.concatenate([np.cos(angle), np.sin(angle)], 1), dtype)


def rotate(v, positions, rows, style, offset, inverse):
    out, rot = v.copy(), rows.shape[1]
    half, turned = rot // 2, v[..., offset:offset + rot]
    first, second = np.r_[:half], np.r_[half:rot]
    if style == "gptj":
        first, second = np.r_[:rot:2], np.r_[1:rot:2]
    valid = (positions >= 0) & (positions < MAX_POS)
    row = rows[np.where(valid, positions, 0)][..., None, :]
    c, s = row[..., :half], row[..., half:] * (-1 if inverse else 1)
    x, y = turned[..., first], turned[..., second]
    keep = ~valid[..., None, None]
    out[..., offset + first] = np.where(keep, x, x * c - y * s)
    out[..., offset + second] = np.where(keep, y, y * c + x * s)
    return out


def case(name, dtype="f32", shape=(7,), heads=(3, 2), size=32, rot=None, style="neox", offset=0,
         inverse=0, cache="f32", flat=False, index="i64", bad=False):
    random, rot = random_state(OP, name), rot or size
    positions = random.randint(0, MAX_POS, shape)
    if bad:
        positions.flat[[1, 3, 4, 6]] = -1, MAX_POS, -(1 << 30), 1 << 30
    rows, inputs, expected = table(rot, cache), {}, {}
    for tensor_name, n in zip(("query", "key"), heads):
        v = rounded(random.standard_normal((*shape, n, size)), dtype)
        out = rotate(v, positions, rows, style, offset, inverse)
        full = (*shape, n * size) if flat else v.shape
        inputs[tensor_name] = tensor(dtype, v.reshape(full))
        expected[tensor_name] = tensor(dtype, out.reshape(full))
    inputs.update(positions=tensor(index, positions), cos_sin_cache=tensor(cache, rows))
    if bad:
        expected["faults"] = tensor("i64", [7])
    save_case(OP, name, inputs, expected,
              {"head_size": size, "rope_dim_offset": offset, "is_neox": int(style == "neox"),
               "inverse": inverse})


for dtype in ("f32", "f16", "bf16"):
    case("neox-" + dtype, dtype, shape=(2, 3), size=50, rot=38, cache=dtype)
    case("gptj-" + dtype, dtype, shape=(2, 3), size=50, rot=38, style="gptj", heads=(5,))
    case("tail-inverse-" + dtype, dtype, size=96, rot=64, offset=32, inverse=1, style="gptj")
case("cache-bf16", "f32", cache="bf16", flat=True)
case("cache-f16", "bf16", cache="f16", style="gptj", index="i32")
case("inverse", "f16", inverse=1, index="i32", shape=(2, 4), flat=True)
case("bad-positions", "bf16", bad=True)
case("bad-positions-i32", bad=True, style="gptj", index="i32", flat=True)
case("one-pair", size=2, style="gptj")
case("wide", size=256, heads=(1, 1), shape=(2,))
