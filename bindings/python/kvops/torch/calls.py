# From torch tensors to a call of the library: each tensor becomes the 128 bytes of kvops_tensor in
# the operator's struct, written by one pack per tensor. No array is made, nothing is copied.
#
#   [struct_size | tensor | tensor | ... | number | number ...]   tensors first, in every operator
#
# The structs of an operator are kept and used again; a call takes one from the list and puts it
# back, so that threads never share one. A tensor is a torch.Tensor, None (absent), or a tuple
# (tensor, dtype, shape, strides) when it is to be seen otherwise than torch sees it.
import ctypes
import struct

import torch

from .._library import CQueryResult, Error, check, last_error, lib
from .._tensor import CPU, MAX_RANK
from ..operators import INT, REAL, TENSOR, ops
from .formats import DTYPES, GPU, U8

_TENSOR_BYTES = 128


def _packer(rank):
    gap = f"{8 * (MAX_RANK - rank)}x"
    fields = f"=Qiiii{rank}q{gap}{rank}q{gap}Q" if rank else f"=Qiiii{gap}{gap}Q"
    packed = struct.Struct(fields)
    assert packed.size == _TENSOR_BYTES
    return packed.pack_into


_PACK = tuple(_packer(rank) for rank in range(MAX_RANK + 1))
_absent = struct.Struct(f"={_TENSOR_BYTES}x").pack_into
KERNELS = {}  # vLLM's name -> what runs under it


def kernel(function):
    """Enters a function of a schema's name and arguments into KERNELS."""
    KERNELS[function.__name__] = function
    return function


_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # needs a build with a GPU


class Call:
    """An operator, ready to be called with tensors and numbers in the order of its struct."""

    def __init__(self, name):
        op = ops[name]
        kinds = [a.kind for a in op.arguments.values()]
        self.op, self.name, self.run = op, name, op.run
        self.tensors = kinds.count(TENSOR)
        assert kinds[: self.tensors] == [TENSOR] * self.tensors, name
        codes = {REAL: "d", INT: "q"}
        self._numbers = struct.Struct("=" + "".join(codes[k] for k in kinds[self.tensors :]))
        self._tail = 8 + _TENSOR_BYTES * self.tensors
        self._free = []
        names = list(op.arguments)
        self._sized = 8 + _TENSOR_BYTES * names.index(op.sized) if op.sized else 0

    def _take(self):
        try:
            return self._free.pop()
        except IndexError:
            args = self.op.struct()
            args.struct_size = self.op.size
            return args, ctypes.byref(args)

    def _fill(self, args, tensors, numbers):
        offset, last, stream = 8, -1, 0
        for tensor in tensors:
            if tensor is None:
                _absent(args, offset)
            else:
                if type(tensor) is tuple:
                    tensor, dtype, shape, strides = tensor
                else:
                    dtype, shape, strides = DTYPES.get(tensor.dtype), tensor.shape, tensor.stride()
                index, rank = tensor.get_device(), len(shape)
                if rank > MAX_RANK or dtype is None:
                    raise self._refused(offset, tensor, rank)
                if index < 0:
                    _PACK[rank](args, offset, tensor.data_ptr(), CPU, 0, dtype, rank, *shape,
                                *strides, 0)
                else:
                    if index != last:
                        stream, last = _current_stream(index), index
                    _PACK[rank](args, offset, tensor.data_ptr(), GPU, index, dtype, rank, *shape,
                                *strides, stream)
            offset += _TENSOR_BYTES
        self._numbers.pack_into(args, self._tail, *numbers)

    def _refused(self, offset, tensor, rank):
        name = list(self.op.arguments)[(offset - 8) // _TENSOR_BYTES]
        what = (f"rank is {rank}, expected at most {MAX_RANK}" if rank > MAX_RANK else
                f"dtype is {tensor.dtype}, which has no counterpart")
        return Error(f"{self.name}: {name}: {what}", op=self.name, argument=name)

    def __call__(self, tensors, numbers=()):
        taken = self._take()
        self._fill(taken[0], tensors, numbers)
        status = self.run(taken[1])
        self._free.append(taken)
        if status:
            raise last_error(status)

    def bytes(self, tensors, numbers):
        """What the workspace or plan, absent in `tensors`, has to hold."""
        taken = self._take()
        self._fill(taken[0], tensors, numbers)
        return self._query(taken)

    def _query(self, taken):
        result = CQueryResult(struct_size=ctypes.sizeof(CQueryResult))
        check(lib.kvops_query(self.name.encode(), taken[1], ctypes.byref(result)))
        return result.bytes

    def with_workspace(self, tensors, numbers, like):
        """A call whose workspace, absent in `tensors`, is taken from torch on the device of `like`.

        torch keeps the memory for work queued on the same stream, so it may be released here.
        """
        taken = self._take()
        args, pointer = taken
        self._fill(args, tensors, numbers)
        size = self._query(taken)
        if size:
            workspace = torch.empty(size, dtype=torch.uint8, device=like.device)
            index = workspace.get_device()
            kind, stream = (CPU, 0) if index < 0 else (GPU, _current_stream(index))
            _PACK[1](args, self._sized, workspace.data_ptr(), kind, max(index, 0), U8, 1, size, 1,
                     stream)
        status = self.run(pointer)
        self._free.append(taken)
        if status:
            raise last_error(status)


# ---- tensors seen otherwise ----------------------------------------------------------------------


def as_dtype(tensor, dtype):
    """The tensor with another dtype of the same size; 0: its own."""
    return (tensor, dtype, tensor.shape, tensor.stride()) if dtype else tensor


def as_bytes(tensor):
    """A tensor of any dtype as u8."""
    if tensor.element_size() != 1:
        tensor = tensor.view(torch.uint8)
    return tensor, U8, tensor.shape, tensor.stride()


def one(tensor):
    """A scale or zero point of one element, whatever its rank."""
    if tensor is None or tensor.dim() < 2:
        return tensor
    if tensor.numel() == 1:
        return tensor, DTYPES.get(tensor.dtype), (1,), (1,)
    return tensor


def first(tensor, rows):
    """The first `rows` rows; more than there are is the library's to refuse."""
    if tensor is None or tensor.shape[0] == rows:
        return tensor
    if rows > tensor.shape[0] or rows < 0:
        raise Error(f"has {tensor.shape[0]} rows, expected {rows}")
    return tensor, DTYPES.get(tensor.dtype), (rows, *tensor.shape[1:]), tensor.stride()


def unit_stride(tensor):
    """The tensor itself, or a copy when its last dimension is not dense."""
    if tensor.dim() and tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        return tensor.contiguous()
    return tensor
