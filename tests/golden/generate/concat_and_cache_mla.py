"""[kv_c | k_pe] as one entry: plain, fp8, or the records fp8_ds_mla and nvfp4_ds_mla."""
import numpy as np

from caches import F32, amax, e2m1, faults, filler, fp8_record, nibbles, slot_list, store, values
from common import Bits, decode, encode, random_state, rounded, save_case, tensor

OP = "concat_and_cache_mla"


def case(name, source, cache, latent, rope, entries, tokens=11, scalars=None, scale=None, kv=None):
    """entries(kv_c, k_pe) -> the bits of one cache entry per token."""
    random = random_state(OP, name)
    blocks, block = 3, 4
    kv_c = values(random, (tokens + 2, latent), source) if kv is None else kv
    k_pe = values(random, (tokens + 1, rope), source)
    rows = entries(kv_c[:tokens], k_pe[:tokens])
    entry_cache = filler(random, (blocks, block, rows.shape[-1]), cache)
    slots, bad = slot_list(random, tokens, blocks, block, 3)
    after = faults(bad)
    inputs = {"kv_c": tensor(source, kv_c), "k_pe": tensor(source, k_pe),
              "kv_cache": Bits(cache, entry_cache), "slot_mapping": Bits("i64", slots)}
    if scale is not None:
        inputs["kv_scale"] = tensor("f32", np.array(scale))
    entry_cache = entry_cache.copy()
    for t, s in enumerate(slots):
        if 0 <= s < blocks * block:
            entry_cache[s // block, s % block] = rows[t]
    save_case(OP, name, inputs, {"kv_cache": Bits(cache, entry_cache), **after}, scalars)


def plain(name, source, cache, latent=40, rope=9):
    scale = None if source == cache else 0.1
    case(name, source, cache, latent, rope,
         lambda c, p: store(np.concatenate([c, p], -1), source, cache, scale), scale=scale)


def mla_values(name, source, tokens=13):
    """Tiles of 128 that are random, zero, full of NaN, or hold an infinity."""
    random = random_state(OP, name, "tiles")
    x = random.standard_normal((tokens, 4, 128)) * np.exp2(random.randint(-9, 9, (tokens, 4, 1)))
    for t, special in enumerate([[0.0], [-0.0], [np.nan], [np.nan, 2, -1], [np.inf, 1, -1],
                                 [336.0, -1], [1.0, -1.0], [1e-7], [-np.inf, np.nan, 0]]):
        x[t, t % 4] = np.resize(special, 128)
    return rounded(x, source).reshape(tokens, 512)


def fp8_ds(name, source, rule, encoding):
    case(name, source, "u8", 512, 64, fp8_record(source, rule, encoding),
         kv=mla_values(name, source),
         scalars={"format": 3, "scale_rule": rule, "fp8_encoding": encoding})


def nvfp4_record(kv_c, k_pe):
    groups = kv_c.reshape(-1, 32, 16)
    with np.errstate(all="ignore"):
        least = np.maximum(amax(groups, 0) / F32(6), F32(2.0**-9))
        sf = encode(least.astype(np.float64), "f8_e4m3")
        sf = sf + ((decode(sf, "f8_e4m3") < least) & (sf < 0x7E)).astype(np.uint8)
        w = F32(1) / decode(sf, "f8_e4m3").astype(F32)
        codes = nibbles(e2m1(F32(groups) * w[..., None])).reshape(-1, 256)
    scales = np.zeros_like(sf)
    for g in range(32):
        scales[:, 8 * (g % 4) + g // 4] = sf[:, g]
    return np.concatenate([codes, encode(k_pe, "f8_e4m3"), scales], -1)


for dtype in ("f32", "f16", "bf16"):
    plain("copy-" + dtype, dtype, dtype)
    plain(dtype + "-e4m3", dtype, "f8_e4m3")
for cache in ("e5m2", "e4m3fnuz", "e5m2fnuz"):
    plain("bf16-" + cache, "bf16", "f8_" + cache)
plain("deepseek", "bf16", "f8_e4m3", 512, 64)
plain("no-rope", "f16", "f16", 33, 0)
fp8_ds("fp8-ds-pow2", "bf16", 0, 0)
fp8_ds("fp8-ds-amax", "bf16", 1, 0)
fp8_ds("fp8-ds-pow2-f16", "f16", 0, 0)
fp8_ds("fp8-ds-amax-f16", "f16", 1, 0)
fp8_ds("fp8-ds-pow2-fnuz", "bf16", 0, 1)
fp8_ds("fp8-ds-amax-fnuz", "f16", 1, 1)
case("nvfp4-ds", "bf16", "u8", 512, 64, nvfp4_record, kv=mla_values("nvfp4-ds", "bf16"),
     scalars={"format": 4})
