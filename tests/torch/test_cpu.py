# The operators of vLLM's CPU back end: attention over a cache packed for the CPU, and products.
import pytest
import torch

import kvops
import samples_cpu as made
from conftest import VERSION
from samples import NEW, bf16, f16, f32, i32, ints, randn
from test_attention import attention

ops = torch.ops._C
HEADS, KV_HEADS, SIZE, BLOCK = made.HEADS, made.KV_HEADS, made.SIZE, made.BLOCK


def run(dtype, isa, window, split, kind="auto", planned=bf16):
    """(output, queries, keys and values by slot, block table, lengths) of a mixed batch."""
    queries, lengths = [1, 5, 3, 1], [40, 5, 70, 300]
    keys, values = (randn(40 * BLOCK, KV_HEADS, SIZE).clamp(-1, 1).to(dtype) for _ in range(2))
    caches = [torch.zeros(40, KV_HEADS, BLOCK, SIZE, dtype=dtype if kind == "auto" else
                          torch.uint8) for _ in range(2)]
    ops.cpu_attn_reshape_and_cache(keys, values, *caches, torch.arange(40 * BLOCK), isa, 1.0, 1.0,
                                   kind)
    seq_lens, starts = ints("cpu", *lengths, dtype=i32), ints("cpu", 0, 1, 6, 9, 10, dtype=i32)
    table = torch.randint(0, 40, (4, 10)).to(i32)
    query = randn(10, HEADS, SIZE, dtype=dtype)
    plan = made.plan(seq_lens, starts, dtype, window, split, isa)
    windows = (window,) if NEW else (window - 1 if window >= 0 else -1, 0)
    out = torch.full_like(query, float("nan"))
    ops.cpu_attention_with_kv_cache(
        query, *caches, out, starts, seq_lens, SIZE ** -0.5, True, None, *windows, table, 0.0,
        plan, None, *((None,) if NEW else ()), 1.0, 1.0, kind)
    return out, query, keys, values, table, list(zip(queries, lengths))


@pytest.mark.parametrize("dtype, isa", [(bf16, "vec"), (f16, "vec16"), (f32, "vec"), (bf16, "amx")])
@pytest.mark.parametrize("window", [-1, 16])
@pytest.mark.parametrize("split", [True, False])
def test_attention(dtype, isa, window, split):
    out, query, keys, values, table, shapes = run(dtype, isa, window, split)
    row = 0
    for request, (count, length) in enumerate(shapes):
        for i in range(count):
            end = length - count + i + 1
            where = torch.arange(0 if window < 0 else max(0, end - window), end)
            where = table[request, where // BLOCK].long() * BLOCK + where % BLOCK
            want = attention(query[row], keys[where], values[where], SIZE ** -0.5, None)
            torch.testing.assert_close(out[row].double(), want, atol=1.5e-2, rtol=1e-2)
            row += 1


def test_attention_over_fp8():
    plain = run(bf16, "vec", -1, True)[0]
    torch.manual_seed(3)
    coded = run(bf16, "vec", -1, True, "fp8_e4m3")[0]
    torch.testing.assert_close(coded.float(), plain.float(), atol=0.2, rtol=0.1)
    assert not torch.equal(coded, plain)


def test_a_packing_that_is_not_there():
    with pytest.raises(kvops.Error, match='isa: is "neon", expected one of vec vec16 amx'):
        run(bf16, "neon", -1, True)
    assert ops.cpu_attn_has_isa("vec") and ops.cpu_attn_has_isa("vec16")
    assert not ops.cpu_attn_has_isa("neon") and not ops.cpu_has_amx_fp8()
    assert not ops.is_onednn_acl_supported()


@pytest.mark.skipif(not hasattr(torch.library, "opcheck"), reason="torch 2.4 has the first opcheck")
def test_the_fake_plan_has_the_size_of_the_real_one():
    from torch._subclasses.fake_tensor import FakeTensorMode
    lengths, starts = ints("cpu", 40, 5, 70, dtype=i32), ints("cpu", 0, 1, 6, 9, dtype=i32)
    real = made.plan(lengths, starts)
    with FakeTensorMode() as mode:
        fake = made.plan(mode.from_tensor(lengths), mode.from_tensor(starts))
    assert fake.shape == real.shape and fake.dtype == torch.int8


@pytest.mark.parametrize("dtype", [f32, bf16, f16], ids=["f32", "bf16", "f16"])
@pytest.mark.parametrize("n, k", [(256, 128), (1023, 491), (1001, 15)])
@pytest.mark.parametrize("strided", [False, True])
def test_products(dtype, n, k, strided):
    weight, bias = (torch.rand(*s).mul(f).to(dtype) for s, f in (((n, k), 1.5), ((n,), 5)))
    handle = torch.tensor(ops.create_onednn_mm_handler(weight.t(), 2))
    for rows in (16, 1, 32, 1):
        a = torch.rand(rows, k * (2 if strided else 1)).mul(1.5).to(dtype)[:, :k]
        for b in (bias, None):
            out = torch.empty(rows, n, dtype=dtype)
            ops.onednn_mm(out, a, b, handle)
            want = torch.nn.functional.linear(a.float(), weight.float(),
                                              None if b is None else b.float())
            torch.testing.assert_close(out.float(), want, rtol=1.6e-2, atol=1e-5)
    ops.release_dnnl_matmul_handler(handle.item())
    ops.release_dnnl_matmul_handler(0)
    with pytest.raises(RuntimeError, match="onednn_mm: handle"):
        ops.onednn_mm(out, a, None, handle)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("zero_point", [False, True])
def test_int8_products(dynamic, per_channel, zero_point):
    rows, n, k = 17, 1001, 64
    a, w = (torch.randn(*s).mul(5).round().clamp(-128, 127).to(torch.int8)
            for s in ((rows, k), (n, k)))
    scale_a, scale_b = torch.randn(rows if dynamic else 1, 1), torch.randn(
        1, n if per_channel else 1)
    azp = torch.rand(scale_a.shape).mul(10).add(1.5).div(scale_a).round().to(i32)
    azp = azp if zero_point else None
    adjust = scale_b * w.float().sum(1)[None] if zero_point else None
    bias = torch.rand(n).mul(10).to(bf16)
    handle = torch.tensor(ops.create_onednn_scaled_mm_handler(w.t(), scale_b, bf16, dynamic,
                                                              zero_point, 2))
    shifted = a.float() - (azp.float() if zero_point else 0)
    want = scale_a * shifted @ (scale_b * w.t().float())
    for b in (bias, None):
        out = torch.zeros(rows, n, dtype=bf16)
        ops.onednn_scaled_mm(out, a, scale_a, azp, adjust, b, handle)
        torch.testing.assert_close(out.float(), want + (0 if b is None else b.float()), rtol=0.1,
                                   atol=1.0)


def test_the_registered_version_is_the_one_under_test():
    names = [a.name for a in ops.get_scheduler_metadata.default._schema.arguments]
    assert ("dynamic_causal" in names) == (VERSION == "2026-09")
