"""What the generators of cache operators share: slots, fp8 by division, e2m1 codes, NVFP4 groups.

Written from docs/layouts.md and the formulas of the headers; float32 where the header says RN.
"""
import numpy as np

from common import FLOATS, Bits, decode, encode, rounded

F32 = np.float32
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def quantise(values, scale, dtype):
    """encode(RN(x / scale)): the division rounds to f32, the code a second time."""
    with np.errstate(all="ignore"):
        ratio = F32(values) / F32(scale)
    return encode(ratio.astype(np.float64), dtype)


def store(values, source, cache, scale):
    """Elements of dtype `source` as the bits that a cache of dtype `cache` holds."""
    return encode(values, source) if source == cache else quantise(values, scale, cache)


def values(random, shape, dtype, special=True):
    """Values of dtype with everything that conversions treat on its own."""
    x = random.standard_normal(shape) * np.exp2(random.randint(-12, 6, shape))
    if special:
        extra = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e5, -1e5, 3e38]
        at = random.choice(x.size, min(len(extra), x.size // 3), replace=False)
        x.flat[at] = extra[:len(at)]
    return rounded(x, dtype)


def filler(random, shape, dtype):
    """What a cache holds before the call: any bits."""
    bits = FLOATS[dtype].bits if dtype in FLOATS else 8
    return random.randint(0, 1 << bits, shape, dtype=np.int64).astype("u%d" % (bits // 8))


def slot_list(random, tokens, blocks, block, run):
    """Slots: `run` consecutive ones, then any others, padding and faults among them. And faults."""
    free = random.permutation(blocks * block)
    start = random.randint(0, blocks * block - run + 1)
    rest = [s for s in free if not start <= s < start + run]
    slots = list(range(start, start + run)) + rest
    slots = slots[:tokens - 4] + [-1, blocks * block, -(1 << 40), (1 << 40) + 1]
    tail = slots[run:]
    random.shuffle(tail)
    return np.array(slots[:run] + tail, np.int64), 2


def faults(count):
    return {"faults": Bits("i64", [5 + count])}


def e2m1(y):
    """Nearest code, ties to the even one; NaN 7."""
    m = np.minimum(np.abs(np.nan_to_num(y.astype(np.float64), nan=0.0)), 6.0)
    low = np.clip(np.searchsorted(E2M1, m, side="right") - 1, 0, 6)
    below, above = m - E2M1[low], E2M1[low + 1] - m
    code = low + ((above < below) | ((above == below) & (low % 2 == 1)))
    return np.where(np.isnan(y), 7, code | np.where(np.signbit(y), 8, 0)).astype(np.uint8)


def nibbles(codes):
    """[..., 2n] codes -> [..., n] bytes, the even element low."""
    return codes[..., 0::2] | codes[..., 1::2] << 4


def amax(groups, all_nan):
    m = np.where(np.isnan(groups), -1.0, np.abs(groups)).max(-1)
    return np.where(m < 0, all_nan, m).astype(F32)


def pow2_ceil(values):
    """The least power of two that is not below: the mantissa of frexp is in [0.5, 1)."""
    mantissa, exponent = np.frexp(values)
    return np.where(np.isinf(values), np.inf, np.ldexp(1.0, exponent - (mantissa == 0.5)))


def raw(array):
    return np.ascontiguousarray(array).view(np.uint8).reshape(array.shape[0], -1)


def fp8_record(source, rule, encoding):
    """entries(kv_c, k_pe) -> FP8_DS_MLA records: codes | 4 scales | the bits of k_pe."""
    codes, largest = (("f8_e4m3", 448), ("f8_e4m3fnuz", 224))[encoding]

    def entries(kv_c, k_pe):
        tiles = kv_c.reshape(-1, 4, 128)
        with np.errstate(all="ignore"):
            ratio = amax(tiles, 0) / F32(largest)
            scale = (pow2_ceil(np.maximum(ratio, F32(1e-4))) if rule == 0
                     else np.maximum(ratio, F32(2.0**-126)))
        scale = scale.astype("<f4")
        latent = quantise(tiles, scale[..., None], codes).reshape(-1, 512)
        rope = raw(encode(k_pe, source).astype("<u2"))
        return np.concatenate([latent, raw(scale), rope], -1)
    return entries


def nvfp4(x, scale, four_over_six):
    """[..., size] -> code bytes [..., size/2], scale bytes [..., size/16]."""
    groups = F32(x).reshape(x.shape[:-1] + (-1, 16))
    with np.errstate(all="ignore"):
        inverse = F32(1) / F32(scale)
        tries = []
        for part in (F32(1) / F32(6), F32(0.25)):
            sf = encode((inverse * (amax(groups, np.nan) * part)).astype(np.float64), "f8_e4m3")
            s = decode(sf, "f8_e4m3").astype(F32)
            w = np.where(s == 0, F32(0), F32(1) / (s * (F32(1) / inverse)))
            codes = e2m1(groups * w[..., None])
            q = np.where(codes & 8, -1, 1).astype(F32) * E2M1[codes & 7].astype(F32)
            back = np.where(w == 0, F32(0), F32(1) / w)[..., None]
            error = (q * back - groups) * (q * back - groups)
            while error.shape[-1] > 1:
                error = error[..., 0::2] + error[..., 1::2]
            tries.append((codes, sf, error[..., 0]))
        four = (tries[1][2] < tries[0][2]) & four_over_six
    codes = np.where(four[..., None], tries[1][0], tries[0][0])
    return (nibbles(codes).reshape(x.shape[:-1] + (-1,)),
            np.where(four, tries[1][1], tries[0][1]).astype(np.uint8))
