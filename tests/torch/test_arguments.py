# Every argument arrives where it belongs: calls through torch against the library's own calls, in
# which arguments have names. The values of arguments that could be confused all differ.
import pytest
import torch

import kvops
import samples_cpu as made
from samples import NEW, TAIL, bf16, cache_of, f32, i32, ints, key_value, paged, randn, u8

main, cache = torch.ops._C, torch.ops._C_cache_ops


def named(op, **arguments):
    """The library's call on copies of these CPU tensors; the copies, by name."""
    given = {k: v.clone() if torch.is_tensor(v) else v for k, v in arguments.items()}
    views = {k: kvops.Tensor(v.data_ptr(), str(v.dtype).replace("torch.", ""), v.shape, v.stride())
             if torch.is_tensor(v) else v for k, v in given.items()}
    kvops.call(op, **views)
    return given


@pytest.mark.parametrize("sparse", [(1, 2, 3, 16, 1), (1, 1, 2, 32, -1), TAIL])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_block_sparse_attention(sparse, version):
    query, keys, values, kv_heads, scale, table, lengths, block, longest = paged("cpu", "auto")
    out, slopes = torch.empty_like(query), randn(8)
    scratch = [torch.empty(4, 8, 1), torch.empty(4, 8, 1), torch.empty(4, 8, 1, 64, dtype=bf16)]
    one = torch.ones(1)
    getattr(main, f"paged_attention_{version}")(
        out, *(scratch if version == "v2" else ()), query, keys, values, kv_heads, scale, table,
        lengths, block, longest, slopes, "auto", one, one, *sparse)
    names = ("tp_rank", "blocksparse_local_blocks", "blocksparse_vert_stride",
             "blocksparse_block_size", "blocksparse_head_sliding_step")
    want = named(f"paged_attention_{version}", query=query, key_cache=keys, value_cache=values,
                 block_table=table, seq_lens=lengths, alibi_slopes=slopes, out=out, scale=scale,
                 max_seq_len=longest, **dict(zip(names, sparse)))
    assert torch.equal(out, want["out"])


def test_scales_of_keys_and_of_values():
    key, value = key_value("cpu")
    caches = [torch.zeros(9, 8, 3, 64, dtype=u8) for _ in range(2)]
    slots, scales = torch.randperm(72)[:21], (torch.tensor([0.5]), torch.tensor([0.125]))
    cache.reshape_and_cache_flash(key, value, *caches, slots, "fp8", *scales)
    for side, rows, scale in zip(caches, (key, value), scales):
        codes = torch.empty(21, 3, 64, dtype=u8)
        cache.convert_fp8(codes, rows.contiguous(), scale.item(), "fp8")
        assert torch.equal(side.view(72, 3, 64)[slots], codes)
    query, table, lengths = randn(1, 3, 64, dtype=bf16), torch.zeros(1, 1, dtype=i32), ints(
        "cpu", 1, dtype=i32)
    packed = cache_of("cpu", "fp8", bf16, 1, 3, 4, 8, 16), cache_of("cpu", "fp8", bf16, 1, 3, 64, 8)
    out, wide = torch.empty_like(query), torch.empty(1, 3, 64, 8)
    main.paged_attention_v1(out, query, *packed, 3, 0.1, table, lengths, 8, 1, None, "fp8", *scales,
                            *TAIL)
    cache.convert_fp8(wide, packed[1], 0.125, "fp8")  # one token: its value
    torch.testing.assert_close(out.float(), wide[..., 0], rtol=2.0**-8, atol=1e-6)


def test_everything_that_attention_on_the_cpu_takes():
    lengths, starts = ints("cpu", *made.LENGTHS, dtype=i32), ints("cpu", 0, 1, 6, 9, dtype=i32)
    query, table = randn(9, 8, 64, dtype=bf16), torch.randint(0, 8, (3, 3)).to(i32)
    caches = [cache_of("cpu", "fp8", bf16, 8, 2, 32, 64) for _ in range(2)]
    slopes, sinks = randn(8), randn(8, dtype=bf16)
    dynamic = ints("cpu", 1, 0, 1, dtype=i32) if NEW else None
    window, windows = (16, 15, 0), dict(window_left=15, window_right=0)
    more = (dynamic, "auto") if NEW else ()
    plan = main.get_scheduler_metadata(3, 8, 2, 64, lengths, bf16, starts, True, window[0], "vec",
                                       False, *more)
    assert torch.equal(plan, named(
        "cpu_attn_get_scheduler_metadata", seq_lens=lengths, query_start_loc=starts,
        dynamic_causal=dynamic, scheduler_metadata=torch.empty_like(plan), num_heads=8,
        num_kv_heads=2, head_size=64, query_dtype="bf16", isa="vec", causal=1,
        enable_kv_split=0, **windows)["scheduler_metadata"])
    out = torch.empty_like(query)
    main.cpu_attention_with_kv_cache(
        query, *caches, out, starts, lengths, 0.2, True, slopes,
        *(window[:1] if NEW else window[1:]), table, 30.0, plan, sinks, *more[:1], 0.01, 0.02,
        "fp8_e4m3")
    arguments = dict(
        query=query, query_start_loc=starts, seq_lens=lengths, block_table=table,
        alibi_slopes=slopes, sinks=sinks, scheduler_metadata=plan, dynamic_causal=dynamic,
        out=out, scale=0.2, softcap=30.0, k_scale=0.01, v_scale=0.02, causal=1, **windows)
    views = {k: kvops.Tensor(v.data_ptr(), "f8_e4m3", v.shape) for k, v in zip(
        ("key_cache", "value_cache"), caches)}
    size = kvops.workspace_bytes("cpu_attention_with_kv_cache", **views, **{
        k: kvops.Tensor(v.data_ptr(), str(v.dtype).replace("torch.", ""), v.shape, v.stride())
        if torch.is_tensor(v) else v for k, v in arguments.items()})
    want = named("cpu_attention_with_kv_cache", workspace=torch.empty(size, dtype=u8), **views,
                 **arguments)
    assert torch.equal(out, want["out"])


