# Calling: errors, enums, queries, prepared calls, threads, and that no operator is named in the
# package.
import inspect
import pathlib
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import kvops


def arrays(rows=4, d=32):
    x = np.random.RandomState(rows).randn(rows, d).astype(np.float32)
    return x, np.empty_like(x)


def test_the_sentence_is_the_librarys():
    x, out = arrays()
    with pytest.raises(kvops.Error) as caught:
        kvops.rms_norm(input=x, weight=np.ones(31, np.float32), out=out)
    error = caught.value
    assert str(error) == "rms_norm: weight: shape[0] is 31, expected 32 (d, as input.shape[1])"
    assert (error.op, error.argument, error.element) == ("rms_norm", "weight", -1)
    assert error.status is kvops.Status.INVALID_ARGUMENT
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.argument) == (str(error), "weight")
    with pytest.raises(kvops.Error, match="^rms_norm: out: ") as caught:
        kvops.rms_norm(input=x)
    assert caught.value.argument == "out"


def test_unknown_names():
    x, out = arrays()
    with pytest.raises(TypeError, match="unknown argument 'eps', expected some of input weight"):
        kvops.rms_norm(input=x, out=out, eps=1e-6)
    with pytest.raises(kvops.Error, match='there is no operator "rms_nrom"') as caught:
        kvops.prepare("rms_nrom", input=x)
    assert caught.value.status == kvops.Status.UNSUPPORTED
    with pytest.raises(kvops.Error, match='format: is "nvfp5", expected one of plain nvfp4 nvfp4_'):
        kvops.reshape_and_cache_flash(format="nvfp5")
    with pytest.raises(kvops.Error, match="epsilon: is a str, expected a number"):
        kvops.rms_norm(input=x, out=out, epsilon="small")
    with pytest.raises(kvops.Error, match="head_size: is a float, expected an integer"):
        kvops.rotary_embedding(head_size=64.0)


def test_enum_values_go_by_name():
    op = kvops.ops["reshape_and_cache_flash"]
    args, _ = op.pack({"format": "nvfp4_4over6", "v_scale_layout": "linear"}, None)
    assert (args.format, args.v_scale_layout) == (2, 2)
    grouped, _ = kvops.ops["concat_and_cache_mla_grouped"].pack({"cache_dtype": "f8_e4m3"}, None)
    assert grouped.cache_dtype == 4
    flags, _ = kvops.ops["rotary_embedding"].pack({"is_neox": True, "inverse": np.int64(1)}, None)
    assert (flags.is_neox, flags.inverse) == (1, 1)
    for op in kvops.ops.values():
        for argument in op.arguments.values():
            if re.match("[a-z]", argument.shape) and argument.kind == 3 and not argument.type:
                assert argument.values, f"{op.name}.{argument.name} lost its names"


def test_query_runs_nothing_and_needs_no_memory():
    x, out = arrays()
    before = out.copy()
    found = kvops.query("rms_norm", input=x, out=out, epsilon=1e-6)
    assert np.array_equal(before, out, equal_nan=True)
    assert found.bytes == 0 and found.deterministic and found.implementation
    shape = kvops.Tensor(None, "bf16", (16, 4096))
    assert kvops.query(kvops.rms_norm, input=shape, out=shape) == found
    with pytest.raises(kvops.Error, match="out: shape"):
        kvops.query("rms_norm", input=x, out=out[:2])


def test_prepared_call():
    x, out = arrays()
    weight = np.full(32, 2, np.float32)
    call = kvops.prepare("rms_norm", input=x, out=out, epsilon=1e-6)
    call()
    first = out.copy()
    x *= -1
    call()
    assert np.array_equal(out, -first)
    call.set(weight=weight)
    del weight  # the call keeps it
    call()
    assert np.array_equal(out, -2 * first)
    call.set(weight=None)
    call()
    assert np.array_equal(out, -first)
    with pytest.raises(kvops.Error, match="input: dtype is float64"):
        call.set(epsilon=5.0, input=x.astype(np.float64))
    assert call.args.epsilon == 1e-6, "a refused set() changes nothing"
    call.set(out=np.empty((5, 32), np.float32))
    with pytest.raises(kvops.Error, match="out: shape"):
        call()


