# What holds for every operator: it is there under vLLM's name, with a schema whose marks are true,
# it passes torch's own checks, and it gives on a GPU what it gives on the CPU, also in a graph.
import subprocess
import sys

import pytest
import torch

import kvops
import samples_cpu  # noqa: F401
from conftest import CUDA, DEVICES, REGISTERED, VERSION, kvops_name, runs_on
from kvops.torch.calls import Call
from kvops.torch.registration import _version_of
from samples import SAMPLES

NAMES = {s.name: s for s in REGISTERED}
CALLS = [(name, i, device) for name, made in SAMPLES.items() for i in range(len(made))
         for device in DEVICES if runs_on(name, device)]
IDS = [f"{name}-{SAMPLES[name][i][0]}-{device}" for name, i, device in CALLS]
each_call = pytest.mark.parametrize("name, i, device", CALLS, ids=IDS)
# Results that are sums or functions: f32 and 16-bit units; everything else is equal bit for bit.
CLOSE = {"rms_norm", "fused_add_rms_norm", "rotary_embedding", "silu_and_mul", "mul_and_silu",
         "gelu_and_mul", "gelu_tanh_and_mul", "swigluoai_and_mul", "silu_and_mul_with_clamp",
         "paged_attention_v1", "paged_attention_v2", "merge_attn_states"}


def operator(name):
    return getattr(getattr(torch.ops, NAMES[name].namespace), name)


def make(name, i, device):
    """The same values on every device."""
    torch.manual_seed(11)
    return SAMPLES[name][i][1](device)


def written(name):
    """Positions of the arguments that the schema marks."""
    schema = operator(name).default._schema
    return [n for n, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]


def test_every_operator_of_the_library_is_reached():
    names = {s.name for s in REGISTERED}
    assert {kvops_name(name) for name in names} >= set(kvops.ops)
    raw = {"swap_blocks_batch", "concat_and_cache_mla_grouped"}  # see test_cache.py
    without = {n for n in names if not any(x in operator_arguments(n) for x in ("Tensor",))}
    handles = {"create_onednn_mm_handler", "create_onednn_scaled_mm_handler"}
    assert set(SAMPLES) == names - raw - without - handles


def operator_arguments(name):
    return NAMES[name].text.partition(") ->")[0]


def test_importing_kvops_imports_no_torch():
    code = ("import sys, kvops; assert 'torch' not in sys.modules; kvops.torch.register(); "
            "assert 'torch' in sys.modules")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_registering_again():
    assert kvops.torch.register() == REGISTERED == kvops.torch.schemas(VERSION)
    assert kvops.torch.register(schema=VERSION, ds_mla_scale="pow2") == REGISTERED
    kvops.torch.register(ds_mla_scale="raw")
    other = next(v for v in kvops.torch.VERSIONS if v != VERSION)
    with pytest.raises(kvops.Error, match=f"{VERSION} is registered in this process"):
        kvops.torch.register(schema=other)
    with pytest.raises(kvops.Error, match="expected 2026-05 or 2026-09"):
        kvops.torch.register(schema="2025-08")
    with pytest.raises(kvops.Error, match="ds_mla_scale is 'amax', expected raw or pow2"):
        kvops.torch.register(ds_mla_scale="amax")


def test_the_installed_vllm_decides(tmp_path, monkeypatch):
    from kvops.torch import vllm_schemas as schemas
    writer = tmp_path / "vllm" / "models" / "deepseek_v32" / "common"
    writer.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "vllm" / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    assert (schemas.installed_schema(), schemas.installed_ds_mla_scale()) == ("2026-05", "raw")
    (tmp_path / "vllm" / "_custom_ops.py").write_text("def f(dynamic_causal): pass")
    (writer / "kernels.py").write_text("fp8_ds_mla: tl.maximum(a, 1.1754944e-38)")
    assert (schemas.installed_schema(), schemas.installed_ds_mla_scale()) == ("2026-09", "raw")
    (writer / "kernels.py").write_text("fp8_ds_mla: exp2(ceil(log2(a)))")
    assert schemas.installed_ds_mla_scale() == "pow2"


