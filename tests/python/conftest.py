# Helpers of the Python tests: reference arithmetic in float64, seeded arrays, DLPack producers.
import ctypes

import numpy as np
import pytest

import kvops


@pytest.fixture
def rng():
    return np.random.RandomState(20)


@pytest.fixture(params=["cpu", "cuda:0"])
def place(request, monkeypatch):
    """Where the operators of a chain run."""
    import mla

    if request.param != "cpu" and not kvops.device_count("cuda"):
        pytest.skip("there is no CUDA device")
    monkeypatch.setattr(mla.Place, "device", request.param)


def rms_norm(x, weight, epsilon):
    """The formula of the header, in float64."""
    x = x.astype(np.float64)
    scaled = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return scaled if weight is None else scaled * weight.astype(np.float64)


class DlTensor(ctypes.Structure):
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


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", DlTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DlTensor),
    ]


_alive = []  # what capsules point to: it must outlive them, whatever order they die in


class Producer:
    """A DLPack producer over a NumPy array's memory that says what it is told to say.

    released counts capsules that were destroyed unconsumed; asked holds the keywords of the call.
    """

    def __init__(self, array, code, bits, *, device=(1, 0), versioned=True, byte_offset=0,
                 strides=True, lanes=1, major=1, read_only=False):
        self.array, self.device, self.versioned = array, device, versioned
        self.kind = code, bits, lanes
        self.byte_offset, self.strides = byte_offset, strides
        self.major, self.read_only = major, read_only
        self.released, self.asked = 0, None

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **keywords):
        if not self.versioned and "max_version" in keywords:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked = keywords
        array, item = self.array, self.array.itemsize
        rank = array.ndim
        shape = (ctypes.c_int64 * rank)(*array.shape)
        strides = (ctypes.c_int64 * rank)(*(s // item for s in array.strides))
        tensor = DlTensor(array.ctypes.data - self.byte_offset, *self.device, rank, *self.kind,
                          shape, strides if self.strides else None, self.byte_offset)
        managed = (Versioned(self.major, 0, None, None, int(self.read_only), tensor)
                   if self.versioned else Managed(tensor))

        def destroy(_capsule):
            self.released += 1

        destructor = _Destructor(destroy)
        _alive.append((managed, shape, strides, destructor))
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Destructor]
        self.name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return new(ctypes.addressof(managed), self.name, destructor)
