# What may be passed as a tensor: NumPy arrays of every dtype, strided views, relabelled integers,
# raw descriptors; each checked against float64.
import ml_dtypes
import numpy as np
import pytest

import kvops
from conftest import rms_norm

# One rounding of the result, and half a unit for the f32 arithmetic before it.
UNITS = {np.float32: 4 * 2.0**-23, np.float16: 2.0**-10, ml_dtypes.bfloat16: 2.0**-7}


@pytest.mark.parametrize("dtype", UNITS, ids=lambda t: t.__name__)
def test_every_float_dtype(rng, dtype):
    x = rng.randn(17, 96).astype(dtype)
    weight = rng.randn(96).astype(dtype)
    out = np.empty_like(x)
    kvops.rms_norm(input=x, weight=weight, out=out, epsilon=1e-5)
    np.testing.assert_allclose(out.astype(np.float64), rms_norm(x, weight, 1e-5),
                               rtol=UNITS[dtype], atol=1e-30)


def test_bit_patterns_are_the_same_call(rng):
    x = rng.randn(5, 64).astype(ml_dtypes.bfloat16)
    out, bits = np.empty_like(x), np.empty((5, 64), np.uint16)
    kvops.rms_norm(input=x, out=out, epsilon=1e-5)
    kvops.rms_norm(input=kvops.tensor(x.view(np.uint16), dtype="bf16"),
                   out=kvops.tensor(bits, dtype=ml_dtypes.bfloat16), epsilon=1e-5)
    assert np.array_equal(out.view(np.uint16), bits)


def test_views_are_not_copied(rng):
    x = rng.randn(8, 3, 64).astype(np.float32)
    out = np.zeros((4, 64, 2), np.float32)
    want = np.empty((4, 64), np.float32)
    kvops.rms_norm(input=np.ascontiguousarray(x[::-2, 1]), out=want, epsilon=1e-5)
    packed = np.zeros((4, 2, 64), np.float32)
    kvops.rms_norm(input=x[::-2, 1], out=packed[:, 1], epsilon=1e-5)
    assert np.array_equal(packed[:, 1], want) and not packed[:, 0].any()
    with pytest.raises(kvops.Error, match=r"out: stride\[1\] is 2, expected 1"):
        kvops.rms_norm(input=x[::-2, 1], out=out[..., 0], epsilon=1e-5)


def test_in_place_and_empty(rng):
    x = rng.randn(3, 32).astype(np.float32)
    want = rms_norm(x, None, 0)
    kvops.rms_norm(input=x, out=x)
    np.testing.assert_allclose(x, want, rtol=1e-6)
    none = np.empty((0, 32), np.float32)
    kvops.rms_norm(input=none, out=none)


def test_raw_descriptor(rng):
    x = rng.randn(6, 40).astype(np.float32)
    out = np.zeros((6, 32), np.float32)
    rows = kvops.Tensor(x.ctypes.data, "f32", (6, 32), strides=(40, 1))
    kvops.rms_norm(input=rows, out=out, epsilon=1e-6)
    np.testing.assert_allclose(out, rms_norm(x[:, :32], None, 1e-6), rtol=1e-6)
    assert repr(rows) == "kvops.Tensor(f32[6, 32]/[40, 1], cpu:0)"
    assert rows.nbytes == 6 * 32 * 4


def test_memory_of_the_library(rng):
    x = rng.randn(4, 32).astype(np.float32)
    here = kvops.to_device(x, "cpu")
    out = kvops.empty((4, 32), "f32")
    assert out.data % 256 == 0
    kvops.rms_norm(input=here, out=out, epsilon=1e-6)
    np.testing.assert_allclose(kvops.to_numpy(out), rms_norm(x, None, 1e-6), rtol=1e-6)
    bits = kvops.to_device(x.astype(ml_dtypes.bfloat16), "cpu")
    assert np.array_equal(kvops.to_numpy(bits), x.astype(ml_dtypes.bfloat16).view(np.uint16))


def refused(match, **arguments):
    with pytest.raises(kvops.Error, match=match) as caught:
        kvops.rms_norm(**arguments)
    assert caught.value.status == kvops.Status.INVALID_ARGUMENT
    assert caught.value.op == "rms_norm"
    return caught.value


def test_dtypes_are_never_guessed():
    good = np.zeros((2, 32), np.float32)
    error = refused('input: dtype is uint16, which may hold bf16 or f16: say which',
                    input=np.zeros((2, 32), np.uint16), out=good)
    assert error.argument == "input"
    refused("out: dtype is int16, which may", input=good, out=np.zeros((2, 32), np.int16))
    refused("input: dtype is float64, expected one of float32", input=good.astype(np.float64),
            out=good)
    refused("native byte order", input=good.astype(">f4"), out=good)
    refused("input: is a list, expected a NumPy array", input=[[1.0]], out=good)
    refused("input: is a float32, expected a NumPy array", input=np.float32(1), out=good)
    with pytest.raises(kvops.Error, match="elements of uint16 have 2 bytes, those of f8_e4m3 1"):
        kvops.tensor(np.zeros(4, np.uint16), dtype="f8_e4m3")
    with pytest.raises(kvops.Error, match="elements of f32 have 4 bytes, those of bf16 2"):
        kvops.tensor(good, dtype="bf16")
    with pytest.raises(kvops.Error, match="dtype is 'bf17', expected one of f32 f16 bf16"):
        kvops.tensor(np.zeros(4, np.uint16), dtype="bf17")


def test_shapes_that_cannot_be_described():
    good = np.zeros((2, 32), np.float32)
    refused("input: rank is 7, expected at most 6", input=np.zeros((1,) * 7, np.float32), out=good)
    raw = np.zeros(264, np.uint8)
    start = 1 - raw.ctypes.data % 4
    odd = raw[start % 4:][:256].view(np.float32).reshape(2, 32)
    refused("input: data is not aligned to its elements", input=odd, out=good)
    crooked = np.lib.stride_tricks.as_strided(good, (2, 4), (6, 4))
    refused("input: has a stride of 6 bytes, expected a multiple of 4", input=crooked, out=good)


def test_read_only_memory_is_not_written():
    good = np.zeros((2, 32), np.float32)
    locked = np.ones((2, 32), np.float32)
    locked.setflags(write=False)
    kvops.rms_norm(input=locked, out=good)
    error = refused("out: is read-only, but the operator writes it", input=good, out=locked)
    assert error.argument == "out"


def test_copies_between_arrays_and_tensors():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    there, back = kvops.empty(x.shape, "f32"), np.zeros_like(x)
    kvops.copy(there, x)
    kvops.copy(back, there)
    assert np.array_equal(back, x)
    with pytest.raises(kvops.Error, match="target has 48 bytes, source 36"):
        kvops.copy(there, x[:, :3].copy())
    with pytest.raises(kvops.Error, match="source is not dense"):
        kvops.copy(there, x[:, ::-1])
    back.setflags(write=False)
    with pytest.raises(kvops.Error, match="target is read-only"):
        kvops.copy(back, there)
