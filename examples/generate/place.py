# Where a generation computes. The forward pass is written once, over NumPy arrays that it cuts,
# reshapes and transposes; a place says what these arrays stand for.
#
#   Host    they are the memory, and the operators run on them.
#   Device  each array has a twin in the memory of a GPU, of which it is the description: a view of
#           the array is the same view of the twin. Pages of an array that nobody touches cost
#           nothing. push() and pull() copy between the two. An operator that the device lacks runs
#           on the CPU: what it names is pulled, and what it wrote pushed.
import bisect
import weakref
from functools import partial

import kvops
import ml_dtypes
import numpy as np

from .errors import UsageError
from .linear import Linear


class Host:
    """The CPU: activations are f32, and the products are packed by libkvops."""

    name, dtype, device = "cpu", np.dtype(np.float32), None

    def __init__(self, weights="f32"):
        self.weights = weights

    def empty(self, shape, dtype):
        return np.empty(shape, dtype)

    def zeros(self, shape, dtype):
        return np.zeros(shape, dtype)

    def given(self, array):
        return array

    def constant(self, array, dtype=None):
        return array

    def pool(self, shape, dtype):
        """CPU memory that blocks are swapped to."""
        return np.zeros(shape, dtype)

    def prepare(self, op, **arguments):
        return kvops.prepare(op, **arguments)

    def linear(self, matrix, bias, weights=None):
        return Linear(matrix, bias, weights or self.weights)

    def push(self, array):
        """What was written to the array by NumPy becomes visible to the operators."""

    def pull(self, array):
        """What the operators have written becomes visible to NumPy."""

    def report(self):
        return ""


def _span(array):
    """First byte of an array, and how many bytes it reaches over."""
    first = array.__array_interface__["data"][0]
    reach = [(extent - 1) * stride for extent, stride in zip(array.shape, array.strides)]
    low = sum(r for r in reach if r < 0)
    return first + low, sum(reach) - 2 * low + array.itemsize


