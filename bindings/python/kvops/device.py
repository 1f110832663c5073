# Devices, memory and streams for programs without a GPU framework: include/kvcache_ops/device.h.
#
# Buffers free themselves. Copies are queued on the given stream; the ones from and to NumPy arrays
# are complete on return.
import ctypes
from typing import NamedTuple

from . import _tensor
from ._library import CDevice, CDeviceInfo, check, lib
from ._tensor import DTYPE_INFO, Tensor, dense, device_pair, dtype_number, stream_handle

_STORAGE = {1: "uint8", 2: "uint16"}  # of dtypes that NumPy does not have


class DeviceInfo(NamedTuple):
    """kvops_device_info; fp8_e4m3 names the dtype that "fp8" means on the device."""

    name: str
    arch: str
    memory_bytes: int
    cache_bytes: int
    compute_units: int
    warp_size: int
    fp8_e4m3: str


def device_count(kind):
    """Devices of "cpu", "cuda" or "hip" in this process; 0 without a driver."""
    count = ctypes.c_int32()
    check(lib.kvops_device_count(device_pair(kind)[0], ctypes.byref(count)))
    return count.value


def device_info(device="cpu"):
    """DeviceInfo of "cuda:0"; Error with UNAVAILABLE when there is no such device."""
    info = CDeviceInfo(struct_size=ctypes.sizeof(CDeviceInfo))
    check(lib.kvops_get_device_info(CDevice(*device_pair(device)), ctypes.byref(info)))
    fp8 = DTYPE_INFO.get(info.fp8_e4m3, ("",))[0]
    return DeviceInfo(info.name.decode(), info.arch.decode(), info.memory_bytes, info.cache_bytes,
                      info.compute_units, info.warp_size, fp8)


class Stream:
    """A stream of its own; handle is the cudaStream_t, None on the CPU."""

    def __init__(self, device):
        self.device = device_pair(device)
        handle = ctypes.c_void_p()
        check(lib.kvops_stream_create(CDevice(*self.device), ctypes.byref(handle)))
        self.handle = handle.value

    def synchronize(self):
        """Waits for all that is queued on it."""
        synchronize(self.device, self.handle)

    def __del__(self):
        if getattr(self, "handle", None):
            lib.kvops_stream_destroy(CDevice(*self.device), self.handle)


def synchronize(device="cpu", stream=None):
    """Waits for a stream; None: the default stream of the device."""
    handle = stream_handle(stream)
    check(lib.kvops_stream_synchronize(CDevice(*device_pair(device)), handle))


class _Memory:
    """An allocation; freed with the last Tensor that holds it."""

    def __init__(self, device, nbytes, pinned):
        self.device = CDevice(*device)
        self.free = lib.kvops_free_pinned if pinned else lib.kvops_free
        allocate = lib.kvops_malloc_pinned if pinned else lib.kvops_malloc
        address = ctypes.c_void_p()
        check(allocate(self.device, nbytes, ctypes.byref(address)))
        self.address = address.value

    def __del__(self):
        if getattr(self, "address", None):
            self.free(self.device, self.address)


def empty(shape, dtype, device="cpu", pinned=False):
    """A dense Tensor in new memory, 256-byte aligned.

    pinned: CPU memory that `device` reaches without staging.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    number, place = dtype_number(dtype), device_pair(device)
    nbytes = DTYPE_INFO[number][1]
    for extent in shape:
        nbytes *= extent
    memory = _Memory(place, nbytes, pinned)
    where = (_tensor.CPU, 0) if pinned else place
    return Tensor(memory.address, number, shape, None, where, None, memory)


def workspace(op, *, device="cpu", stream=None, **arguments):
    """A workspace (or plan) Tensor of the size that this call needs, ready to be passed."""
    from .operators import query

    return empty(query(op, stream=stream, **arguments).bytes, "u8", device)


def _dense(described, what):
    if any(extent > 1 and stride != step for extent, stride, step in zip(
            described.shape, described.strides, dense(described.shape))):
        raise _tensor.Error(f"{what} is not dense: copy it by rows")


def copy(target, source, stream=None):
    """Copies bytes between dense arrays and Tensors of the same size, on a device and the CPU.

    Queued on `stream`; a copy to CPU memory is complete on return.
    """
    target, source = _tensor.tensor(target), _tensor.tensor(source)
    _dense(target, "target")
    _dense(source, "source")
    if target.nbytes != source.nbytes:
        raise _tensor.Error(f"target has {target.nbytes} bytes, source {source.nbytes}")
    if not target.writable:
        raise _tensor.Error("target is read-only")
    place = target.device if target.device[0] != _tensor.CPU else source.device
    handle = stream_handle(stream)
    check(lib.kvops_copy(CDevice(*place), handle, target.data, source.data, target.nbytes))
    if target.device != place:
        synchronize(place, handle)


def to_device(array, device, dtype=None, stream=None):
    """A dense copy of a NumPy array on a device; bf16 and fp8 as in kvops.tensor()."""
    import numpy

    source = numpy.ascontiguousarray(array).reshape(numpy.shape(array))
    described = _tensor.tensor(source, dtype)
    result = empty(described.shape, described.dtype, device)
    handle = stream_handle(stream)
    check(lib.kvops_copy(CDevice(*result.device), handle, result.data, described.data,
                         described.nbytes))
    synchronize(result.device, handle)
    result.stream = handle
    return result


def to_numpy(described, stream=None):
    """A NumPy copy of a dense Tensor; bf16 and fp8 come as bit patterns in uint16 and uint8."""
    import numpy

    name, size = DTYPE_INFO[described.dtype]
    _dense(described, "the tensor")
    numpy_names = {short: full for full, short in _tensor._NUMPY_NAMES.items()}
    native = name in ("f32", "f16", "u8", "i8", "i32", "i64")
    result = numpy.empty(described.shape, numpy_names[name] if native else _STORAGE[size])
    handle = described.stream if stream is None else stream_handle(stream)
    check(lib.kvops_copy(CDevice(*described.device), handle, result.ctypes.data, described.data,
                         described.nbytes))
    synchronize(described.device, handle)
    return result
