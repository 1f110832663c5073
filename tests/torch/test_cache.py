# Cache writes, moves and gathers against indexing in torch. fp8 codes are read back by a decoder
# written here; what is not written must keep its bytes.
import pytest
import torch

import kvops
from conftest import CUDA
from samples import NEW, bf16, cache_of, f16, f32, gathered, i32, i64, ints, key_value, randn, \
    records, slots, u8

ops = torch.ops._C_cache_ops


def decode(codes, kind="fp8"):
    """f32 of e4m3 or e5m2 codes."""
    mantissa, bias = (2, 15) if kind == "fp8_e5m2" else (3, 7)
    codes = codes.cpu().to(i32)
    exponent, m = (codes & 0x7F) >> mantissa, (codes & ((1 << mantissa) - 1)).float()
    value = torch.where(exponent == 0, m * 2.0 ** (1 - bias - mantissa),
                        (1 + m / 2**mantissa) * torch.exp2((exponent - bias).float()))
    return torch.where(codes >= 128, -value, value)


def stored(kind, value, scale):
    """What a cache holds of a value, within half a step of fp8."""
    return value.cpu().float() / scale if kind != "auto" else value.cpu().float()


def check(kind, cache, want):
    """want: f32 over the scale; NaN where the cache keeps what it had, which `cache` then has."""
    have = cache.cpu().float() if kind == "auto" else decode(cache, kind)
    written = ~torch.isnan(want)
    rtol = 0.0 if kind == "auto" else 2.0 ** (-3 if kind == "fp8_e5m2" else -4)
    torch.testing.assert_close(have[written], want[written], rtol=rtol, atol=2.0**-10)


def unchanged(before, after, want):
    mask = torch.isnan(want)
    assert torch.equal(before.cpu()[mask], after.cpu()[mask])


