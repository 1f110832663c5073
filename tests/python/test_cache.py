# A token's way from Python: fp8 by name and by bits, a cache written through a slot mapping, read
# by attention through permuted views, with a workspace of the size that the library asks for.
import ml_dtypes
import numpy as np
import pytest

import kvops

FP8 = {"f8_e4m3": ml_dtypes.float8_e4m3fn, "f8_e5m2": ml_dtypes.float8_e5m2,
       "f8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "f8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz}


@pytest.mark.parametrize("name", FP8)
def test_fp8_by_name_and_by_bits(rng, name):
    x = (rng.randn(7, 33) * 20).astype(np.float32)  # within the range of all four
    codes = np.empty(x.shape, FP8[name])
    kvops.convert_fp8(src=x, dst=codes, scale=1.0)
    assert np.array_equal(codes.view(np.uint8), x.astype(FP8[name]).view(np.uint8))
    bits = np.empty(x.shape, np.uint8)
    kvops.convert_fp8(src=x, dst=kvops.tensor(bits, dtype=name), scale=1.0)
    assert np.array_equal(bits, codes.view(np.uint8))
    back = np.empty_like(x)
    kvops.convert_fp8(src=kvops.tensor(bits, dtype=name), dst=back, scale=0.5)
    assert np.array_equal(back, codes.astype(np.float32) * np.float32(0.5))
    with pytest.raises(kvops.Error, match="convert_fp8: dst: dtype is u8"):
        kvops.convert_fp8(src=x, dst=bits, scale=1.0)


def attention(query, keys, values, scale):
    """One query [heads, size] over keys and values [tokens, kv_heads, size], in float64."""
    group = query.shape[0] // keys.shape[1]
    out = np.empty(query.shape)
    for head, q in enumerate(query.astype(np.float64)):
        logits = keys[:, head // group].astype(np.float64) @ q * scale
        weights = np.exp(logits - logits.max())
        out[head] = weights / weights.sum() @ values[:, head // group].astype(np.float64)
    return out


def test_write_and_attend_over_views(rng):
    blocks, block, heads, kv_heads, size, x = 9, 4, 4, 2, 32, 4
    lengths = np.array([13, 6, 1], np.int32)
    table = np.array([[7, 2, 5, 0], [8, 3, -1, -1], [6, -1, -1, -1]], np.int32)
    key_cache = np.full((blocks, block, kv_heads, size), np.nan, np.float32)
    value_cache = np.full_like(key_cache, np.nan)
    keys = [rng.randn(n, kv_heads, size).astype(np.float32) for n in lengths]
    values = [rng.randn(n, kv_heads, size).astype(np.float32) for n in lengths]
    slots = np.concatenate([[table[s, t // block] * block + t % block for t in range(n)]
                            for s, n in enumerate(lengths)]).astype(np.int64)
    faults = np.zeros(1, np.int64)
    kvops.reshape_and_cache_flash(
        key=np.concatenate(keys), value=np.concatenate(values), key_cache=key_cache,
        value_cache=value_cache, slot_mapping=slots, format="plain", faults=faults)
    assert faults[0] == 0 and np.isnan(key_cache).any(), "unused slots stay as they were"

    query = rng.randn(3, heads, size).astype(np.float32)
    split = key_cache.reshape(blocks, block, kv_heads, size // x, x)
    arguments = {
        "query": query,
        "key_cache": split.transpose(0, 2, 3, 1, 4),
        "value_cache": value_cache.transpose(0, 2, 3, 1),
        "block_table": table,
        "seq_lens": lengths,
        "scale": size**-0.5,
    }
    out, lse = np.empty_like(query), np.empty((3, heads), np.float32)
    kvops.paged_attention_v1(out=out, lse=lse, **arguments)
    for s in range(3):
        np.testing.assert_allclose(out[s], attention(query[s], keys[s], values[s], size**-0.5),
                                   rtol=2e-5, atol=2e-6)

    needed = kvops.workspace_bytes("paged_attention_v2", out=out, **arguments)
    assert needed == kvops.query(kvops.paged_attention_v2, out=out, **arguments).bytes
    scratch = kvops.workspace("paged_attention_v2", out=out, **arguments)
    assert scratch.shape == (needed,) and scratch.data % 64 == 0
    again = np.empty_like(out)
    kvops.paged_attention_v2(out=again, workspace=scratch, **arguments)
    np.testing.assert_allclose(again, out, rtol=2e-6, atol=2e-7)
    if needed:
        small = np.zeros(needed + 64, np.uint8)[: needed - 1]
        with pytest.raises(kvops.Error, match="workspace: "):
            kvops.paged_attention_v2(out=again, workspace=small, **arguments)
