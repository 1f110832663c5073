"""KV-cache, paged-attention, norm, rotary and activation operators on NumPy and DLPack arrays.

    kvops.rms_norm(input=x, weight=w, out=y, epsilon=1e-6)

Every operator of libkvops.so is a function of keyword arguments; help(kvops.rms_norm) shows its
formula, shapes and dtypes. Optional tensors may be left out, numbers and enums default to 0, enum
values go by name (format="nvfp4"). A refused call raises kvops.Error with the library's sentence.

Tensors are NumPy arrays (bf16 and fp8: arrays with ml_dtypes' dtypes, or kvops.tensor(array,
dtype="bf16") over integers), DLPack objects (PyTorch, CuPy, JAX ...) or kvops.Tensor descriptors of
raw addresses. On a GPU the work is queued on `stream` (a keyword of every operator: an address or
a stream object of PyTorch or CuPy; None is the legacy default stream): pass the stream your
framework works on.
"""
from . import operators
from ._library import Error, Status, path as library_path, version
from ._tensor import Tensor, tensor
from .device import (
    DeviceInfo,
    Stream,
    copy,
    device_count,
    device_info,
    empty,
    synchronize,
    to_device,
    to_numpy,
    workspace,
)
from .operators import *  # noqa: F403
from .operators import Call, Operator, Query, call, ops, prepare, query, workspace_bytes
from .options import set_log, set_num_threads, set_option

__version__ = ".".join(str(part) for part in version())


def __getattr__(name):
    """kvops.torch, and PyTorch with it, is imported when it is first asked for."""
    if name == "torch":
        import importlib

        return importlib.import_module(".torch", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Call",
    "DeviceInfo",
    "Error",
    "Operator",
    "Query",
    "Status",
    "Stream",
    "Tensor",
    "call",
    "copy",
    "device_count",
    "device_info",
    "empty",
    "library_path",
    "ops",
    "prepare",
    "query",
    "set_log",
    "set_num_threads",
    "set_option",
    "synchronize",
    "tensor",
    "to_device",
    "to_numpy",
    "version",
    "workspace",
    "workspace_bytes",
    *operators.__all__,
]