def test_a_schema_that_is_there_is_served_by_its_own_arguments():
    """As when vLLM's own operators are loaded: the version follows them, name by name."""
    for name in ("silu_and_mul_with_clamp", "cp_gather_and_upconvert_fp8_kv_cache"):
        for there in kvops.torch.VERSIONS:
            text = next(s for s in kvops.torch.schemas(there) if s.name == name)
            parsed = torch._C.parse_schema(f"{text.namespace}::{text.text}")
            assert all(_version_of(text, parsed, wanted) == there
                       for wanted in kvops.torch.VERSIONS)
    with pytest.raises(kvops.Error, match="arguments that neither version has"):
        _version_of(NAMES["silu_and_mul"], torch._C.parse_schema("_C::silu_and_mul(int a) -> ()"),
                    VERSION)


OVERRIDING = """
import torch
from torch.library import Library
theirs = Library("_C", "FRAGMENT")
theirs.define("silu_and_mul_with_clamp(Tensor! result, Tensor input, float limit) -> ()")
import kvops.torch
kvops.torch.register(schema="2026-09")
x, out = torch.randn(4, 64), torch.zeros(4, 32)
torch.ops._C.silu_and_mul_with_clamp(out, x, 1.0)
a, b = x.clamp(max=1.0)[:, :32], x.clamp(-1.0, 1.0)[:, 32:]
torch.testing.assert_close(out, torch.nn.functional.silu(a) * b)
assert len(torch.ops._C.silu_and_mul_with_clamp.default._schema.arguments) == 3
assert len(torch.ops._C.rms_norm.default._schema.arguments) == 4
"""


@pytest.mark.skipif(int(torch.__version__.partition(".")[0]) < 2,
                    reason="torch 2.0 is the first that lets two libraries define in a namespace")
def test_beside_operators_that_are_loaded():
    subprocess.run([sys.executable, "-W", "ignore", "-c", OVERRIDING], check=True)


@each_call
def test_marks_are_true(name, i, device):
    """What is marked is written, what is not keeps its bytes, and nothing is returned."""
    arguments, marked = make(name, i, device), written(name)
    before = [a.clone() if torch.is_tensor(a) else a for a in arguments]
    result = operator(name)(*arguments)
    if name == "get_scheduler_metadata":
        assert result.dtype == torch.int8 and result.data_ptr() % 64 == 0
    else:
        assert result is None
    scratch = 3 if name == "paged_attention_v2" else 0  # vLLM's, which is not used
    changed = [n for n, (a, b) in enumerate(zip(arguments, before))
               if torch.is_tensor(a) and not torch.equal(as_bytes(a), as_bytes(b))]
    given = [n for n in marked if arguments[n] is not None]
    assert changed == given[: len(given) - scratch]


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor


@each_call
@torch.inference_mode()  # torch 1.13 cannot skip its autograd over tensors without memory
def test_shapes_alone_run_nothing(name, i, device):
    if device != "cpu" or name == "get_scheduler_metadata":
        pytest.skip("one device is enough" if device != "cpu" else "see test_cpu.py")
    shapes = [a.to("meta") if torch.is_tensor(a) else a for a in make(name, i, device)]
    assert operator(name)(*shapes) is None


@pytest.mark.skipif(not hasattr(torch.library, "opcheck"), reason="torch 2.4 has the first opcheck")
@each_call
def test_opcheck(name, i, device):
    torch.library.opcheck(operator(name).default, tuple(make(name, i, device)))


def compare(name, ours, theirs, label):
    if name not in CLOSE:
        assert torch.equal(as_bytes(ours), as_bytes(theirs)), label
        return
    # Two ulps of 16 bits: a gate rounded the other way is one, times the other half and rounded.
    rtol = 2.0**-6 if ours.dtype == torch.bfloat16 else 2.0**-9
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=rtol, atol=1e-5)


