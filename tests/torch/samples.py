# Calls of every operator, as vLLM's callers and tests make them: key and value cut out of a packed
# qkv, caches that are halves of one allocation, scales without dimensions, -1 among the slots.
# What all of them have to fulfil (marks, opcheck, equal results on every device, graphs) runs over
# these lists; what an operator computes is tested beside it.
import torch

from conftest import VERSION

SAMPLES = {}  # name -> [(label, function of the device that makes the arguments)]
NEW = VERSION == "2026-09"
f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
u8, i32, i64 = torch.uint8, torch.int32, torch.int64


def sample(name, **variants):
    """Enters make(device, **variant) under the operator's name: one call per variant."""
    def enter(make):
        for label, keywords in variants.items() or [("", {})]:
            SAMPLES.setdefault(name, []).append(
                (label, lambda device, k=keywords: list(make(device, **k))))
        return make
    return enter


def randn(*shape, dtype=f32):
    return torch.randn(*shape).to(dtype)


def ints(device, *values, dtype=i64):
    return torch.tensor(values, dtype=dtype, device=device)


def scale(device, value=0.5):
    return torch.tensor(value, device=device)


def slots(device, tokens, total):
    """Distinct slots, one token in five without one."""
    order = torch.randperm(total)[:tokens]
    order[::5] = -1
    return order.to(device)


# ---- norms, rotary embedding, activations, int8 --------------------------------------------------


@sample("rms_norm", dense=dict(dtype=bf16), sliced=dict(dtype=f32, wide=True),
        heads=dict(dtype=f16, shape=(7, 4, 64)))
def _(d, dtype, shape=(7, 769), wide=False):
    x = randn(*shape[:-1], shape[-1] * (2 if wide else 1), dtype=dtype).to(d)
    return torch.empty(shape, dtype=dtype, device=d), x[..., : shape[-1]], randn(
        shape[-1], dtype=dtype).to(d), 1e-6


@sample("fused_add_rms_norm", bf16=dict(dtype=bf16), f32=dict(dtype=f32))
def _(d, dtype):
    return *(randn(5, 256, dtype=dtype).to(d) for _ in range(2)), randn(256, dtype=dtype).to(
        d), 1e-5


if NEW:
    @sample("rms_norm", weightless={})
    def _(d):
        return torch.empty(3, 64, device=d), randn(3, 64).to(d), None, 1e-6

    @sample("fused_add_rms_norm", weightless={})
    def _(d):
        return randn(3, 64).to(d), randn(3, 64).to(d), None, 1e-6


@sample("rotary_embedding", flat=dict(flat=True), heads=dict(flat=False),
        tail=dict(flat=False, more=(32, True)), alone=dict(flat=True, key=False))
def _(d, flat, key=True, more=()):
    shape = (2, 11, 5 * 64) if flat else (2, 11, 5, 64)
    q = randn(2, 11, 5, 96 if not flat else 64, dtype=bf16).to(d)
    q = q.view(shape) if flat else q[..., :64]
    k = randn(*shape, dtype=bf16).to(d) if key else None
    return (torch.randint(0, 50, (2, 11)).to(d), q, k, 64, randn(50, 32, dtype=bf16).to(d), True,
            *more)


def _gated(name, *numbers):
    @sample(name, bf16=dict(dtype=bf16), f32=dict(dtype=f32))
    def _(d, dtype):
        return torch.empty(7, 160, dtype=dtype, device=d), randn(7, 320, dtype=dtype).to(
            d), *numbers


for _name in ("silu_and_mul", "mul_and_silu", "gelu_and_mul", "gelu_tanh_and_mul"):
    _gated(_name)
_gated("fatrelu_and_mul", 0.3)
_gated("swigluoai_and_mul", 1.702, 7.0)
_gated("silu_and_mul_with_clamp", 3.0, *((1.0, 0.5) if NEW else ()))


