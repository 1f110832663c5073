# NumPy arrays to a CUDA device and back, streams of our own, and what the library says to a mixture
# of devices. Skipped, with the reason, where there is no device.
import numpy as np
import pytest

import kvops

pytestmark = pytest.mark.skipif(not kvops.device_count("cuda"), reason="there is no CUDA device")


def call(x, out, **more):
    kvops.rms_norm(input=x, out=out, epsilon=1e-6, **more)


def test_the_same_numbers_as_on_the_cpu():
    x = np.random.RandomState(3).randn(33, 2048).astype(np.float32)
    want = np.empty_like(x)
    call(x, want)
    for stream in (None, kvops.Stream("cuda:0")):
        here = kvops.to_device(x, "cuda:0", stream=stream)
        out = kvops.empty(x.shape, "f32", "cuda:0")
        call(here, out, stream=stream)
        np.testing.assert_allclose(kvops.to_numpy(out, stream), want, rtol=4 * 2.0**-23)


def test_bit_patterns_and_prepared_calls():
    bits = np.arange(0x3F00, 0x3F00 + 512, dtype=np.uint16).reshape(4, 128)
    here = kvops.to_device(bits, "cuda:0", dtype="bf16")
    assert np.array_equal(kvops.to_numpy(here), bits)
    out = kvops.empty(bits.shape, "bf16", "cuda:0")
    prepared = kvops.prepare("rms_norm", input=here, out=out, epsilon=1e-6)
    prepared()
    first = kvops.to_numpy(out)
    prepared()
    assert np.array_equal(kvops.to_numpy(out), first) and first.any()
    found = kvops.query("rms_norm", input=here, out=out)
    assert found.graph_safe and found.deterministic and found.implementation


def test_devices_are_not_mixed():
    x = np.zeros((2, 64), np.float32)
    out = kvops.empty(x.shape, "f32", "cuda:0")
    with pytest.raises(kvops.Error, match="out: is on cuda:0, expected cpu:0"):
        call(x, out)


def test_a_device_says_what_it_is():
    info = kvops.device_info("cuda:0")
    assert info.name and info.arch.startswith("sm_") and info.memory_bytes > 1 << 30
    assert info.warp_size == 32 and info.fp8_e4m3 == "f8_e4m3"
