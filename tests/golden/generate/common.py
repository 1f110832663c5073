"""What the generators of golden cases share: dtypes as bit patterns, and the writer of cases.

Every value is computed in float64 (or exact integers) and rounded once to its dtype, to nearest
even. This file knows the formats from their definitions alone, so that it can judge the library.
The layout of a case is described in docs/testing.md.
"""
import os
import shutil
import zlib

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # tests/golden


class Float:
    """A binary format. top: the largest finite value; saturate: beyond it top, not infinity."""

    def __init__(self, bits, mantissa, bias, top, nan, saturate=False, fnuz=False):
        self.bits, self.mantissa, self.bias, self.top = bits, mantissa, bias, top
        self.nan, self.saturate, self.fnuz = nan, saturate, fnuz
        self.storage = {8: np.uint8, 16: np.uint16, 32: np.uint32}[bits]


FLOATS = {
    "f32": Float(32, 23, 127, (2 - 2.0**-23) * 2.0**127, 0x7FC00000),
    "f16": Float(16, 10, 15, 65504.0, 0x7E00),
    "bf16": Float(16, 7, 127, (2 - 2.0**-7) * 2.0**127, 0x7FC0),
    "f8_e4m3": Float(8, 3, 7, 448.0, 0x7F, saturate=True),
    "f8_e5m2": Float(8, 2, 15, 57344.0, 0x7F, saturate=True),
    "f8_e4m3fnuz": Float(8, 3, 8, 240.0, 0x80, saturate=True, fnuz=True),
    "f8_e5m2fnuz": Float(8, 2, 16, 57344.0, 0x80, saturate=True, fnuz=True),
}
INTS = {"u8": np.uint8, "i8": np.int8, "i32": np.int32, "i64": np.int64}
# As in include/kvcache_ops/types.h, for integer arguments that hold a dtype.
NUMBERS = {"f32": 1, "f16": 2, "bf16": 3, "f8_e4m3": 4, "f8_e5m2": 5, "f8_e4m3fnuz": 6,
           "f8_e5m2fnuz": 7, "u8": 8, "i8": 9, "i32": 10, "i64": 11}


def encode(values, dtype):
    """float64 -> bit patterns of dtype, one rounding to nearest even; fnuz: Inf becomes NaN."""
    f, x = FLOATS[dtype], np.asarray(values, np.float64)
    negative, magnitude = np.signbit(x), np.abs(x)
    finite = np.where(np.isfinite(magnitude), magnitude, 0.0)
    _, exponent = np.frexp(finite)  # finite = m * 2^exponent with m in [0.5, 1)
    unit = np.maximum(exponent - 1, 1 - f.bias) - f.mantissa  # log2 of one last place
    steps = np.rint(np.ldexp(finite, -unit))  # exact scaling; rint rounds half to even
    low = 2.0**f.mantissa
    carry = steps >= 2 * low
    steps, unit = np.where(carry, low, steps), np.where(carry, unit + 1, unit)
    over = (np.ldexp(steps, unit) > f.top) | np.isinf(magnitude)
    field = np.where(steps < low, 0, unit + f.mantissa + f.bias)
    steps = np.where(steps < low, steps, steps - low)  # without the hidden one
    code = (field.astype(np.int64) << f.mantissa) + steps.astype(np.int64)
    infinity = _top_code(f) if f.saturate else _top_code(f) + 1
    code = np.where(over, infinity, code)
    signed = negative & ~(f.fnuz & (code == 0))
    nan = np.isnan(x) | (f.fnuz & np.isinf(x))
    code = np.where(nan, f.nan, code | (signed.astype(np.int64) << (f.bits - 1)))
    return code.astype(f.storage)


def _top_code(f):
    _, exponent = np.frexp(f.top)
    steps = int(np.ldexp(f.top, -(int(exponent) - 1 - f.mantissa)))
    return ((int(exponent) - 1 + f.bias) << f.mantissa) + steps - (1 << f.mantissa)


def decode(bits, dtype):
    """Bit patterns of dtype -> float64, exactly."""
    f, code = FLOATS[dtype], np.asarray(bits).astype(np.int64)
    magnitude = code & ((1 << (f.bits - 1)) - 1)
    field, steps = magnitude >> f.mantissa, magnitude & ((1 << f.mantissa) - 1)
    value = np.ldexp(steps + np.where(field == 0, 0.0, 2.0**f.mantissa),
                     np.maximum(field, 1) - f.bias - f.mantissa)
    value = np.where(code >> (f.bits - 1) == 1, -value, value)
    if f.fnuz:
        return np.where(code == 0x80, np.nan, value)
    beyond = magnitude > _top_code(f)
    infinite = beyond & (magnitude == _top_code(f) + 1) & (dtype != "f8_e4m3")
    value = np.where(infinite, np.where(code >> (f.bits - 1) == 1, -np.inf, np.inf), value)
    return np.where(beyond & ~infinite, np.nan, value)


