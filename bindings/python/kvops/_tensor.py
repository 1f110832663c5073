# What a caller passes as a tensor, turned into the 128 bytes of kvops_tensor.
#
# NumPy arrays (bf16 and fp8 by the dtype names that ml_dtypes uses), DLPack objects, and Tensor
# descriptors of raw addresses. A dtype is never guessed: 16-bit integers need kvops.tensor(array,
# dtype=...). DLPack capsules stay unconsumed; holding one holds its memory.
import ctypes
import struct
import sys

from ._library import Error, lib

MAX_RANK = 6
CPU, CUDA, HIP = 1, 2, 10
DEVICE_TYPES = {"cpu": CPU, "cuda": CUDA, "hip": HIP}
DEVICE_NAMES = {number: name for name, number in DEVICE_TYPES.items()}

# name -> number and number -> (name, size), from the library
DTYPES, DTYPE_INFO = {}, {}
_number = 1
while lib.kvops_dtype_size(_number):
    _name = lib.kvops_dtype_name(_number).decode()
    DTYPES[_name] = _number
    DTYPE_INFO[_number] = _name, lib.kvops_dtype_size(_number)
    _number += 1

# How NumPy and ml_dtypes call them
_NUMPY_NAMES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8_e4m3",
    "float8_e5m2": "f8_e5m2",
    "float8_e4m3fnuz": "f8_e4m3fnuz",
    "float8_e5m2fnuz": "f8_e5m2fnuz",
    "uint8": "u8",
    "int8": "i8",
    "int32": "i32",
    "int64": "i64",
}
_ALIASES = {**_NUMPY_NAMES, "float8_e4m3": "f8_e4m3"}

# DLPack's (code, bits)
_DLPACK_DTYPES = {
    (2, 32): "f32",
    (2, 16): "f16",
    (4, 16): "bf16",
    (10, 8): "f8_e4m3",
    (12, 8): "f8_e5m2",
    (11, 8): "f8_e4m3fnuz",
    (13, 8): "f8_e5m2fnuz",
    (1, 8): "u8",
    (0, 8): "i8",
    (0, 32): "i32",
    (0, 64): "i64",
}
# DLPack's device type -> ours; pinned host memory is CPU memory, managed memory the GPU's
_DLPACK_DEVICES = {1: CPU, 2: CUDA, 3: CPU, 10: HIP, 11: CPU, 13: CUDA}

_PACK = struct.Struct("=QiiiiqqqqqqqqqqqqQ")
assert _PACK.size == 128
_ZEROS = (0,) * MAX_RANK


def dtype_number(dtype):
    """The library's number of "bf16", "bfloat16", a NumPy dtype, or that number itself."""
    if isinstance(dtype, int):
        if dtype in DTYPE_INFO:
            return dtype
    else:
        name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None)
        if name is None:
            name = getattr(dtype, "__name__", "")  # np.float32, ml_dtypes.bfloat16
        number = DTYPES.get(_ALIASES.get(name, name))
        if number:
            return number
    raise Error(f"dtype is {dtype!r}, expected one of {' '.join(DTYPES)}")


def device_pair(device):
    """(type, index) of "cpu", "cuda:1", or such a pair."""
    if isinstance(device, tuple) and len(device) == 2:
        return device
    name, _, index = str(device).partition(":")
    if name not in DEVICE_TYPES or (index and not index.isdigit()):
        raise Error(f"device is {device!r}, expected cpu, cuda:N or hip:N")
    return DEVICE_TYPES[name], int(index or 0)


def stream_handle(stream):
    """The address behind an int, a Stream, or what CUDA libraries call a stream."""
    if stream is None or isinstance(stream, int):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return (protocol() if callable(protocol) else protocol)[1]
    for attribute in ("handle", "cuda_stream", "ptr"):
        value = getattr(stream, attribute, None)
        if isinstance(value, int):
            return value
    raise Error(f"stream is a {type(stream).__name__}, expected an address or a stream object")


class Tensor:
    """A descriptor of memory that somebody else owns.

    data: an address, None for a question without memory; strides in elements (default: dense);
    stream: the one on which the data is valid, None: that of the call.
    """

    __slots__ = ("data", "dtype", "shape", "strides", "device", "stream", "owner", "writable")

    def __init__(self, data, dtype, shape, strides=None, device="cpu", stream=None, owner=None):
        self.data = data or 0
        self.dtype = dtype_number(dtype)
        self.shape = tuple(shape)
        if len(self.shape) > MAX_RANK:
            raise Error(f"rank is {len(self.shape)}, expected at most {MAX_RANK}")
        self.strides = dense(self.shape) if strides is None else tuple(strides)
        if len(self.strides) != len(self.shape):
            raise Error(f"has {len(self.strides)} strides, expected {len(self.shape)}")
        self.device = device_pair(device)
        self.stream = stream_handle(stream)
        self.owner = owner
        self.writable = True

    def __repr__(self):
        device = f"{DEVICE_NAMES.get(self.device[0], '?')}:{self.device[1]}"
        name = DTYPE_INFO[self.dtype][0]
        return f"kvops.Tensor({name}{list(self.shape)}/{list(self.strides)}, {device})"

    @property
    def nbytes(self):
        """Bytes of the elements, without gaps."""
        count = DTYPE_INFO[self.dtype][1]
        for extent in self.shape:
            count *= extent
        return count


