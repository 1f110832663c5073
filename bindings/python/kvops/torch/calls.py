# From torch tensors to a call of the library: each tensor becomes the 128 bytes of kvops_tensor in
# the operator's struct. No array is made, nothing is copied.
#
#   [struct_size | tensor | tensor | ... | number | number ...]   tensors first, in every operator
#
# A Call writes them all, every time. A form, for the operators of every layer, keeps a struct for
# each combination of shapes, strides, dtypes and devices that it meets: then only addresses,
# numbers and a changed stream are written. Structs are taken from a list and put back, so that
# threads never share one.
import ctypes
import struct
from array import array
from operator import attrgetter

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
    """An operator, to be called with tensors and numbers in the order of its struct.

    A tensor is a torch.Tensor, None (absent), or a tuple (tensor, dtype, shape, strides) when it is
    to be seen otherwise than torch sees it.
    """

    def __init__(self, name):
        op = ops[name]
        kinds = [a.kind for a in op.arguments.values()]
        self.op, self.name, self.run = op, name, op.run
        self.tensors = kinds.count(TENSOR)
        assert kinds[: self.tensors] == [TENSOR] * self.tensors, name
        codes = {REAL: "d", INT: "q"}
        codes = "".join(codes[k] for k in kinds[self.tensors :])
        self.numbers = struct.Struct("=" + codes).pack_into
        self.tail = 8 + _TENSOR_BYTES * self.tensors
        self._free = []
        self.names = names = list(op.arguments)
        self._sized = 8 + _TENSOR_BYTES * names.index(op.sized) if op.sized else 0

    def _take(self):
        try:
            return self._free.pop()
        except IndexError:
            args = self.op.struct()
            args.struct_size = self.op.size
            return args, ctypes.byref(args)

    def fill_tensors(self, args, tensors):
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

    def _fill(self, args, tensors, numbers):
        self.fill_tensors(args, tensors)
        self.numbers(args, self.tail, *numbers)

    def _refused(self, offset, tensor, rank):
        name = self.names[(offset - 8) // _TENSOR_BYTES]
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


_look = attrgetter("shape", "dtype")
_strides, _device, _address = (getattr(torch.Tensor, n) for n in ("stride", "get_device",
                                                                  "data_ptr"))
_KEPT = 256  # layouts of a form: batches come in few sizes, prompts in many


class _Layout:
    """What a form keeps for one combination of shapes, strides, dtypes and devices."""

    __slots__ = ("free", "args", "index", "streams")

    def __init__(self, call, places, tensors, seen):
        given = [None] * call.tensors
        for place, tensor, see in zip(places, tensors, seen):
            given[place] = see(tensor) if see else tensor
        self.free = []  # (struct, its words, pointer to it)
        self.args = call.op.struct()
        self.args.struct_size = call.op.size
        call.fill_tensors(self.args, given)
        self.index = max(map(_device, tensors))
        self.streams = [16 + 16 * i for i, t in zip(places, tensors) if t.get_device() >= 0]

    def struct(self):
        args = type(self.args).from_buffer_copy(self.args)
        return args, memoryview(args).cast("B").cast("Q"), ctypes.byref(args)


def form(name, given, **seen):
    """A function of tensors and numbers that calls an operator with the tensors `given`, a line of
    names in the order of its struct, and no others.

    seen: name -> a function that makes of the tensor what Call takes, and looks at nothing but its
    shape, strides, dtype and device.
    """
    call, given = Call(name), given.split()
    places = [call.names.index(n) for n in given]
    assert places == sorted(places) and set(seen) <= set(given), name
    see = [seen.get(n) for n in given]
    words = [1 + 16 * i for i in places]  # where the addresses are
    step = words[1] - words[0]
    where = slice(words[0], words[0] + step * len(words), step)
    if list(range(where.start, where.stop, step)) != words:
        where = None
    run, write_numbers, tail = call.run, call.numbers, call.tail
    layouts, latest = {}, None

    def find(key, tensors):
        nonlocal latest
        found = layouts.get(key)
        if found is None:
            if len(layouts) >= _KEPT:
                layouts.clear()
            found = layouts[key] = _Layout(call, places, tensors, see)
        latest = key, found
        return found

    def function(tensors, numbers=()):
        key = (*map(_look, tensors), *map(_strides, tensors), *map(_device, tensors))
        recent = latest  # another thread may change it
        layout = recent[1] if recent and recent[0] == key else find(key, tensors)
        free = layout.free
        try:
            taken = free.pop()
        except IndexError:
            taken = layout.struct()
        args, place, pointer = taken
        if where:
            place[where] = array("Q", map(_address, tensors))
        else:
            for word, tensor in zip(words, tensors):
                place[word] = tensor.data_ptr()
        if layout.index >= 0:
            stream = _current_stream(layout.index)
            if place[layout.streams[0]] != stream:
                for word in layout.streams:
                    place[word] = stream
        if numbers:
            write_numbers(args, tail, *numbers)
        status = run(pointer)
        free.append(taken)
        if status:
            raise last_error(status)

    return function


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
