# DLPack: both capsule forms, offsets, absent strides, read-only memory, lifetimes, streams, and
# what has no counterpart.
import gc

import numpy as np
import pytest

import kvops
from conftest import Producer, rms_norm

F32, BF16, U8 = (2, 32), (4, 16), (1, 8)


@pytest.fixture
def x(rng):
    return rng.randn(4, 32).astype(np.float32)


def check(given, x):
    out = np.zeros(x.shape, np.float32)
    kvops.rms_norm(input=given, out=out, epsilon=1e-6)
    np.testing.assert_allclose(out, rms_norm(x, None, 1e-6), rtol=1e-6)


@pytest.mark.parametrize("versioned", [True, False])
def test_both_capsules(x, versioned):
    producer = Producer(x, *F32, versioned=versioned)
    check(producer, x)
    gc.collect()
    assert producer.released == 1, "the capsule is released after the call"
    assert producer.asked == ({"max_version": (1, 1)} if versioned else {})


def test_numpys_own_export(x):
    class Foreign:
        def __dlpack__(self, **keywords):
            return x.__dlpack__(**keywords)

        def __dlpack_device__(self):
            return x.__dlpack_device__()

    check(Foreign(), x)


def test_offset_strides_and_results(rng, x):
    check(Producer(x, *F32, byte_offset=48), x)
    check(Producer(x, *F32, strides=False), x)
    wide = rng.randn(4, 80).astype(np.float32)
    check(Producer(wide[:, :32], *F32), wide[:, :32])
    out = np.zeros((4, 32), np.float32)
    kvops.rms_norm(input=x, out=Producer(out, *F32), epsilon=1e-6)
    np.testing.assert_allclose(out, rms_norm(x, None, 1e-6), rtol=1e-6)


def test_a_prepared_call_holds_the_memory(x):
    producer, out = Producer(x, *F32), np.zeros((4, 32), np.float32)
    call = kvops.prepare("rms_norm", input=producer, out=out)
    gc.collect()
    assert producer.released == 0
    call()
    del call
    gc.collect()
    assert producer.released == 1


def test_bytes_become_fp8_only_when_told():
    codes = np.zeros((2, 16), np.uint8)
    given = Producer(codes, *U8)
    assert kvops.tensor(given).dtype == kvops.tensor(codes).dtype
    named = kvops.tensor(given, dtype="f8_e4m3")
    assert (named.data, named.shape) == (codes.ctypes.data, (2, 16))
    assert repr(named).startswith("kvops.Tensor(f8_e4m3[2, 16]")
    with pytest.raises(kvops.Error, match="elements of u8 have 1 bytes, those of bf16 2"):
        kvops.tensor(given, dtype="bf16")


@pytest.mark.parametrize("code, bits, name", [
    (2, 32, "f32"), (2, 16, "f16"), (4, 16, "bf16"), (10, 8, "f8_e4m3"), (12, 8, "f8_e5m2"),
    (11, 8, "f8_e4m3fnuz"), (13, 8, "f8_e5m2fnuz"), (1, 8, "u8"), (0, 8, "i8"), (0, 32, "i32"),
    (0, 64, "i64")])
def test_every_dtype(code, bits, name):
    memory = np.zeros((2, 2), f"u{bits // 8}")
    assert f"({name}[2, 2]" in repr(kvops.tensor(Producer(memory, code, bits)))


def test_what_has_no_counterpart(x):
    def refused(match, producer):
        with pytest.raises(kvops.Error, match=match):
            kvops.tensor(producer)

    refused("DLPack dtype code 2 of 64 bits", Producer(x, 2, 64))
    refused("4 lanes", Producer(x, *F32, lanes=4))
    refused(r"lies on DLPack device \(7, 0\), expected CPU, CUDA or ROCm memory",
            Producer(x, *F32, device=(7, 0)))
    refused("speaks DLPack 2.0, expected 1.x", Producer(x, *F32, major=2))
    refused("rank is 7", Producer(np.zeros((1,) * 7, np.float32), *F32))
    with pytest.raises(kvops.Error, match="out: is read-only"):
        kvops.rms_norm(input=x, out=Producer(x, *F32, read_only=True))


def test_streams_reach_the_producer_and_the_struct(x):
    """No GPU is needed: the producer only claims to lie on one."""
    op = kvops.ops["rms_norm"]

    def described(device, stream, **keywords):
        producer = Producer(x, *F32, device=device, **keywords)
        args, owners = op.pack({"input": producer}, stream)
        return producer.asked.get("stream"), args.input

    asked, tensor = described((2, 1), None)
    assert asked == 1, "the legacy default stream of CUDA is called 1"
    assert (tensor.device_type, tensor.device_index, tensor.stream) == (2, 1, None)
    asked, tensor = described((2, 0), 0x7F00)
    assert (asked, tensor.stream) == (0x7F00, 0x7F00)
    asked, tensor = described((10, 3), None)
    assert (asked, tensor.device_type, tensor.device_index) == (0, 10, 3)
    assert described((13, 0), None)[1].device_type == 2, "managed memory is the GPU's"
    pinned_asked, pinned = described((3, 1), 0x7F00)
    assert (pinned_asked, pinned.device_type, pinned.device_index) == (None, 1, 0)
    assert pinned.stream is None, "CPU memory has no stream"

    class TorchStream:
        cuda_stream = 0xABC0

    class CudaCore:
        def __cuda_stream__(self):
            return (0, 0xDEF0)

    assert described((2, 0), TorchStream())[0] == 0xABC0
    assert described((2, 0), CudaCore())[1].stream == 0xDEF0
    with pytest.raises(kvops.Error, match="stream is a str, expected an address"):
        described((2, 0), "main")


def test_a_tensors_own_stream_wins():
    op = kvops.ops["rms_norm"]
    mine = kvops.Tensor(256, "f32", (2, 2), device="cuda:0", stream=0x10)
    free = kvops.Tensor(512, "f32", (2, 2), device="cuda:0")
    args, _ = op.pack({"input": mine, "out": free}, 0x20)
    assert (args.input.stream, args.out.stream) == (0x10, 0x20)