@sample("static_scaled_int8_quant", symmetric={}, azp=dict(azp=-7))
def _(d, azp=None):
    azp = None if azp is None else ints(d, azp, dtype=i32)
    return (torch.empty(2, 3, 96, dtype=torch.int8, device=d), randn(2, 3, 96, dtype=bf16).to(d),
            scale(d, 0.02), azp)


@sample("dynamic_scaled_int8_quant", symmetric={}, azp=dict(azp=True))
def _(d, azp=False):
    azp = torch.empty(6, 1, dtype=i32, device=d) if azp else None
    return (torch.empty(2, 3, 96, dtype=torch.int8, device=d), randn(2, 3, 96, dtype=bf16).to(d),
            torch.empty(6, 1, device=d), azp)


# ---- cache writes and moves ----------------------------------------------------------------------

KINDS = dict(auto=dict(kind="auto"), fp8=dict(kind="fp8"), e5m2=dict(kind="fp8_e5m2"))


def key_value(d, tokens=21, heads=3, size=64, dtype=bf16):
    return randn(tokens, 3, heads, size, dtype=dtype).to(d).unbind(1)[1:]


def cache_of(d, kind, dtype, *shape):
    """Bytes of any value that is a number in every format."""
    if kind == "auto":
        return randn(*shape, dtype=dtype).to(d)
    return torch.randint(0, 0x7C, shape, dtype=u8).to(d)


