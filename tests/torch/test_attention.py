# Paged attention, merging, index lists and top-k against torch.
import math

import pytest
import torch

import kvops
from samples import TAIL, bf16, cache_of, f16, f32, i32, ints, randn, u8
from test_cache import decode

ops = torch.ops._C


def attention(query, keys, values, scale, slope):
    """One row: query [heads, size] over keys and values [tokens, kv_heads, size], in f64."""
    group = query.shape[0] // keys.shape[1]
    keys, values = (t.double().repeat_interleave(group, 1) for t in (keys, values))
    logits = scale * torch.einsum("hd,thd->ht", query.double(), keys)
    if slope is not None:
        distance = torch.arange(len(keys)) - len(keys) + 1
        logits += slope.double()[:, None] * distance
    return torch.einsum("ht,thd->hd", logits.softmax(-1), values)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("kind", ["auto", "fp8"])
@pytest.mark.parametrize("heads, kv_heads, size", [(8, 8, 64), (8, 2, 128), (5, 1, 80)])
@pytest.mark.parametrize("alibi", [False, True])
def test_paged_attention(device, version, kind, heads, kv_heads, size, alibi):
    lengths, block = [1, 300, 33, 700], 16
    x = 8 if kind == "auto" else 16
    key_cache = cache_of(device, kind, bf16, 60, kv_heads, size // x, block, x)
    value_cache = cache_of(device, kind, bf16, 60, kv_heads, size, block)
    if kind == "fp8":
        key_cache, value_cache = key_cache % 0x40, value_cache % 0x40
    query = randn(4, heads, size, dtype=bf16).to(device)
    table = torch.randint(0, 60, (4, 44)).to(i32).to(device)
    slopes = randn(heads).to(device) * 0.1 if alibi else None
    scale, factor = size ** -0.5, torch.tensor(0.5, device=device)
    out = torch.empty_like(query)
    scratch = () if version == "v1" else (
        torch.empty(4, heads, 2, device=device), torch.empty(4, heads, 2, device=device),
        torch.empty(4, heads, 2, size, dtype=bf16, device=device))
    getattr(ops, f"paged_attention_{version}")(
        out, *scratch, query, key_cache, value_cache, kv_heads, scale, table,
        ints(device, *lengths, dtype=i32), block, 700, slopes, kind, factor, factor, *TAIL)
    k, v = (t.cpu() if kind == "auto" else decode(t) * 0.5 for t in (key_cache, value_cache))
    k = k.permute(0, 3, 1, 2, 4).reshape(60 * block, kv_heads, size)
    v = v.permute(0, 3, 1, 2).reshape(60 * block, kv_heads, size)
    for row, length in enumerate(lengths):
        where = torch.arange(length)
        where = table.cpu()[row, where // block].long() * block + where % block
        want = attention(query[row].cpu(), k[where], v[where], scale,
                         slopes.cpu() if alibi else None)
        torch.testing.assert_close(out[row].cpu().double(), want, rtol=2.0**-7, atol=1e-3)


def test_paged_attention_says_what_does_not_fit():
    out = torch.empty(1, 8, 64, dtype=bf16)
    cache = torch.zeros(4, 2, 8, 16, 8, dtype=bf16), torch.zeros(4, 2, 64, 16, dtype=bf16)
    table, lengths, one = torch.zeros(1, 2, dtype=i32), torch.ones(1, dtype=i32), torch.ones(1)
    for kv_heads, block, word in ((4, 16, "num_kv_heads: is 4, expected 2"),
                                  (2, 32, "block_size: is 32, expected 16")):
        with pytest.raises(kvops.Error, match=word):
            ops.paged_attention_v1(out, out, *cache, kv_heads, 0.125, table, lengths, block, 32,
                                   None, "auto", one, one, *TAIL)


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("context", [None, 128, 0])
@pytest.mark.parametrize("strided", [False, True])
def test_merge_attn_states(device, dtype, context, strided):
    tokens, heads, size = 200, 4, 96
    sides = [randn(tokens, heads, size * 2 if strided else size, dtype=dtype).to(device)[..., :size]
             for _ in range(2)]
    lses = [(randn(tokens, heads).t() if strided else randn(heads, tokens)).to(device)
            for _ in range(2)]
    lses[0][torch.rand(heads, tokens).to(device) < 0.1] = float("inf")
    out, lse = torch.empty(tokens, heads, size, dtype=dtype, device=device), torch.empty(
        heads, tokens, device=device)
    ops.merge_attn_states(out, lse, sides[0], lses[0], sides[1], lses[1], context)
    p, s = (t.cpu().double() for t in lses)
    p = torch.where(torch.isinf(p), torch.full_like(p, -math.inf), p)
    p[:, tokens if context is None else context:] = -math.inf
    total = torch.logaddexp(p, s)
    weights = [torch.exp(t - total).t()[..., None] for t in (p, s)]
    want = sum(w * t.cpu().double() for w, t in zip(weights, sides))
    tolerance = dict(rtol=1e-2, atol=1e-3) if dtype == bf16 else dict(rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out.cpu().double(), want, **tolerance)
    torch.testing.assert_close(lse.cpu().double(), total, rtol=1e-6, atol=1e-6)


def test_merge_attn_states_to_fp8(device):
    sides, lses = [randn(9, 4, 64, dtype=bf16).to(device) for _ in range(2)], [
        randn(4, 9).to(device) for _ in range(2)]
    wide, codes = torch.empty(9, 4, 64, dtype=bf16, device=device), torch.empty(
        9, 4, 64, dtype=u8, device=device)
    scale = torch.tensor([0.05], device=device)
    for out, more in ((wide, ()), (codes, (scale,))):
        ops.merge_attn_states(out, None, sides[0], lses[0], sides[1], lses[1], None, *more)
    torch.testing.assert_close(decode(codes) * 0.05, wide.cpu().float(), rtol=0.07, atol=1e-3)


def test_index_lists(device):
    """Few verticals, the diagonal alone: every row block sees its own blocks and the verticals."""
    made = [torch.full(s, -1, dtype=i32, device=device)
            for s in ((1, 1, 4), (1, 1, 4, 1), (1, 1, 4), (1, 1, 4, 3))]
    lengths = ints(device, 256, dtype=i32)
    verticals = ints(device, 3, 70, 200, dtype=i32).view(1, 1, 3)
    slashes = ints(device, 0, dtype=i32).view(1, 1, 1)
    ops.convert_vertical_slash_indexes(*made, lengths, lengths, verticals, slashes, 256, 64, 64,
                                       True)
    blocks, offsets, columns, where = (t.cpu()[0, 0] for t in made)
    assert blocks.tolist() == [1] * 4 and offsets.flatten().tolist() == [0, 64, 128, 192]
    assert [where[r, :n].tolist() for r, n in enumerate(columns.tolist())] == [
        [], [3], [3, 70], [3, 70]]
    again = [torch.full_like(t, -1) for t in made]
    ops.convert_vertical_slash_indexes_mergehead(
        *again, lengths, lengths, verticals, slashes, ints(device, 3, dtype=i32),
        ints(device, 1, dtype=i32), 256, 64, 64, True)
    assert all(torch.equal(a, b) for a, b in zip(made, again))
    with pytest.raises(kvops.Error, match="context_size: is 5, expected 4"):
        ops.convert_vertical_slash_indexes(*made, lengths, lengths, verticals, slashes, 320, 64,
                                           64, True)


def check_top_k(indices, logits, starts, ends, k):
    for row, (start, end) in enumerate(zip(starts, ends)):
        count = max(0, min(k, end - start))
        found = indices[row].cpu()
        assert (found[count:] == -1).all() and len(set(found[:count].tolist())) == count
        if count:
            chosen = logits[row, start + found[:count].long()].sort()[0]
            assert torch.equal(chosen, logits[row, start:end].topk(count)[0].sort()[0])


@pytest.mark.parametrize("rows, k", [(1, 64), (32, 64), (300, 200)])
def test_top_k_prefill(device, rows, k):
    logits = randn(rows, 1000)
    starts = torch.arange(rows) % 17
    ends = (starts + torch.randint(0, 900, (rows,))).clamp(max=1000)
    indices = torch.empty(rows, k, dtype=i32, device=device)
    here = logits.to(device)
    ops.top_k_per_row_prefill(here, starts.to(i32).to(device), ends.to(i32).to(device), indices,
                              rows, here.stride(0), here.stride(1), k)
    check_top_k(indices, logits, starts.tolist(), ends.tolist(), k)


@pytest.mark.parametrize("next_n", [1, 8])
@pytest.mark.parametrize("per_row", [False, True])
def test_top_k_decode(device, next_n, per_row):
    rows, k = 3 * next_n, 64
    logits = randn(rows, 500)
    lengths = torch.randint(next_n, 500, (3, next_n) if per_row else (3,))
    ends = lengths.flatten() if per_row else (
        lengths[:, None] - next_n + torch.arange(next_n) + 1).flatten()
    here, indices = logits.to(device), torch.empty(rows, k, dtype=i32, device=device)
    ops.top_k_per_row_decode(here, next_n, lengths.to(i32).to(device), indices, rows,
                             here.stride(0), here.stride(1), k)
    check_top_k(indices, logits, [0] * rows, ends.tolist(), k)


def test_top_k_goes_by_the_strides_that_it_is_told(device):
    """vLLM's operator reads rows where stride0 says, here all in the same place."""
    row = randn(1, 500)
    here, indices = row.to(device), torch.empty(4, 32, dtype=i32, device=device)
    ends = torch.tensor([10, 40, 300, 500], dtype=i32)
    ops.top_k_per_row_decode(here, 1, ends.to(device), indices, 4, 0, 1, 32)
    check_top_k(indices, row.expand(4, 500), [0] * 4, ends.tolist(), 32)