def test_threads_have_their_own_errors_and_results():
    failures = []

    def work(seed):
        x, out = arrays(seed + 1)
        call = kvops.prepare("rms_norm", input=x, out=out, epsilon=1e-6)
        want = None
        for _ in range(200):
            call()
            want = out.copy() if want is None else want
            wrong = np.ones(seed + 1, np.float32)
            try:
                kvops.rms_norm(input=x, weight=wrong, out=out)
                failures.append(f"{seed}: accepted")
            except kvops.Error as error:
                if f"shape[0] is {seed + 1}, expected 32" not in str(error):
                    failures.append(f"{seed}: {error}")
            if not np.array_equal(out, want):
                failures.append(f"{seed}: other bits")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_documentation_comes_from_the_header():
    assert "1 / sqrt(sum_j input[j]^2 / d + epsilon)" in kvops.rms_norm.__doc__
    assert "weight: [d] or [n, d] T or f32, opt" in kvops.rms_norm.__doc__
    names = list(inspect.signature(kvops.rms_norm).parameters)
    assert names == ["input", "weight", "out", "epsilon", "stream"]
    for name, op in kvops.ops.items():
        function = getattr(kvops, name)
        assert len(function.__doc__) > 100 and function.__name__ == name
        assert set(inspect.signature(function).parameters) == {*op.arguments, "stream"}


def test_no_operator_has_code_of_its_own():
    package = pathlib.Path(kvops.__file__).parent
    for file in package.glob("*.py"):
        text = re.sub(r'""".*?"""|#.*', "", file.read_text(), flags=re.S)
        named = [name for name in kvops.ops if name in text]
        assert not named, f"{file.name} names {named}"


def test_a_prepared_call_costs_at_most_two_microseconds():
    """The promise of prepare(); the best of a few tries, as other programs run, too."""
    import bench_calls

    for _ in range(5):
        time = bench_calls.measure()["prepared call"]
        if time <= 2:
            break
    assert time <= 2


def test_settings():
    lines = []
    kvops.set_log(lines.append)
    kvops.set_option("debug", "log")
    try:
        x, out = arrays()
        kvops.rms_norm(input=x, out=out)
    finally:
        kvops.set_option("debug", "")
        kvops.set_log(None)
    assert len(lines) == 1 and lines[0].startswith("rms_norm")
    with pytest.raises(kvops.Error, match='name: is "speed", expected one of'):
        kvops.set_option("speed", "11")
    kvops.set_num_threads(2)
    kvops.set_num_threads(0)


def test_devices():
    assert kvops.device_count("cpu") == 1
    info = kvops.device_info("cpu")
    assert info.name and info.arch and info.compute_units >= 1 and info.fp8_e4m3 == "f8_e4m3"
    with pytest.raises(kvops.Error, match="device: index is 999") as caught:
        kvops.device_info("cpu:999")
    assert caught.value.status == kvops.Status.UNAVAILABLE
    with pytest.raises(kvops.Error, match="device is 'gpu', expected cpu, cuda:N or hip:N"):
        kvops.device_info("gpu")
    if not kvops.device_count("cuda"):
        shape = kvops.Tensor(None, "f32", (2, 2), device="cuda:0")
        with pytest.raises(kvops.Error) as caught:
            kvops.query("rms_norm", input=shape, out=shape)
        assert caught.value.status in (kvops.Status.UNAVAILABLE, kvops.Status.UNSUPPORTED)


def test_a_missing_library_says_what_to_do():
    code = "import kvops"
    env = {"KVOPS_LIBRARY": "nowhere/libkvops.so",
           "PYTHONPATH": str(pathlib.Path(kvops.__file__).parent.parent)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 1
    assert "ImportError: kvops: cannot load nowhere/libkvops.so" in run.stderr
    assert "KVOPS_LIBRARY" in run.stderr