@sample("reshape_and_cache", **KINDS)
def _(d, kind):
    key, value = key_value(d)
    x = 8 if kind == "auto" else 16
    return (key, value, cache_of(d, kind, bf16, 9, 3, 64 // x, 8, x),
            cache_of(d, kind, bf16, 9, 3, 64, 8), slots(d, 21, 72), kind, scale(d), scale(d))


@sample("reshape_and_cache_flash", **KINDS, hnd=dict(kind="auto", hnd=True),
        heads=dict(kind="fp8", per_head=True), nvfp4=dict(kind="nvfp4"),
        nvfp4_hnd=dict(kind="nvfp4", hnd=True))
def _(d, kind, hnd=False, per_head=False):
    key, value = key_value(d)
    width = 36 if kind == "nvfp4" else 64
    sides = cache_of(d, kind, bf16, 9, 2, 3, 8, width) if hnd else cache_of(
        d, kind, bf16, 9, 2, 8, 3, width)
    caches = [side.transpose(1, 2) if hnd else side for side in sides.unbind(1)]
    s = (torch.rand(3) + 0.5).to(d) if per_head else scale(d)
    return key, value, *caches, slots(d, 21, 72), kind, s, s


MLA = dict(**KINDS, fp8_ds_mla=dict(kind="fp8_ds_mla", width=656),
           nvfp4_ds_mla=dict(kind="nvfp4_ds_mla", width=352))


def mla_cache(d, kind, width, dtype=bf16):
    return cache_of(d, kind, dtype, 4, 16, width)


@sample("concat_and_cache_mla", **MLA)
def _(d, kind, width=576):
    return (randn(21, 512, dtype=bf16).to(d), randn(21, 128, dtype=bf16).to(d)[:, 64:],
            mla_cache(d, kind, width), slots(d, 21, 64), kind, scale(d))


@sample("concat_and_cache_mla_rope_fused", auto=MLA["auto"], fp8=MLA["fp8"])
def _(d, kind, width=576):
    both = randn(11, 576, dtype=bf16).to(d)
    return (torch.randint(0, 50, (11,)).to(d), randn(11, 4, 64, dtype=bf16).to(d), both[:, :64],
            both[:, 64:], randn(50, 64, dtype=bf16).to(d), False, slots(d, 11, 64),
            mla_cache(d, kind, width), kind, scale(d))


@sample("concat_mla_q")
def _(d):
    return (randn(4, 3, 512, dtype=bf16).to(d).transpose(0, 1), randn(3, 4, 192, dtype=bf16).to(
        d)[..., 128:], torch.empty(3, 4, 576, dtype=bf16, device=d))


@sample("indexer_k_quant_and_cache", pow2=dict(kind="ue8m0"), plain=dict(kind="fp8"))
def _(d, kind):
    return randn(9, 128, dtype=bf16).to(d), torch.zeros(4, 16, 132, dtype=u8, device=d), slots(
        d, 12, 64), 128, kind


@sample("convert_fp8", to_fp8=dict(dtype=bf16), from_fp8=dict(dtype=f32, back=True))
def _(d, dtype, back=False):
    wide, codes = randn(5, 3, 8, dtype=dtype).to(d), torch.randint(0, 0x7E, (5, 3, 8), dtype=u8)
    return (wide, codes.to(d), 0.7, "fp8") if back else (codes.to(d), wide, 0.7, "fp8")


@sample("swap_blocks", within={}, out=dict(to="cpu"), back=dict(of="cpu"))
def _(d, of=None, to=None):
    a, b = (randn(8, 4, 16).to(place or d) for place in (of, to))
    return a, b, a.element_size() * a.stride(0), torch.tensor([[0, 5], [1, 6], [4, 0]])


# ---- gathers -------------------------------------------------------------------------------------


def gathered(d, lengths, blocks=9, width=4):
    """A block table for these requests, and their running sum."""
    table = torch.stack([torch.randperm(blocks)[:width] for _ in lengths]).to(i32)
    return table.to(d), ints(d, 0, *torch.tensor(lengths).cumsum(0).tolist(), dtype=i32)


@sample("gather_and_maybe_dequant_cache", **KINDS, starts=dict(kind="auto", starts=True))
def _(d, kind, starts=False):
    table, cu = gathered(d, [20, 0, 33])
    owners = torch.repeat_interleave(torch.arange(3), torch.tensor([20, 0, 33])).to(i32).to(d)
    return (cache_of(d, kind, bf16, 9, 16, 576), torch.zeros(56, 576, dtype=bf16, device=d), table,
            cu, owners, 53, kind, scale(d), ints(d, 3, 0, 7, dtype=i32) if starts else None)


@sample("cp_gather_cache", three=dict(shape=(9, 16, 576)), four=dict(shape=(9, 16, 1, 128)))
def _(d, shape):
    table, cu = gathered(d, [20, 33])
    return randn(*shape, dtype=bf16).to(d), torch.zeros(53, shape[-1], dtype=bf16,
                                                        device=d), table, cu, 2, None


def records(d, width):
    """Records of latent codes; the scales of an fp8_ds_mla record are plain numbers."""
    cache = torch.randint(0, 0x7C, (9, 16, width), dtype=u8)
    if width == 656:
        cache[..., 512:528] = (torch.rand(9, 16, 4) * 2 + 0.1).view(u8)
        cache[..., 528:] = randn(9, 16, 64, dtype=bf16).view(u8)
    return cache.to(d)


@sample("cp_gather_and_upconvert_fp8_kv_cache")
def _(d):
    table, cu = gathered(d, [20, 33])
    out = torch.zeros(53, 576, dtype=bf16, device=d)
    if NEW:
        return records(d, 656), out, table, cu, 2, ints(d, 3, 9, dtype=i32)
    return records(d, 656), out, table, ints(d, 20, 33, dtype=i32), cu[:2], 2


@sample("cp_gather_and_upconvert_nvfp4_kv_cache")
def _(d):
    table, cu = gathered(d, [20, 33])
    return records(d, 352), torch.zeros(53, 576, dtype=bf16, device=d), table, cu, 2


@sample("cp_gather_indexer_k_quant_cache")
def _(d):
    table, cu = gathered(d, [20, 33])
    return (torch.randint(0, 255, (9, 16, 132), dtype=u8).to(d),
            torch.full((56, 128), 123, dtype=u8, device=d),
            torch.full((56, 4), 123, dtype=u8, device=d), table, cu)


# ---- attention, index lists, top-k ---------------------------------------------------------------


def paged(d, kind, heads=8, kv_heads=2, size=64, block=16):
    lengths = [1, 70, 33, 16]
    x = 8 if kind == "auto" else 16
    table = torch.randint(0, 20, (4, 5)).to(i32).to(d)
    return (randn(4, heads, size, dtype=bf16).to(d),
            cache_of(d, kind, bf16, 20, kv_heads, size // x, block, x),
            cache_of(d, kind, bf16, 20, kv_heads, size, block), kv_heads, size ** -0.5, table,
            ints(d, *lengths, dtype=i32), block, 70)


TAIL = 0, 0, 0, 64, 0


@sample("paged_attention_v1", auto=dict(kind="auto"), fp8=dict(kind="fp8"),
        alibi=dict(kind="auto", alibi=True))
def _(d, kind, alibi=False):
    slopes = randn(8).to(d) if alibi else None
    return (torch.empty(4, 8, 64, dtype=bf16, device=d), *paged(d, kind), slopes, kind,
            scale(d, 0.01), scale(d, 0.01), *TAIL)


@sample("paged_attention_v2", auto=dict(kind="auto"), fp8=dict(kind="fp8"))
def _(d, kind):
    out = torch.empty(4, 8, 64, dtype=bf16, device=d)
    partial = [torch.empty(4, 8, 1, device=d) for _ in range(2)]
    return (out, *partial, torch.empty(4, 8, 1, 64, dtype=bf16, device=d), *paged(d, kind), None,
            kind, scale(d, 0.01), scale(d, 0.01), *TAIL)


@sample("merge_attn_states", all={}, context=dict(context=9, lse=False))
def _(d, context=None, lse=True):
    sides = [randn(13, 4, 64, dtype=bf16).to(d) for _ in range(2)]
    lses = [randn(4, 13).to(d) for _ in range(2)]
    lses[0][1, 2] = lses[1][3, 4] = float("inf")
    return (torch.empty(13, 4, 64, dtype=bf16, device=d),
            torch.empty(4, 13, device=d) if lse else None, sides[0], lses[0], sides[1], lses[1],
            context, None)


def slash(d):
    verticals = torch.stack([torch.randperm(250)[:30].sort()[0] for _ in range(4)]).view(2, 2, 30)
    slashes = torch.stack([torch.randperm(250)[:3].sort(descending=True)[0] for _ in range(4)])
    slashes[:, -1] = 0  # as vLLM's callers do: every row sees itself
    out = [torch.full((2, 2, 4, *more), -1, dtype=i32, device=d)
           for more in ((), (3,), (), (30,))]
    return (*out, ints(d, 250, 130, dtype=i32), ints(d, 250, 200, dtype=i32),
            verticals.to(i32).to(d), slashes.view(2, 2, 3).to(i32).to(d))


@sample("convert_vertical_slash_indexes")
def _(d):
    return *slash(d), 250, 64, 64, True


@sample("convert_vertical_slash_indexes_mergehead")
def _(d):
    return *slash(d), ints(d, 30, 12, dtype=i32), ints(d, 3, 2, dtype=i32), 250, 64, 64, True


@sample("top_k_per_row_prefill", exact={}, wide=dict(wide=16))
def _(d, wide=0):
    logits = randn(12, 300 + wide).to(d)
    starts = torch.arange(12).to(i32).to(d)
    return logits, starts, starts + torch.arange(5, 280, 23)[:12].to(i32).to(d), torch.empty(
        12, 64, dtype=i32, device=d), 12, logits.stride(0), logits.stride(1), 64


@sample("top_k_per_row_decode", requests={}, rows=dict(rows=True))
def _(d, rows=False):
    logits = randn(12, 300).to(d)
    lengths = torch.randint(4, 300, (3, 4) if rows else (3,)).to(i32).to(d)
    return logits, 4, lengths, torch.empty(12, 64, dtype=i32,
                                           device=d), 12, logits.stride(0), logits.stride(1), 64
