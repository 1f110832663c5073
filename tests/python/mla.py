# What the chain tests share: pages, MLA records and attention, in NumPy and from the layouts alone;
# operators over NumPy arrays on any device.
import functools

import ml_dtypes
import numpy as np

import kvops
from kvops.operators import WRITTEN

BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
LATENT, ROPE, ENTRY, BLOCK = 512, 64, 576, 64
SCALE = (128 + ROPE)**-0.5  # of DeepSeek's heads before absorption


class Place:
    """ops.<operator>(**arguments) on `device`: on the arrays themselves, or on copies there."""

    device = "cpu"

    def __getattr__(self, op):
        return functools.partial(self._run, op)

    def _run(self, op, **arguments):
        here = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
        if self.device == "cpu":
            there = arguments
        else:
            there = {**arguments,
                     **{name: kvops.to_device(value, self.device) for name, value in here.items()}}
        if kvops.workspace_bytes(op, **there):
            there["workspace"] = kvops.workspace(op, device=self.device, **there)
        kvops.call(op, **there)
        if self.device != "cpu":
            for name, array in here.items():
                if kvops.ops[op].arguments[name].flags & WRITTEN:
                    array[...] = kvops.to_numpy(there[name]).view(array.dtype)


ops = Place()


def pages(rng, lengths, block=BLOCK, spare=3):
    """A block table of shuffled pages, -1 where a request has none, and the number of blocks."""
    counts = [-(-n // block) for n in lengths]
    blocks = sum(counts) + spare
    order = iter(rng.permutation(blocks))
    table = np.full((len(lengths), max(counts + [1])), -1, np.int32)
    for row, count in zip(table, counts):
        row[:count] = [next(order) for _ in range(count)]
    return table, blocks


def slots_of(table, request, positions, block=BLOCK):
    positions = np.asarray(positions, np.int64)
    return table[request, positions // block].astype(np.int64) * block + positions % block


def starts_of(lengths):
    """cu_seq_lens."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def pow2_scale(amax, least):
    """2^ceil(log2(max(RN(amax / 448), least))), by exponents."""
    ratio = np.maximum(amax.astype(np.float32) / np.float32(448), np.float32(least))
    mantissa, exponent = np.frexp(ratio)  # mantissa in [0.5, 1)
    return np.ldexp(np.float32(1), exponent - (mantissa == 0.5)).astype(np.float32)


def ds_mla_records(latent, rope):
    """[tokens, 656]: what fp8_ds_mla keeps of bf16 rows."""
    tiles = latent.astype(np.float32).reshape(-1, 4, 128)
    scales = pow2_scale(np.abs(tiles).max(-1), 1e-4)
    codes = (tiles / scales[..., None]).astype(E4M3)
    return np.concatenate([codes.view(np.uint8).reshape(-1, LATENT), scales.view(np.uint8),
                           np.ascontiguousarray(rope).view(np.uint8)], -1)


def ds_mla_rows(records):
    """Records back to bf16 [tokens, 576]."""
    records = np.ascontiguousarray(records)
    codes = np.ascontiguousarray(records[:, :LATENT]).view(E4M3).astype(np.float32)
    scales = np.ascontiguousarray(records[:, LATENT:528]).view(np.float32)
    latent = (codes * np.repeat(scales, 128, -1)).astype(BF16)
    return np.concatenate([latent, np.ascontiguousarray(records[:, 528:]).view(BF16)], -1)


def attend(query, rows):
    """Absorbed MLA of one token: query [heads, 576] over rows [n, 576]; out [heads, 512], lse."""
    rows = rows.astype(np.float64)
    logits = query.astype(np.float64) @ rows.T * SCALE
    most = logits.max(-1, keepdims=True)
    weights = np.exp(logits - most)
    total = weights.sum(-1, keepdims=True)
    return weights / total @ rows[:, :LATENT], (most + np.log(total))[:, 0]


def rope_table(rng, positions, dtype=BF16):
    """cos_sin_cache of DeepSeek: [positions, 64]."""
    angle = np.arange(positions)[:, None] / 10000.0**(np.arange(ROPE // 2) / (ROPE // 2))
    return np.concatenate([np.cos(angle), np.sin(angle)], -1).astype(dtype)


def same_bytes(a, b):
    return a.shape == b.shape and np.array_equal(np.ascontiguousarray(a).view(np.uint8),
                                                 np.ascontiguousarray(b).view(np.uint8))