def rounded(values, dtype):
    """float64 -> the nearest values of dtype, as float64: what a tensor of that dtype holds."""
    return decode(encode(values, dtype), dtype)


class Bits:
    """Elements of a tensor, as stored."""

    def __init__(self, dtype, bits):
        storage = FLOATS[dtype].storage if dtype in FLOATS else INTS[dtype]
        self.dtype, self.array = dtype, np.ascontiguousarray(np.asarray(bits).astype(storage))


def tensor(dtype, values):
    """A tensor of dtype: floats are rounded to it, integers must fit."""
    if dtype in FLOATS:
        return Bits(dtype, encode(values, dtype))
    values = np.asarray(values)
    assert np.array_equal(values.astype(INTS[dtype]), values), "an integer does not fit"
    return Bits(dtype, values)


class Names:
    """Texts in a file: a tensor's name, or addresses "name+offset"."""

    def __init__(self, dtype, texts):
        self.dtype, self.array = dtype, np.array(texts, dtype="S")


def same_as(name):
    """The tensor `name` itself: of this step, or of an earlier one."""
    return Names("of", name)


def addresses(pairs):
    """An i64 tensor of addresses: (tensor name, byte offset) each."""
    return Names("address", ["%s+%d" % p for p in pairs])


def random_state(*key):
    """A RandomState of its own for every key."""
    return np.random.RandomState(zlib.crc32(repr(key).encode()))


_started = set()


def save_case(op, case, inputs, expected=None, scalars=None, status=None, message=None,
              orders=None):
    """Writes tests/golden/<op>/<case>/.

    inputs: name -> tensor(...), same_as(...), addresses(...). A written tensor that is here has
    these elements before the call; one that is not is full of garbage. A name that is no argument
    is memory for addresses(). expected: name -> tensor(...), what a written tensor holds after
    the call, in full; counters start at 5. scalars: name -> float or int (also a dtype's name);
    zeros are not stored.
    status, message: the call must fail like this, and write nothing. orders: name -> ways for the
    tensor to lie in memory ("0213": dimensions from the outermost on), each a variant of the case.
    """
    folder = _folder(op, case)
    _write(folder, inputs, expected, scalars, status, message)
    for name, texts in (orders or {}).items():
        _save(folder, name + ".order", np.array(texts, dtype="S"))


def save_steps(op, case, steps):
    """A case of several calls, which share tensors through same_as(). steps: list of dicts with
    the arguments of save_case(); "op" in one names another operator."""
    folder = _folder(op, case)
    for i, step in enumerate(steps):
        step = dict(step)
        name = step.pop("op", op)
        args = {"expected": None, "scalars": None, "status": None, "message": None}
        args.update(step)
        _write(os.path.join(folder, str(i) if name == op else "%d.%s" % (i, name)), **args)


def _folder(op, case):
    if op not in _started:  # cases that no generator writes any more go away
        shutil.rmtree(os.path.join(ROOT, op), ignore_errors=True)
        _started.add(op)
    folder = os.path.join(ROOT, op, case)
    assert not os.path.exists(folder), "case %s/%s is written twice" % (op, case)
    return folder


def _write(folder, inputs, expected, scalars, status, message):
    os.makedirs(folder)
    for name, t in inputs.items():
        _save(folder, "%s.%s" % (name, t.dtype), t.array)
    for name, t in (expected or {}).items():
        _save(folder, "%s.expected.%s" % (name, t.dtype), t.array)
    for name, value in (scalars or {}).items():
        value = NUMBERS.get(value, value)
        if value != 0:
            kind = np.float64 if isinstance(value, float) else np.int64
            _save(folder, name, np.array(value, kind))
    for name, text in (("status", status), ("message", message)):
        if text is not None:
            _save(folder, "%s.expected" % name, np.array(text, dtype="S"))


def _save(folder, name, array):
    """The .npy format, version 1.0, written by hand so that the bytes depend on nothing else."""
    shape = str(tuple(int(n) for n in array.shape))
    header = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }" % (array.dtype.str, shape)
    header += " " * (-(len(header) + 11) % 64) + "\n"
    with open(os.path.join(folder, name + ".npy"), "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        f.write(array.tobytes())
