# Matrix products on an NVIDIA GPU by cuBLAS, found at run time: no kernel of the example's own.
#
#   y [rows, outputs] = x [rows, inputs] W^T + b      W [outputs, inputs], as a checkpoint has it
#
# cuBLAS counts columns first: to it W is its transpose, x and y are theirs. f32 products are f32
# throughout (no TF32), bf16 ones are summed in f32. A bias is written to y first, as rows gathered
# from a table of one row, and added to.
import ctypes
import importlib.util
from pathlib import Path

import kvops
import ml_dtypes
import numpy as np

_F32, _BF16 = 0, 14  # cudaDataType
_COMPUTE_32F, _DEFAULT = 68, -1  # cublasComputeType_t, cublasGemmAlgo_t
_TYPES = {np.dtype(np.float32): _F32, np.dtype(ml_dtypes.bfloat16): _BF16}
_NAMES = ("libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so")


def _candidates():
    """By the loader's paths, the toolkit's usual place, and the wheels that PyPI has."""
    yield from _NAMES
    for name in _NAMES:
        yield f"/usr/local/cuda/lib64/{name}"
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from map(str, sorted(Path(folder).glob("*/lib/libcublas.so.*"), reverse=True))


class Cublas:
    def __init__(self, library, stream):
        self.library = library
        handle = ctypes.c_void_p()
        self._check("cublasCreate_v2", ctypes.byref(handle))
        self.handle = handle
        self._check("cublasSetStream_v2", handle, ctypes.c_void_p(stream.handle))
        self.one, self.zero = ctypes.c_float(1), ctypes.c_float(0)

    @classmethod
    def found(cls, stream):
        """The first cuBLAS that loads, or None: then the CPU multiplies."""
        for name in _candidates():
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            return cls(library, stream)
        return None

    @property
    def path(self):
        return Path(self.library._name).name

    def _check(self, function, *arguments):
        status = getattr(self.library, function)(*arguments)
        if status:
            raise kvops.Error(f"{function}: status {status} of {self.library._name}",
                              kvops.Status.DEVICE_ERROR)

    def linear(self, place, matrix, bias):
        return CublasLinear(self, place, matrix, bias)

    def product(self, weight, x, out, given, wanted, add):
        """out = x weight^T, plus what out holds if `add`: dense Tensors on the device.

        given: the cudaDataType of weight and x; wanted: that of out.
        """
        outputs, inputs = weight.shape
        size, number = ctypes.c_void_p, ctypes.c_int
        beta = self.one if add else self.zero
        self._check("cublasGemmEx", self.handle, number(1), number(0), number(outputs),
                    number(x.shape[0]), number(inputs), ctypes.byref(self.one), size(weight.data),
                    number(given), number(inputs), size(x.data), number(given), number(inputs),
                    ctypes.byref(beta), size(out.data), number(wanted), number(outputs),
                    number(_COMPUTE_32F), number(_DEFAULT))


class CublasLinear:
    """matrix [inputs, outputs], which is the transpose of what is kept; bias [outputs] or None."""

    def __init__(self, blas, place, matrix, bias):
        self.blas, self.place, self.outputs = blas, place, matrix.shape[1]
        self.weight = place.constant(matrix.T, place.dtype)
        self.bias = None if bias is None else place.constant(bias.reshape(1, 1, -1), place.dtype)

    def calls(self, x, out):
        """What must be called, in this order, to write the product of x to out, both dense."""
        steps = []
        if self.bias is not None:
            rows = len(x)
            table = self.place.zeros((rows, 1), np.int32)
            starts = self.place.given(np.arange(rows + 1, dtype=np.int32))
            steps.append(self.place.prepare("cp_gather_cache", kv_cache=self.bias,
                                            block_table=table, cu_seq_lens=starts, out=out))
        return steps + [Product(self, x, out)]


class Product:
    """The call, with its addresses in place."""

    def __init__(self, linear, x, out):
        self.blas, self.add = linear.blas, linear.bias is not None
        assert x.flags.c_contiguous and out.flags.c_contiguous
        self.tensors = [linear.place.twin(a) for a in (linear.weight, x, out)]
        self.types = _TYPES[x.dtype], _TYPES[out.dtype]

    def __call__(self):
        self.blas.product(*self.tensors, *self.types, self.add)
