"""oneDNN beside another copy of itself: PyTorch's, or the system's with symbols for everybody."""
import subprocess
import sys

import pytest

# Products by kvops and by the other, before and after both are loaded; right or an exception.
SCRIPT = """
import ctypes, sys
import numpy as np

def ours():
    import kvops
    rng = np.random.RandomState(1)
    w, x = rng.rand(300, 200).astype(np.float32), rng.rand(40, 300).astype(np.float32)
    handle, out = np.zeros((), np.int64), np.empty((40, 200), np.float32)
    kvops.create_onednn_mm(weight=w, handle=handle)
    kvops.onednn_mm(input=x, out=out, handle=int(handle))
    assert np.abs(out - x @ w).max() < 1e-3
    kvops.release_dnnl_matmul_handler(handle=int(handle))

def torch():
    sys.path.append("/usr/lib/python3/dist-packages")   # Debian's python3-torch
    import torch
    conv = torch.nn.Conv2d(8, 16, 3)   # runs on the oneDNN inside PyTorch
    y = conv(torch.ones(1, 8, 20, 20))
    one = (conv.weight.sum((1, 2, 3)) + conv.bias).reshape(1, 16, 1, 1)
    assert (y - one).abs().max() < 1e-3

def system():
    library = ctypes.CDLL("libdnnl.so.2", ctypes.RTLD_GLOBAL)
    engine = ctypes.c_void_p()
    assert library.dnnl_engine_create(ctypes.byref(engine), 1, ctypes.c_size_t(0)) == 0

for name in sys.argv[1:]:
    globals()[name]()
"""


def run(*order):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *order], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", [("torch", "ours"), ("ours", "torch")])
def test_onednn_lives_beside_the_one_in_torch(order):
    look = "import sys; sys.path.append('/usr/lib/python3/dist-packages'); import torch"
    if subprocess.run([sys.executable, "-c", look], capture_output=True).returncode:
        pytest.skip("PyTorch is not installed")
    run(*order, *order)


@pytest.mark.parametrize("order", [("system", "ours"), ("ours", "system")])
def test_onednn_lives_beside_another_version_with_global_symbols(order):
    found = subprocess.run([sys.executable, "-c", "import ctypes; ctypes.CDLL('libdnnl.so.2')"],
                           capture_output=True)
    if found.returncode:
        pytest.skip("the system has no libdnnl.so.2")
    run(*order, *order)