KINDS = ["auto", "fp8", "fp8_e4m3", "fp8_e5m2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [bf16, f32], ids=["bf16", "f32"])
@pytest.mark.parametrize("size, block", [(64, 16), (80, 8), (256, 32)])
def test_reshape_and_cache(device, kind, dtype, size, block):
    key, value = key_value(device, 42, 8, size, dtype)
    x = 16 if kind != "auto" else 16 // key.element_size()
    caches = [cache_of(device, kind, dtype, 11, 8, size // x, block, x),
              cache_of(device, kind, dtype, 11, 8, size, block)]
    before = [c.clone() for c in caches]
    where = slots(device, 42, 11 * block)
    scales = [(t.amax() / 64).float() for t in (key, value)]
    ops.reshape_and_cache(key, value, *caches, where, kind, *scales)
    wanted = [torch.full(c.shape, float("nan")) for c in caches]
    for token, slot in enumerate(where.tolist()):
        if slot >= 0:
            b, o = divmod(slot, block)
            k, v = (stored(kind, t[token], s.cpu()) for t, s in zip((key, value), scales))
            wanted[0][b, :, :, o] = k.view(8, size // x, x)
            wanted[1][b, :, :, o] = v
    for cache, old, want in zip(caches, before, wanted):
        check(kind, cache, want)
        unchanged(old, cache, want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hnd", [False, True], ids=["nhd", "hnd"])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("size", [64, 46])
def test_reshape_and_cache_flash(device, kind, hnd, per_head, size):
    key, value = key_value(device, 21, 8, size, bf16)
    shape = (9, 2, 8, 16, size) if hnd else (9, 2, 16, 8, size)
    sides = cache_of(device, kind, bf16, *shape)
    before = sides.clone()
    caches = [s.transpose(1, 2) if hnd else s for s in sides.unbind(1)]
    scales = [((t.amax((0, 2)) if per_head else t.amax()) / 64).float() for t in (key, value)]
    where = slots(device, 21, 144)
    ops.reshape_and_cache_flash(key, value, *caches, where, kind, *scales)
    want = torch.full(sides.shape, float("nan"))
    for token, slot in enumerate(where.tolist()):
        if slot >= 0:
            b, o = divmod(slot, 16)
            for side, (t, s) in enumerate(zip((key, value), scales)):
                s = s.cpu().view(-1, 1) if per_head else s.cpu()
                (want.transpose(2, 3) if hnd else want)[b, side, o] = stored(kind, t[token], s)
    check(kind, sides, want)
    unchanged(before, sides, want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [bf16, f32], ids=["bf16", "f32"])
def test_concat_and_cache_mla(device, kind, dtype):
    kv_c, k_pe = randn(42, 512, dtype=dtype).to(device), randn(42, 64, dtype=dtype).to(device)
    cache = cache_of(device, kind, dtype, 8, 16, 576)
    before, where = cache.clone(), slots(device, 42, 128)
    ops.concat_and_cache_mla(kv_c, k_pe, cache, where, kind, torch.tensor(0.1, device=device))
    want = torch.full(cache.shape, float("nan"))
    for token, slot in enumerate(where.tolist()):
        if slot >= 0:
            want[slot // 16, slot % 16] = stored(kind, torch.cat((kv_c[token], k_pe[token])), 0.1)
    check(kind, cache, want)
    unchanged(before, cache, want)


@pytest.mark.parametrize("rule", ["raw", "pow2"])
def test_fp8_ds_mla_records(device, rule):
    """Scales by the rule that was registered, and what the gather makes of the records."""
    kv_c, k_pe = randn(42, 512, dtype=bf16).to(device), randn(42, 64, dtype=bf16).to(device)
    kv_c[3, :128] = 0
    cache = torch.zeros(8, 16, 656, dtype=u8, device=device)
    kvops.torch.register(ds_mla_scale=rule)
    try:
        where = torch.arange(42).to(device)
        ops.concat_and_cache_mla(kv_c, k_pe, cache, where, "fp8_ds_mla",
                                 torch.tensor(1.0, device=device))
    finally:
        kvops.torch.register(ds_mla_scale="raw")
    rows = cache.view(128, 656)[:42].cpu()
    scales = rows[:, 512:528].contiguous().view(f32)
    largest = kv_c.cpu().float().view(42, 4, 128).abs().amax(-1) / 448
    want = torch.exp2(torch.ceil(torch.log2(largest.clamp(min=1e-4)))) if rule == "pow2" else (
        largest.clamp(min=2.0**-126))
    assert torch.equal(scales, want)
    values = decode(rows[:, :512]).view(42, 4, 128) * scales[..., None]
    torch.testing.assert_close(values.view(42, 512), kv_c.cpu().float(), rtol=2.0**-4,
                               atol=scales.max().item() * 2.0**-9)
    assert torch.equal(rows[:, 528:].contiguous().view(bf16), k_pe.cpu())
    table, starts = torch.arange(8).to(i32).view(1, 8).to(device), ints(device, 0, dtype=i32)
    out = torch.empty(42, 576, dtype=bf16, device=device)
    more = () if NEW else (ints(device, 42, dtype=i32),)
    ops.cp_gather_and_upconvert_fp8_kv_cache(cache, out, table, *more, starts, 1)
    assert torch.equal(out[:, :512].cpu(), values.view(42, 512).to(bf16))
    assert torch.equal(out[:, 512:].cpu(), k_pe.cpu())


@pytest.mark.parametrize("kind", ["auto", "fp8"])
def test_rope_fused_is_rotate_then_write(device, kind):
    both = randn(11, 1, 576, dtype=bf16).to(device)
    q, k_pe, kv_c = randn(11, 4, 64, dtype=bf16).to(device), both[:, 0, :64], both[:, 0, 64:]
    table, positions = randn(50, 64, dtype=bf16).to(device), torch.randint(0, 50, (11,)).to(device)
    where, scale = slots(device, 7, 64), torch.tensor(0.1, device=device)
    cache = cache_of(device, kind, bf16, 4, 16, 576)
    q2, k2, cache2 = q.clone(), k_pe.clone(), cache.clone()
    ops.concat_and_cache_mla_rope_fused(positions, q, k_pe, kv_c, table, True, where, cache, kind,
                                        scale)
    torch.ops._C.rotary_embedding(positions, q2, k2.unsqueeze(1), 64, table, True)
    for ours, theirs in ((q, q2), (k_pe, k2)):  # the fused one rounds the products, too
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=1.6e-2, atol=2e-2)
    ops.concat_and_cache_mla(kv_c, k_pe, cache2, where, kind, scale)
    assert torch.equal(cache, cache2)


@pytest.mark.parametrize("kind", ["auto", "fp8"])
def test_grouped_is_one_layer_after_the_other(device, kind):
    kv_c, k_pe = randn(3, 9, 512, dtype=bf16).to(device), randn(3, 9, 64, dtype=bf16).to(device)
    where = torch.stack([slots(device, 9, 64) for _ in range(3)])
    caches = [cache_of(device, kind, bf16, 4, 16, 576) for _ in range(3)]
    singly, scales = [c.clone() for c in caches], torch.tensor([0.1, 0.2, 0.3], device=device)
    pointers = ints(device, *(c.data_ptr() for c in caches))
    ops.concat_and_cache_mla_grouped(kv_c, k_pe, pointers, where, 16, 16 * 576, 576,
                                     scales if kind == "fp8" else None, kind)
    for i, (cache, single) in enumerate(zip(caches, singly)):
        ops.concat_and_cache_mla(kv_c[i], k_pe[i], single, where[i], kind, scales[i])
        assert torch.equal(cache, single)


def test_swaps(device):
    src, dst = (randn(8, 3, 16, dtype=bf16).to(device) for _ in range(2))
    want = dst.clone()
    want[[5, 6, 0]] = src[[0, 1, 4]]
    pairs = torch.tensor([[0, 5], [1, 6], [4, 0]])
    ops.swap_blocks(src, dst, src.element_size() * src.stride(0), pairs)
    assert torch.equal(dst, want)
    if device == "cuda":
        host = torch.zeros(8, 3, 16, dtype=bf16)
        ops.swap_blocks(src, host, 96, pairs)
        torch.cuda.synchronize()
        assert torch.equal(host[[5, 6, 0]], src[[0, 1, 4]].cpu())
    dst.zero_()
    starts = [t.data_ptr() + i * 96 for t, i in ((src, 2), (src, 7), (dst, 1), (dst, 3))]
    ops.swap_blocks_batch(torch.tensor(starts[:2]), torch.tensor(starts[2:]),
                          torch.tensor([96, 48]))
    if CUDA:
        torch.cuda.synchronize()
    assert torch.equal(dst[1], src[2]) and torch.equal(dst[3].view(-1)[:24], src[7].view(-1)[:24])
    assert dst[3].view(-1)[24:].abs().max() == 0


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=["f32", "f16", "bf16"])
def test_convert_fp8_there_and_back(device, dtype):
    wide = (torch.rand(10, 8, 5, 4, 16) * 448 - 224).to(dtype).to(device)
    codes, back = torch.empty_like(wide, dtype=u8), torch.empty_like(wide)
    ops.convert_fp8(codes, wide, 1.0, "fp8")
    check("fp8", codes, wide.float().cpu())
    ops.convert_fp8(back, codes, 0.5, "fp8")
    assert torch.equal(back.cpu(), (decode(codes) * 0.5).to(dtype))
    with pytest.raises(kvops.Error, match='kv_cache_dtype: is "auto", expected fp8'):
        ops.convert_fp8(codes, wide, 1.0, "auto")


def test_convert_fp8_goes_by_address_between_shapes(device):
    codes = torch.randint(0, 126, (6, 2, 1, 4, 16), dtype=u8, device=device)  # x-packed keys
    wide = torch.zeros(6, 2, 2, 4, 8, dtype=bf16, device=device)
    ops.convert_fp8(wide, codes, 1.0, "fp8")
    assert torch.equal(wide.view(-1).cpu(), decode(codes).view(-1).to(bf16))
    with pytest.raises(kvops.Error, match="dst: shape"):
        ops.convert_fp8(wide[:, :1], codes, 1.0, "fp8")


@pytest.mark.parametrize("kind", ["auto", "fp8"])
@pytest.mark.parametrize("starts", [False, True])
def test_gathers(device, kind, starts):
    lengths, first = [20, 0, 33], [3, 0, 7] if starts else [0, 0, 0]
    cache = cache_of(device, kind, f32, 12, 16, 576)
    table, cu = gathered(device, lengths, 12)
    begin = ints(device, *first, dtype=i32) if starts else None
    values = cache.cpu().float() if kind == "auto" else decode(cache) * 0.1
    rows = [(table[r, p // 16].item(), p % 16) for r, n in enumerate(lengths)
            for p in range(first[r], first[r] + n)]
    want = torch.stack([values[b, o] for b, o in rows])
    out = torch.full((60, 576), 7.0, device=device)
    owners = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).to(i32).to(device)
    ops.gather_and_maybe_dequant_cache(cache, out, table, cu, owners, torch.tensor(53), kind,
                                       torch.tensor(0.1, device=device), begin)
    torch.testing.assert_close(out[:53].cpu(), want, rtol=1e-6, atol=0)
    assert (out[53:] == 7).all()
    same = torch.zeros(60, 576, dtype=cache.dtype, device=device)
    ops.cp_gather_cache(cache, same, table, cu, 3, begin)
    assert torch.equal(same[:53].cpu(), torch.stack([cache.cpu()[b, o] for b, o in rows]))


def test_indexer_round_trip(device):
    k, where = randn(17, 128, dtype=bf16).to(device), torch.randperm(64)[:17].to(device)
    cache = torch.zeros(4, 16, 132, dtype=u8, device=device)
    ops.indexer_k_quant_and_cache(k, cache, where, 128, "ue8m0")
    flat = cache.view(4, -1).cpu()
    codes, scales = flat[:, : 16 * 128].reshape(64, 128), flat[:, 16 * 128:].contiguous().view(
        f32).view(64, 1)
    w = where.cpu()
    largest = k.cpu().float().abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448
    assert torch.equal(scales[w], torch.exp2(torch.ceil(torch.log2(largest))))
    assert ((decode(codes[w]) * scales[w] - k.cpu().float()).abs() <= 16 * scales[w]).all()
    table, cu = torch.tensor([[2, 0], [1, 3]], dtype=i32, device=device), ints(device, 0, 20, 25,
                                                                             dtype=i32)
    out_k, out_s = (torch.full((30, n), 123, dtype=u8, device=device) for n in (128, 4))
    ops.cp_gather_indexer_k_quant_cache(cache, out_k, out_s, table, cu)
    order = torch.cat([torch.arange(32, 48), torch.arange(4), torch.arange(16, 21)])
    assert torch.equal(out_k[:25].cpu(), codes[order])
    assert torch.equal(out_s[:25].cpu().view(f32), scales[order])
    assert (out_k[25:] == 123).all() and (out_s[25:] == 123).all()


def test_words_that_no_operator_knows(device):
    key, value = key_value(device)
    caches = [torch.zeros(2, 8, 3, 64, dtype=bf16, device=device) for _ in range(2)]
    where, one = torch.zeros(21, dtype=i64, device=device), torch.ones(1, device=device)
    for word in ("fp8_inc", "turboquant_4bit", "int8"):
        with pytest.raises(kvops.Error, match=f'kv_cache_dtype: is "{word}", which this') as caught:
            ops.reshape_and_cache_flash(key, value, *caches, where, word, one, one)
        assert caught.value.status == kvops.Status.UNSUPPORTED
    with pytest.raises(kvops.Error, match="key_cache: dtype is"):
        ops.reshape_and_cache_flash(key, value, *(c.to(u8) for c in caches), where, "auto", one,
                                    one)
    if NEW:
        table, cu = gathered(device, [4])
        with pytest.raises(kvops.Error, match="host_cache: is given, expected a cache that lies"):
            ops.cp_gather_and_upconvert_fp8_kv_cache(
                records(device, 656), torch.zeros(4, 576, dtype=bf16, device=device), table, cu, 1,
                None, torch.zeros(4, 656, dtype=u8))
