"""q_pe and k_pe turned with three roundings to T, then [kv_c | k_pe] as one entry."""
import numpy as np

from caches import faults, filler, fp8_record, slot_list, store, values
from common import Bits, encode, random_state, rounded, save_case, tensor

OP, MAX_POS = "concat_and_cache_mla_rope_fused", 23


def table(random, rope, dtype):
    angle = random.uniform(-np.pi, np.pi, (MAX_POS, rope // 2))
    return rounded(np.concatenate([np.cos(angle), np.sin(angle)], 1), dtype)


def rotate(v, rows, neox, dtype):
    """v [..., rope], rows [..., rope]: each product is rounded to dtype, and then their sum."""
    half = v.shape[-1] // 2
    first, second = (np.r_[:half], np.r_[half:2 * half]) if neox else (np.r_[:2 * half:2],
                                                                       np.r_[1:2 * half:2])
    x, y, c, s = v[..., first], v[..., second], rows[..., :half], rows[..., half:]
    out = v.copy()
    with np.errstate(all="ignore"):
        out[..., first] = rounded(rounded(x * c, dtype) - rounded(y * s, dtype), dtype)
        out[..., second] = rounded(rounded(y * c, dtype) + rounded(x * s, dtype), dtype)
    return out


def case(name, dtype, cache, neox, entries, latent=512, rope=64, heads=2, angles="f32", index="i64",
         scalars=None, scale=None, rows=11, slots=9):
    random = random_state(OP, name)
    blocks, block = 2, 5
    q = values(random, (rows, heads, rope), dtype)
    k = values(random, (rows, rope), dtype, special=scale is not None)
    kv_c = values(random, (rows, latent), dtype)
    cos_sin = table(random, rope, angles)
    positions = random.randint(0, MAX_POS, rows)
    positions[[2, 5, 7]] = MAX_POS, -1, 1 << 30
    slot, _ = slot_list(random, slots, blocks, block, 3)
    slot[:3] = [slot[0], -1, 10]  # a token of another rank; two faults in one row
    valid = (positions >= 0) & (positions < MAX_POS)
    turned = rounded(cos_sin, dtype)[np.where(valid, positions, 0)]
    q_after = np.where(valid[:, None, None], rotate(q, turned[:, None], neox, dtype), q)
    k_after = np.where(valid[:, None], rotate(k, turned, neox, dtype), k)
    written = entries(kv_c, k_after)
    before = filler(random, (blocks, block, written.shape[-1]), cache)
    after = before.copy()
    for t, s in enumerate(slot):
        if valid[t] and 0 <= s < blocks * block:
            after[s // block, s % block] = written[t]
    bad = int((slot >= blocks * block).sum() + (positions >= MAX_POS).sum())
    inputs = {"positions": tensor(index, positions), "q_pe": tensor(dtype, q),
              "k_pe": tensor(dtype, k), "kv_c": tensor(dtype, kv_c),
              "cos_sin_cache": tensor(angles, cos_sin), "kv_cache": Bits(cache, before),
              "slot_mapping": Bits("i64", slot)}
    if scale is not None:
        inputs["kv_scale"] = tensor("f32", np.array(scale))
    scalars = dict(scalars or {})
    if neox:
        scalars["is_neox"] = 1
    save_case(OP, name, inputs, {"q_pe": tensor(dtype, q_after), "k_pe": tensor(dtype, k_after),
                                 "kv_cache": Bits(cache, after), **faults(bad)}, scalars)


def plain(dtype, cache, scale=None):
    return lambda c, p: store(np.concatenate([c, p], -1), dtype, cache, scale)


case("fp8-ds", "bf16", "u8", True, fp8_record("bf16", 0, 0), scalars={"format": 3})
case("f16-e4m3", "f16", "f8_e4m3", False, plain("f16", "f8_e4m3", 0.1), 40, angles="f16",
     index="i32", scale=0.1)
case("f32", "f32", "f32", True, plain("f32", "f32"), 33, 38, heads=3)
case("gptj-bf16", "bf16", "bf16", False, plain("bf16", "bf16"), 40, 50, angles="bf16", slots=11)