class Device:
    """A GPU. weights bf16: activations are bf16, too; f32: everything is f32.

    lacking: operators to be run on the CPU although the device has them. kind "cpu" is a device
    whose memory is apart from the arrays, as a GPU's is.
    """

    def __init__(self, kind="cuda", weights="f32", lacking=()):
        if weights not in ("f32", "bf16"):
            raise UsageError(f"--weights {weights} runs on the CPU, expected f32 or bf16 on {kind}")
        self.name = self.device = kind
        self.weights, self.lacking = weights, set(lacking)
        self.dtype = np.dtype(ml_dtypes.bfloat16 if weights == "bf16" else np.float32)
        self.stream = kvops.Stream(kind) if kind != "cpu" else None
        self.starts, self.twins = [], []  # sorted: where an array begins; (its end, its twin)
        self.constants, self.elsewhere = {}, set()
        self.scratch = None  # the workspace
        self.blas = None
        if kind == "cuda":
            from .cublas import Cublas
            self.blas = Cublas.found(self.stream)

    # ---- arrays and their twins ----

    def _twin(self, array):
        if not array.nbytes:
            return array
        start = array.__array_interface__["data"][0]
        at = bisect.bisect(self.starts, start)
        self.starts.insert(at, start)
        self.twins.insert(at, (start + array.nbytes, kvops.empty(array.nbytes, "u8", self.device)))
        weakref.finalize(array, self._forget, start)
        return array

    def _forget(self, start):
        at = bisect.bisect_left(self.starts, start)
        del self.starts[at], self.twins[at]

    def address(self, start, size):
        """(device address of these bytes of an array, the twin's owner), or None: no twin."""
        at = bisect.bisect(self.starts, start) - 1
        if at < 0 or start + size > self.twins[at][0]:
            return None
        twin = self.twins[at][1]
        return twin.data + start - self.starts[at], twin

    def twin(self, array):
        """The same view of the twin; what has none stays what it is."""
        if not isinstance(array, np.ndarray):
            return array
        if not array.size:
            return kvops.Tensor(None, array.dtype, array.shape, None, self.device)
        start, size = _span(array)
        found = self.address(start, size)
        if found is None:
            return array
        offset = array.__array_interface__["data"][0] - start
        strides = [s // array.itemsize for s in array.strides]
        return kvops.Tensor(found[0] + offset, array.dtype, array.shape, strides, self.device,
                            owner=found[1])

    def empty(self, shape, dtype):
        return self._twin(np.zeros(shape, dtype))

    def zeros(self, shape, dtype):
        return self.given(np.zeros(shape, dtype))

    def given(self, array):
        """The array itself, which from now on has a twin of the same values."""
        self.push(self._twin(array))
        return array

    def constant(self, array, dtype=None):
        """An array that does not change, as `dtype`; the same memory has one twin."""
        dtype = np.dtype(dtype or array.dtype)
        key = array.__array_interface__["data"][0], array.shape, array.strides, dtype
        if key not in self.constants:
            kept = np.ascontiguousarray(array, dtype)
            if kept.size and self.address(*_span(kept)) is None:
                self.given(kept)
            self.constants[key] = array, kept  # holding `array`, its address stays its own
        return self.constants[key][1]

    def pool(self, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return kvops.empty((size,), "u8", self.device, pinned=self.device != "cpu")

    def _copy(self, start, size, to_device):
        here = kvops.Tensor(start, "u8", (size,))
        there = kvops.Tensor(self.address(start, size)[0], "u8", (size,), device=self.device)
        pair = (there, here) if to_device else (here, there)
        kvops.copy(*pair, stream=self.stream)

    def push(self, array):
        if array.size:
            self._copy(*_span(array), to_device=True)

    def pull(self, array):
        if array.size:
            self._copy(*_span(array), to_device=False)

    # ---- operators and products ----

    def _workspace(self, op, given):
        """One for all calls, which follow each other on the stream; bytes of any value will do."""
        size = kvops.workspace_bytes(op, **given) if kvops.ops[op].sized == "workspace" else 0
        if size > (self.scratch.nbytes if self.scratch else 0):
            self.scratch = kvops.empty((size,), "u8", self.device)
        return {"workspace": self.scratch} if size else {}

    def prepare(self, op, **arguments):
        if self.name in kvops.ops[op].backends and op not in self.lacking:
            given = {name: self.twin(value) for name, value in arguments.items()}
            return kvops.prepare(op, stream=self.stream, **given, **self._workspace(op, given))
        self.elsewhere.add(op)
        return OnHost(self, kvops.prepare(op, **arguments), arguments, [
            value for name, value in arguments.items()
            if kvops.ops[op].arguments[name].flags & kvops.operators.WRITTEN])

    def linear(self, matrix, bias, weights=None):
        if self.blas:
            return self.blas.linear(self, matrix, bias)
        self.elsewhere.add("products")
        return ProductsOnHost(self, Linear(matrix, bias, weights or self.weights))

    def report(self):
        """What ran where, in a line."""
        words = kvops.device_info(self.device).name
        if self.blas:
            words += f"; products by {self.blas.path}"
        if self.elsewhere:
            words += f"; on the CPU for want of a kernel: {', '.join(sorted(self.elsewhere))}"
        return words


class OnHost:
    """A call over arrays whose twins hold the values."""

    def __init__(self, place, call, arguments, written):
        self.place, self.call = place, call
        self.reads, self.writes = (
            [span for a in arrays if isinstance(a, np.ndarray) and a.size
             for span in [_span(a)] if place.address(*span)]
            for arrays in (arguments.values(), written))

    def __call__(self):
        for span in self.reads:
            self.place._copy(*span, to_device=False)
        self.call()
        for span in self.writes:
            self.place._copy(*span, to_device=True)


class ProductsOnHost:
    """A Linear over arrays whose twins hold the values, of the activations' dtype."""

    def __init__(self, place, linear):
        self.place, self.linear, self.outputs = place, linear, linear.outputs

    def calls(self, x, out):
        wide = [np.empty(a.shape, np.float32) for a in (x, out)]
        steps = [partial(np.copyto, wide[0], x), *self.linear.calls(*wide),
                 partial(np.copyto, out, wide[1], casting="same_kind")]

        def run():
            for step in steps:
                step()

        return [OnHost(self.place, run, {"x": x}, [out])]
