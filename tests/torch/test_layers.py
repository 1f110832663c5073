# Norms, rotary embedding, activations and int8 codes against the formulas in torch, at the
# tolerances of vLLM's own tests or closer.
import pytest
import torch
import torch.nn.functional as F

from samples import NEW, bf16, f16, f32, randn

DTYPES = [f32, f16, bf16]
NEAR = {f32: dict(rtol=1.3e-6, atol=1e-5), f16: dict(rtol=1e-3, atol=1e-3),
        bf16: dict(rtol=1.6e-2, atol=1e-3)}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f16", "bf16"])


def near(ours, theirs, dtype):
    torch.testing.assert_close(ours.float().cpu(), theirs.float().cpu(), **NEAR[dtype])


def normed(x, weight, epsilon):
    x = x.double()
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight.double()


@each_dtype
@pytest.mark.parametrize("width", [8, 768, 5125])
@pytest.mark.parametrize("sliced", [False, True])
def test_norms(device, dtype, width, sliced):
    x = randn(7, width * (2 if sliced else 1), dtype=dtype).to(device)[:, :width]
    residual, weight = (randn(*s, dtype=dtype).to(device) for s in ((7, width), (width,)))
    out, want = torch.empty_like(residual), normed(x, weight, 1e-6)
    torch.ops._C.rms_norm(out, x, weight, 1e-6)
    near(out, want, dtype)
    total = (x.float() + residual.float()).to(dtype)
    want = normed(total, weight, 1e-6)
    torch.ops._C.fused_add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(residual, total)
    near(x, want, dtype)


def test_norm_of_columns(device):
    """The last stride is not 1: vLLM copies, and so do we."""
    x, out, weight = randn(64, 5).to(device).t(), torch.empty(5, 64, device=device), torch.ones(
        64, device=device)
    torch.ops._C.rms_norm(out, x, weight, 1e-6)
    near(out, normed(x, weight, 1e-6), f32)


def rotated(x, positions, table, neox, offset=0, inverse=False):
    """x [..., heads, size]; table rows: cosines, then sines."""
    half = table.shape[1] // 2
    x = x.double().clone()
    cos, sin = (t.double()[..., None, :] for t in table[positions].split(half, -1))
    sin = -sin if inverse else sin
    part = x[..., offset : offset + 2 * half]
    a, b = ((part[..., :half], part[..., half:]) if neox else (part[..., ::2], part[..., 1::2]))
    new = a * cos - b * sin, b * cos + a * sin
    part[:] = torch.cat(new, -1) if neox else torch.stack(new, -1).flatten(-2)
    return x


@each_dtype
@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize("layout", ["heads", "flat", "padded"])
@pytest.mark.parametrize("key", [True, False])
def test_rotary_embedding(device, dtype, neox, layout, key):
    """The padded layout has a dense key, as vLLM's own test has."""
    positions = torch.randint(0, 100, (3, 11)).to(device)
    table = randn(100, 32, dtype=dtype).to(device)
    q = randn(3, 11, 5, 80 + (64 if layout == "padded" else 0), dtype=dtype).to(device)[..., :80]
    k = randn(3, 11, 2, 80, dtype=dtype).to(device) if key else None
    want = [None if t is None else rotated(t, positions, table, neox) for t in (q, k)]
    flat = [t if t is None or layout != "flat" else t.view(3, 11, -1) for t in (q, k)]
    torch.ops._C.rotary_embedding(positions, *flat, 80, table, neox)
    near(q, want[0], dtype)
    if key:
        near(k, want[1], dtype)


def test_rotary_embedding_of_the_tail_and_back(device):
    positions, table = torch.arange(9).to(device), randn(9, 16).to(device)
    q = randn(9, 3, 64).to(device)
    want = rotated(q, positions, table, False, 48, True)
    torch.ops._C.rotary_embedding(positions, q, None, 64, table, False, 48, True)
    near(q, want, f32)


GATED = {
    "silu_and_mul": lambda a, b: F.silu(a) * b,
    "mul_and_silu": lambda a, b: a * F.silu(b),
    "gelu_and_mul": lambda a, b: F.gelu(a) * b,
    "gelu_tanh_and_mul": lambda a, b: F.gelu(a, approximate="tanh") * b,
}


@each_dtype
@pytest.mark.parametrize("name", GATED)
def test_activations(device, dtype, name):
    x = randn(7, 1024, dtype=dtype).to(device)
    out = torch.empty(7, 512, dtype=dtype, device=device)
    getattr(torch.ops._C, name)(out, x)
    near(out, GATED[name](*x.cpu().float().split(512, -1)), dtype)


@each_dtype
def test_activations_with_numbers(device, dtype):
    x, out = randn(7, 1024, dtype=dtype).to(device), torch.empty(7, 512, dtype=dtype,
                                                                 device=device)
    a, b = x.cpu().float().split(512, -1)
    torch.ops._C.fatrelu_and_mul(out, x, 0.7)
    near(out, torch.where(a > torch.tensor(0.7).to(dtype).float(), a, torch.zeros(())) * b, dtype)
    gate, up = x.cpu().float()[:, ::2].clamp(max=1.5), x.cpu().float()[:, 1::2].clamp(-1.5, 1.5)
    torch.ops._C.swigluoai_and_mul(out, x, 1.702, 1.5)
    near(out, (up + 1) * gate * torch.sigmoid(1.702 * gate), dtype)
    torch.ops._C.swigluoai_and_mul(out, x)
    limit = F.silu(a.clamp(max=1.5)) * b.clamp(-1.5, 1.5)
    torch.ops._C.silu_and_mul_with_clamp(out, x, 1.5)
    near(out, limit, dtype)
    if NEW:
        torch.ops._C.silu_and_mul_with_clamp(out, x, 1.5, 2.0, 0.5)
        a, b = a.clamp(max=1.5), b.clamp(-1.5, 1.5)
        near(out, a * torch.sigmoid(2 * a) * (b + 0.5), dtype)


@each_dtype
def test_int8_codes(device, dtype):
    x = randn(2, 3, 96, dtype=dtype).to(device)
    codes = torch.empty(2, 3, 96, dtype=torch.int8, device=device)
    scale = torch.tensor([[0.02]], device=device)
    torch.ops._C.static_scaled_int8_quant(codes, x, scale, None)
    want = torch.clamp(torch.round(x.float() * (1 / scale)), -128, 127)
    assert (codes.float() - want).abs().max() <= 1
    scales, zero = torch.empty(6, 1, device=device), torch.empty(6, 1, dtype=torch.int32,
                                                                 device=device)
    torch.ops._C.dynamic_scaled_int8_quant(codes, x, scales, zero)
    back = scales.view(2, 3, 1) * (codes.float() - zero.view(2, 3, 1).float())
    assert ((back - x.float()).abs() <= scales.view(2, 3, 1) * 0.51).all()