@pytest.mark.skipif(not CUDA, reason="there is no CUDA device")
@each_call
def test_a_gpu_gives_what_the_cpu_gives(name, i, device):
    if device == "cpu":
        pytest.skip("this is what it is compared with")
    here, there = make(name, i, "cuda"), make(name, i, "cpu")
    operator(name)(*here)
    operator(name)(*there)
    if name.startswith("top_k"):
        for n in written(name):  # in any order
            assert torch.equal(here[n].cpu().sort()[0], there[n].sort()[0])
        return
    # Where nvfp4 puts V's scales is the reader's choice, and a GPU's reader has another one.
    nvfp4 = "nvfp4" in SAMPLES[name][i][0] and name == "reshape_and_cache_flash"
    for n in written(name)[:1 if name == "paged_attention_v2" or nvfp4 else None]:
        if there[n] is not None:
            compare(name, here[n].cpu(), there[n], f"argument {n}")


@pytest.mark.skipif(not CUDA, reason="there is no CUDA device")
@each_call
def test_a_graph_replays(name, i, device):
    if device == "cpu" or name == "swap_blocks":
        pytest.skip("graphs are the GPU's" if device == "cpu" else "host memory, read at once")
    arguments, fresh = make(name, i, "cuda"), make(name, i, "cuda")
    operator(name)(*make(name, i, "cuda"))  # what is set up once is set up before
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        operator(name)(*arguments)
    graph.replay()
    operator(name)(*fresh)
    torch.cuda.synchronize()
    for n in written(name)[:1 if name == "paged_attention_v2" else None]:
        if fresh[n] is not None:
            same = [as_bytes(t.sort()[0] if name.startswith("top_k") else t)
                    for t in (arguments[n], fresh[n])]
            assert torch.equal(*same)


def test_the_library_refuses_in_its_own_words():
    x, out = torch.zeros(4, 64), torch.zeros(4, 64)
    with pytest.raises(RuntimeError, match=r"rms_norm: weight: shape\[0\] is 3, expected 64"):
        torch.ops._C.rms_norm(out, x, torch.zeros(3), 1e-6)
    with pytest.raises(kvops.Error, match="rms_norm: input: dtype is torch.float64, which has no"):
        torch.ops._C.rms_norm(out, x.double(), torch.zeros(64), 1e-6)
    with pytest.raises(kvops.Error, match="silu_and_mul: input: rank is 7, expected at most 6"):
        torch.ops._C.silu_and_mul(x, x[(None,) * 5])


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="torch 2.0 has the first compiler")
def test_compiled_functions_call_the_operators(device):
    def function(x, weight, residual):
        torch.ops._C.fused_add_rms_norm(x, residual, weight, 1e-6)
        out = torch.empty(x.shape[0], x.shape[1] // 2, device=x.device)
        torch.ops._C.silu_and_mul(out, x * 2)
        return out + 1

    torch.manual_seed(1)
    made = [torch.randn(3, 64).to(device), torch.ones(64).to(device), torch.randn(3, 64).to(device)]
    again = [t.clone() for t in made]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*made), function(*again))
    assert all(torch.equal(a, b) for a, b in zip(made, again)), "inputs are written in both"


