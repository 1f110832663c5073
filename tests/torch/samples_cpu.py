# Calls of the operators of vLLM's CPU back end, into the same lists.
import torch

from samples import NEW, bf16, f32, i32, ints, randn, sample, u8

HEADS, KV_HEADS, SIZE, BLOCK = 8, 2, 64, 32
QUERIES, LENGTHS = [1, 5, 3], [40, 5, 70]


def plan(seq_lens, starts, dtype=bf16, window=-1, split=True, isa="vec"):
    more = (None, "auto") if NEW else ()
    return torch.ops._C.get_scheduler_metadata(len(seq_lens), HEADS, KV_HEADS, SIZE, seq_lens,
                                               dtype, starts, True, window, isa, split, *more)


@sample("get_scheduler_metadata")
def _(d):
    return (3, HEADS, KV_HEADS, SIZE, ints(d, *LENGTHS, dtype=i32), bf16,
            ints(d, 0, 1, 6, 9, dtype=i32), True, 32, "vec", True, *((None,) if NEW else ()))


@sample("cpu_attn_reshape_and_cache", auto=dict(kind="auto"), fp8=dict(kind="fp8_e4m3"))
def _(d, kind):
    caches = [torch.zeros(4, KV_HEADS, BLOCK, SIZE, dtype=bf16 if kind == "auto" else u8)
              for _ in range(2)]
    slots = torch.randperm(4 * BLOCK)[:7]
    slots[2] = -1
    return (*(randn(7, KV_HEADS, SIZE, dtype=bf16) for _ in range(2)), *caches, slots, "vec", 0.5,
            0.25, kind)


def attention(dtype=bf16, window=-1, **more):
    lengths, starts = ints("cpu", *LENGTHS, dtype=i32), ints("cpu", 0, 1, 6, 9, dtype=i32)
    query = randn(9, HEADS, SIZE, dtype=dtype)
    caches = [randn(8, KV_HEADS, BLOCK, SIZE, dtype=dtype) for _ in range(2)]
    left = window - 1 if window >= 0 else -1
    windows = (window,) if NEW else (left, 0)
    return (query, *caches, torch.zeros_like(query), starts, lengths, SIZE ** -0.5, True, None,
            *windows, torch.randint(0, 8, (3, 3)).to(i32), more.get("softcap", 0.0),
            plan(lengths, starts, dtype, window), more.get("sinks"), *((None,) if NEW else ()))


@sample("cpu_attention_with_kv_cache", bf16=dict(dtype=bf16), window=dict(dtype=f32, window=16))
def _(d, **how):
    return attention(**how)


@sample("onednn_mm", bias={}, none=dict(bias=False))
def _(d, bias=True):
    handle = torch.ops._C.create_onednn_mm_handler(randn(48, 40).t(), 2)
    return (torch.empty(2, 5, 48), randn(10, 80)[:, :40], randn(48) if bias else None,
            torch.tensor(handle))


@sample("onednn_scaled_mm", static={}, dynamic=dict(dynamic=True))
def _(d, dynamic=False):
    weight = torch.randint(-100, 100, (48, 40), dtype=torch.int8).t()
    handle = torch.ops._C.create_onednn_scaled_mm_handler(weight, torch.rand(1, 48), bf16, dynamic,
                                                          False, 2)
    scales = torch.rand(10 if dynamic else 1, 1)
    return (torch.empty(10, 48, dtype=bf16), torch.randint(-100, 100, (10, 40), dtype=torch.int8),
            scales, None, None, None, torch.tensor(handle))