def dense(shape):
    """Row-major strides, in elements."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def tensor(array, dtype=None, stream=None):
    """Describes an array, with another dtype of the same size if `dtype` names one.

    kvops.tensor(x.view(np.uint16), dtype="bf16") passes bit patterns; the memory is not copied.
    """
    if isinstance(array, Tensor):
        described = array
    elif _is_numpy(array):
        described = _from_numpy(array, dtype)
    elif hasattr(array, "__dlpack__"):
        described = _from_dlpack(array, stream_handle(stream))
    else:
        raise Error(
            f"is a {type(array).__name__}, expected a NumPy array, a DLPack object or a "
            "kvops.Tensor"
        )
    if dtype is None:
        return described
    number = dtype_number(dtype)
    have, want = DTYPE_INFO[described.dtype], DTYPE_INFO[number]
    if have[1] != want[1]:
        raise Error(f"elements of {have[0]} have {have[1]} bytes, those of {want[0]} {want[1]}")
    result = Tensor(
        described.data,
        number,
        described.shape,
        described.strides,
        described.device,
        stream if stream is not None else described.stream,
        described.owner,
    )
    result.writable = described.writable
    return result


def _is_numpy(value):
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


_known = {}  # np.dtype -> number: the name of a dtype is slow to get


def _numpy_dtype(dtype, relabel):
    name = _NUMPY_NAMES.get(dtype.name)
    if name and dtype.isnative:
        _known[dtype] = DTYPES[name]
        return DTYPES[name]
    if relabel is not None and dtype.kind in "iuV":
        number = dtype_number(relabel)
        if DTYPE_INFO[number][1] == dtype.itemsize:
            return number
        raise Error(
            f"elements of {dtype} have {dtype.itemsize} bytes, those of {relabel} "
            f"{DTYPE_INFO[number][1]}"
        )
    if dtype.kind in "iu" and dtype.itemsize == 2:
        raise Error(
            f"dtype is {dtype}, which may hold bf16 or f16: say which, "
            'kvops.tensor(array, dtype="bf16")'
        )
    raise Error(f"dtype is {dtype}, expected one of {' '.join(_NUMPY_NAMES)}, of native byte order")


def _from_numpy(array, relabel=None):
    dtype = array.dtype
    result = Tensor.__new__(Tensor)
    result.dtype = _known.get(dtype) or _numpy_dtype(dtype, relabel)
    result.data = array.__array_interface__["data"][0]
    result.shape = array.shape
    result.strides = _element_strides(array, dtype.itemsize)
    result.device = CPU, 0
    result.stream = None
    result.owner = array
    result.writable = array.flags.writeable
    if len(result.shape) > MAX_RANK:
        raise Error(f"rank is {array.ndim}, expected at most {MAX_RANK}")
    return result


def _element_strides(array, size):
    strides = array.strides
    if size == 1:
        return strides
    for i, stride in enumerate(strides):
        if stride % size and array.shape[i] > 1:
            raise Error(f"has a stride of {stride} bytes, expected a multiple of {size}")
    return tuple([stride // size for stride in strides])


class _DlTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DlVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DlTensor),
    ]


_READ_ONLY = 1
_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _export(value, stream):
    """The capsule of a DLPack producer, its data ready on `stream`."""
    kind = _DLPACK_DEVICES.get(int(value.__dlpack_device__()[0]))
    if kind is None:
        raise Error(f"lies on DLPack device {tuple(value.__dlpack_device__())}, "
                    "expected CPU, CUDA or ROCm memory")
    if kind == CPU:
        wanted = {}
    elif kind == CUDA:
        wanted = {"stream": stream or 1}  # 1: the legacy default stream, which 0 may not name
    else:
        wanted = {"stream": stream or 0}
    try:
        return value.__dlpack__(max_version=(1, 1), **wanted), kind
    except TypeError:
        return value.__dlpack__(**wanted), kind  # a producer older than DLPack 1.0


def _from_dlpack(value, stream):
    capsule, kind = _export(value, stream)
    name = _capsule_name(capsule)
    address = _capsule_pointer(capsule, name)
    writable = True
    if name == b"dltensor_versioned":
        versioned = _DlVersioned.from_address(address)
        if versioned.major != 1:
            raise Error(f"speaks DLPack {versioned.major}.{versioned.minor}, expected 1.x")
        described, writable = versioned.tensor, not versioned.flags & _READ_ONLY
    elif name == b"dltensor":
        described = _DlTensor.from_address(address)
    else:
        raise Error("gave a capsule that is not a DLPack tensor")
    dtype = _DLPACK_DTYPES.get((described.code, described.bits))
    if described.lanes != 1 or dtype is None:
        raise Error(
            f"has DLPack dtype code {described.code} of {described.bits} bits and "
            f"{described.lanes} lanes, which has no counterpart"
        )
    if described.ndim > MAX_RANK:
        raise Error(f"rank is {described.ndim}, expected at most {MAX_RANK}")
    shape = tuple(described.shape[: described.ndim])
    strides = tuple(described.strides[: described.ndim]) if described.strides else None
    index = 0 if kind == CPU else described.device_id
    data = (described.data or 0) + described.byte_offset if described.data else 0
    result = Tensor(data, dtype, shape, strides, (kind, index), None, capsule)
    result.writable = writable
    return result


def pack(args, offset, value, stream, written):
    """Writes kvops_tensor of `value` at `offset`; returns what must stay alive."""
    described = value if isinstance(value, Tensor) else (
        _from_numpy(value) if _is_numpy(value) else tensor(value, None, stream)
    )
    if written and not described.writable:
        raise Error("is read-only, but the operator writes it")
    shape, strides = described.shape, described.strides
    rest = _ZEROS[len(shape):]
    kind, index = described.device
    if kind == CPU:
        queue = described.stream or 0
    else:
        queue = (stream if described.stream is None else described.stream) or 0
    try:
        _PACK.pack_into(args, offset, described.data, kind, index, described.dtype, len(shape),
                        *shape, *rest, *strides, *rest, queue)
    except struct.error as error:
        raise Error(f"cannot be described: {error}") from None
    return described.owner