def test_nothing_to_do(device):
    """No tokens, no rows, no requests: an empty call succeeds and writes nothing."""
    def empty(*shape, dtype=torch.float32):
        return torch.zeros(shape, dtype=dtype, device=device)

    main, cache = torch.ops._C, torch.ops._C_cache_ops
    main.rms_norm(empty(0, 64), empty(0, 64), empty(64), 1e-6)
    main.fused_add_rms_norm(empty(0, 64), empty(0, 64), empty(64), 1e-6)
    main.silu_and_mul(empty(0, 32), empty(0, 64))
    main.rotary_embedding(empty(0, dtype=torch.int64), empty(0, 128), empty(0, 64), 64,
                          empty(9, 64), True)
    slots, one = empty(0, dtype=torch.int64), torch.ones(1, device=device)
    for op, caches in (("reshape_and_cache", ((2, 1, 16, 8, 4), (2, 1, 64, 8))),
                       ("reshape_and_cache_flash", ((2, 8, 1, 64),) * 2)):
        caches = [empty(*shape) + 3 for shape in caches]
        getattr(cache, op)(empty(5, 1, 64), empty(5, 1, 64), *caches, slots, "auto", one, one)
        assert all((c == 3).all() for c in caches)
    cache.concat_and_cache_mla(empty(0, 512), empty(0, 64), empty(2, 8, 576), slots, "auto", one)
    half = torch.float16
    cache.concat_mla_q(empty(0, 4, 512, dtype=half), empty(0, 4, 64, dtype=half),
                       empty(0, 4, 576, dtype=half))


@pytest.mark.skipif(not hasattr(torch, "set_default_device"), reason="torch 2.0 has the first")
def test_a_default_device_changes_nothing():
    """vLLM's tests set one; plans and handles stay on the CPU."""
    arguments = make("get_scheduler_metadata", 0, "cpu")
    torch.set_default_device("cuda" if CUDA else "meta")
    try:
        handle = torch.ops._C.create_onednn_mm_handler(torch.ones(8, 4, device="cpu"), 2)
        out = torch.empty(3, 4, device="cpu")
        torch.ops._C.onednn_mm(out, torch.ones(3, 8, device="cpu"), None,
                               torch.tensor(handle, device="cpu"))
        plan = operator("get_scheduler_metadata")(*arguments)
        assert (out == 8).all() and plan.device.type == "cpu"
    finally:
        torch.set_default_device("cpu")


def test_structs_are_shared_by_no_two_calls():
    call = Call("silu_and_mul")
    first, second = call._take(), call._take()
    assert first[0] is not second[0]
    call._free.append(first)
    assert call._take()[0] is first[0]


def test_a_form_sees_every_change():
    """Another shape, stride, dtype or address of the same tensors is another call."""
    op, weight = torch.ops._C.rms_norm, torch.ones(64)
    x, out = torch.randn(8, 128), torch.zeros(8, 64)

    def check(x, out, weight=weight):
        out.fill_(7)
        op(out, x, weight, 1e-6)
        want = x.double() * torch.rsqrt((x.double() ** 2).mean(-1, keepdim=True) + 1e-6)
        torch.testing.assert_close(out.double(), want, rtol=1e-2, atol=1e-2)

    for _ in range(2):
        check(x[:, :64], out)
        check(x[:, 64:], out)
        check(x[:4, :64], out[:4])
        check(x[:4, :64].contiguous(), out[4:])
        check(x[:, :64].bfloat16(), out.bfloat16(), weight.bfloat16())
    with pytest.raises(kvops.Error, match="out: shape"):
        op(out[:4], x[:, :64], weight, 1e-6)
    same = x[:, :64]
    check(same, out)
    same.data = torch.randn(8, 64)
    check(same, out)
    for rows in range(1, 600):  # more layouts than are kept
        op(torch.zeros(rows, 1), torch.ones(rows, 1), torch.ones(1), 0.0)
    check(same, out)


def test_threads():
    from concurrent.futures import ThreadPoolExecutor

    def work(seed):
        x = torch.full((3, 64), float(seed + 1))
        for _ in range(300):
            out = torch.zeros(3, 32)
            torch.ops._C.mul_and_silu(out, x)
            assert torch.equal(out, expected[seed])
        return True

    expected = [torch.zeros(3, 32) for _ in range(8)]
    for seed, out in enumerate(expected):
        torch.ops._C.mul_and_silu(out, torch.full((3, 64), float(seed + 1)))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