@pytest.mark.parametrize("window", [-1, 16])
def test_attention_that_looks_ahead(window):
    """Encoders: not causal, and the window lies on both sides."""
    lengths, starts = ints("cpu", 40, 7, dtype=i32), ints("cpu", 0, 40, 47, dtype=i32)
    query = randn(47, 8, 64)
    keys, values = (randn(4, 2, 32, 64) for _ in range(2))
    table = torch.tensor([[2, 0], [3, 1]], dtype=i32)
    packed = [torch.zeros(4, 2, 32, 64) for _ in range(2)]
    rows = [t.transpose(1, 2).reshape(128, 2, 64) for t in (keys, values)]
    main.cpu_attn_reshape_and_cache(*rows, *packed, torch.arange(128), "vec")
    more = (None, "auto") if NEW else ()
    plan = main.get_scheduler_metadata(2, 8, 2, 64, lengths, f32, starts, False, window, "vec",
                                       True, *more)
    side = window - 1 if window >= 0 else -1
    out = torch.empty_like(query)
    main.cpu_attention_with_kv_cache(
        query, *packed, out, starts, lengths, 0.125, False, None,
        *((window,) if NEW else (side, side)), table, 0.0, plan, None, *more[:1])
    row = 0
    for request, length in enumerate((40, 7)):
        slots = torch.arange(length)
        slots = table[request, slots // 32].long() * 32 + slots % 32
        for i in range(length):
            near = slots if side < 0 else slots[max(0, i - side) : i + side + 1]
            k, v = (t[near].repeat_interleave(4, 1) for t in rows)
            weights = (0.125 * torch.einsum("hd,thd->ht", query[row], k)).softmax(-1)
            torch.testing.assert_close(out[row], torch.einsum("ht,thd->hd", weights, v), rtol=1e-4,
                                       atol=1e-5)
            row += 1


def test_int8_with_a_zero_point():
    x, scale, zero = randn(5, 96), torch.tensor([0.02]), torch.tensor([-7], dtype=i32)
    codes = torch.empty(5, 96, dtype=torch.int8)
    main.static_scaled_int8_quant(codes, x, scale, zero)
    want = torch.clamp(torch.round(x * (1 / scale)) - 7, -128, 127)
    assert (codes.float() - want).abs().max() <= 1 and codes.float().mean() < -3


def test_vertical_and_slash_counts_differ():
    shapes = (1, 2, 4), (1, 2, 4, 2), (1, 2, 4), (1, 2, 4, 5)
    made_ = [torch.full(s, -1, dtype=i32) for s in shapes]
    lengths = ints("cpu", 250, dtype=i32), ints("cpu", 256, dtype=i32)
    verticals = torch.stack([torch.randperm(250)[:5].sort()[0] for _ in range(2)]).view(1, 2, 5)
    slashes = torch.tensor([[[40, 0], [90, 0]]], dtype=i32)
    counts = ints("cpu", 5, 2, dtype=i32), ints("cpu", 2, 1, dtype=i32)
    main.convert_vertical_slash_indexes_mergehead(
        *made_, *lengths, verticals.to(i32), slashes, *counts, 256, 64, 64, True)
    names = ("block_count", "block_offset", "column_count", "column_index")
    want = named("convert_vertical_slash_indexes_mergehead", q_seq_lens=lengths[0],
                 kv_seq_lens=lengths[1], vertical_indexes=verticals.to(i32), slash_indexes=slashes,
                 vertical_indices_count=counts[0], slash_indices_count=counts[1], block_size_m=64,
                 block_size_n=64, causal=1,
                 **{n: torch.full_like(t, -1) for n, t in zip(names, made_)})
    assert all(torch.equal(t, want[n]) for n, t in zip(names, made_))
