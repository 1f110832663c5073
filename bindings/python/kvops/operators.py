# Every operator of the library as a function of keyword arguments, built from kvops_ops().
#
# Nothing here knows an operator: names, offsets, kinds, enum values and documentation come from the
# table in the library; docs.json holds the header's comments. One call packs the arguments into the
# operator's C struct and hands that over; prepare() keeps the struct for calls that repeat.
import ctypes
import inspect
import json
import operator as _operator
import pathlib

from ._library import CQueryResult, CTensor, Error, Status, check, last_error, lib
from ._tensor import CPU, DTYPE_INFO, DTYPES, Tensor, dtype_number, pack, stream_handle

TENSOR, REAL, INT = 1, 2, 3  # KVOPS_ARG_TENSOR ...
READ, WRITTEN, OPTIONAL, HOST, ANYWHERE, SIZED, PLACE, COUNTER = (1 << i for i in range(8))
_COMPARE = ("exact", "ulp", "rows", "scratch", "set")


def _bits(mask):
    return [i for i in range(64) if mask >> i & 1]


class Argument:
    """One member of an operator's struct, as kvops_arg_info describes it."""

    def __init__(self, info):
        self.name = info.name.decode()
        self.offset = info.offset
        self.kind = info.kind
        self.flags = info.flags
        self.type = info.type.decode()
        self.shape = info.shape.decode()
        self.compare = _COMPARE[info.compare] if info.compare < len(_COMPARE) else "exact"
        self.tolerance = info.tolerance_f32, info.tolerance_narrow
        self.dtypes, self.values = (), {}
        if self.type:
            self.dtypes = tuple(DTYPE_INFO[i][0] for i in _bits(info.values) if i in DTYPE_INFO)
        elif info.values:
            names = self.shape.split()
            numbers = _bits(info.values)
            if len(names) == len(numbers):
                self.values = dict(zip(names, numbers))

    @property
    def optional(self):
        """May be left out: numbers and enums then are 0."""
        return self.kind != TENSOR or bool(self.flags & OPTIONAL)

    def number(self, value):
        """The int64_t of an integer, the name of a value, or the name of a dtype."""
        if isinstance(value, str):
            if value in self.values:
                return self.values[value]
            if self.type and value in DTYPES:
                return dtype_number(value)
            known = self.dtypes or [name for name in self.values if not name.isdigit()]
            raise Error(f'is "{value}", expected ' +
                        (f"one of {' '.join(known)}" if known else "an integer"))
        try:
            return _operator.index(value)
        except TypeError:
            if self.type:
                return dtype_number(value)
            raise Error(f"is a {type(value).__name__}, expected an integer") from None


def _value(argument, value):
    if argument.kind == INT:
        return argument.number(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Error(f"is a {type(value).__name__}, expected a number") from None


class Operator:
    """Name, arguments, rules and back ends of an operator, and how to call it."""

    def __init__(self, info):
        self.name = info.name.decode()
        self.arguments = {}
        for i in range(info.num_args):
            argument = Argument(info.args[i].contents)
            self.arguments[argument.name] = argument
        self.rules = tuple(info.rules[i].decode() for i in range(info.num_rules))
        self.backends = tuple(n for n in ("cpu", "cuda", "hip")
                              if info.backends >> {"cpu": CPU, "cuda": 2, "hip": 10}[n] & 1)
        types = {TENSOR: CTensor, REAL: ctypes.c_double, INT: ctypes.c_int64}
        fields = [("struct_size", ctypes.c_size_t)]
        fields += [(a.name, types[a.kind]) for a in self.arguments.values()]
        self.struct = type(f"kvops_{self.name}_args", (ctypes.Structure,), {"_fields_": fields})
        for a in self.arguments.values():
            if getattr(self.struct, a.name).offset != a.offset:
                raise ImportError(f"kvops: {self.name}.{a.name} is not at byte {a.offset}")
        self.size = info.args_size
        self.run = getattr(lib, f"kvops_{self.name}")
        self.run.restype, self.run.argtypes = ctypes.c_int32, None
        sized = [a.name for a in self.arguments.values() if a.flags & SIZED and a.kind == TENSOR]
        self.sized = sized[0] if sized else ""

    def pack(self, values, stream, args=None):
        """(struct, objects that own the memory) of keyword arguments."""
        if args is None:
            args = self.struct()
            args.struct_size = self.size
        stream = stream_handle(stream)
        owners = []
        for name, value in values.items():
            argument = self.arguments.get(name)
            if argument is None:
                raise TypeError(f"{self.name}: unknown argument {name!r}, expected some of "
                                f"{' '.join(self.arguments)}")
            if value is None:
                continue
            try:
                if argument.kind == TENSOR:
                    owners.append(
                        pack(args, argument.offset, value, stream, argument.flags & WRITTEN))
                else:
                    setattr(args, name, _value(argument, value))
            except Error as error:
                raise Error(f"{self.name}: {name}: {error.message}", error.status, self.name,
                            name) from None
        return args, owners


def _table():
    count = ctypes.c_size_t()
    infos = lib.kvops_ops(ctypes.byref(count))
    return {op.name: op for op in (Operator(infos[i].contents) for i in range(count.value))}


ops = _table()


def _find(op):
    found = ops.get(op if isinstance(op, str) else getattr(op, "__name__", None))
    if found is None:
        raise Error(f'there is no operator "{op}"', Status.UNSUPPORTED)
    return found


class Call:
    """A call with its arguments in place: call() runs it again, at the cost of one C call.

    The arrays given to prepare() stay alive with it; their contents may change between calls.
    set(name=value) replaces arguments. One Call serves one thread at a time while it is set.
    """

    __slots__ = ("_run", "_pointer", "_owners", "op", "args", "stream")

    def __init__(self, op, values, stream):
        self.op, self.stream = op, stream
        self.args, owners = op.pack(values, stream)
        given = [name for name, value in values.items() if value is not None]
        self._owners = {name: owner for name, owner in zip(
            (n for n in given if op.arguments[n].kind == TENSOR), owners)}
        self._run = op.run
        self._pointer = ctypes.byref(self.args)

    def __call__(self):
        status = self._run(self._pointer)
        if status:
            raise last_error(status)

    def __repr__(self):
        return f"<kvops.Call {self.op.name}>"

    def set(self, **values):
        """Replaces arguments; None makes one absent. Nothing changes when a value is refused."""
        fresh = self.op.struct.from_buffer_copy(self.args)
        owners = dict(self._owners)
        for name, value in values.items():
            _, held = self.op.pack({name: value}, self.stream, fresh)
            argument = self.op.arguments[name]
            if value is None:
                size = ctypes.sizeof(CTensor) if argument.kind == TENSOR else 8
                ctypes.memset(ctypes.addressof(fresh) + argument.offset, 0, size)
            if argument.kind == TENSOR:
                owners[name] = held[0] if held else None
        ctypes.memmove(ctypes.byref(self.args), ctypes.byref(fresh), ctypes.sizeof(fresh))
        self._owners = owners


def prepare(op, *, stream=None, **arguments):
    """A Call of operator `op` (its name or function) with these arguments; nothing runs yet."""
    return Call(_find(op), arguments, stream)


class Query(tuple):
    """What kvops_query() says about a call that would be accepted."""

    __slots__ = ()
    _fields = ("bytes", "implementation", "graph_safe", "deterministic")
    bytes = property(lambda self: self[0], doc="Least size of the workspace or plan; 0: none.")
    implementation = property(lambda self: self[1], doc='What would run: "avx2", "sm_90".')
    graph_safe = property(lambda self: self[2], doc="May be captured in a CUDA or HIP graph.")
    deterministic = property(lambda self: self[3], doc="The same bits on every run.")

    def __repr__(self):
        return f"Query({', '.join(f'{n}={v!r}' for n, v in zip(self._fields, self))})"


def query(op, *, stream=None, **arguments):
    """Would this call be accepted here? Raises the Error that it would raise; runs nothing.

    Tensors may be shapes without memory: kvops.Tensor(None, "bf16", (16, 4096)).
    """
    op = _find(op)
    args, _owners = op.pack(arguments, stream)
    result = CQueryResult(struct_size=ctypes.sizeof(CQueryResult))
    check(lib.kvops_query(op.name.encode(), ctypes.byref(args), ctypes.byref(result)))
    return Query((result.bytes, result.implementation.decode(), bool(result.graph_safe),
                  bool(result.deterministic)))


def workspace_bytes(op, **arguments):
    """Bytes that the workspace (or plan) of this call needs; 0 when it has none."""
    return query(op, **arguments).bytes


def call(op, *, stream=None, **arguments):
    """Runs an operator by name."""
    op = _find(op)
    args, _owners = op.pack(arguments, stream)
    status = op.run(ctypes.byref(args))
    if status:
        raise last_error(status)


def _signature(op):
    parameters = [
        inspect.Parameter(a.name, inspect.Parameter.KEYWORD_ONLY,
                          default=(None if a.kind == TENSOR else 0) if a.optional
                          else inspect.Parameter.empty)
        for a in op.arguments.values()
    ]
    parameters.append(inspect.Parameter("stream", inspect.Parameter.KEYWORD_ONLY, default=None))
    return inspect.Signature(parameters)


def _argument_line(a, note):
    if note:
        return f"  {a.name}: {note}"
    if a.kind == TENSOR:
        dtypes = " ".join(a.dtypes) if len(a.dtypes) < 11 else "any dtype"
        words = [f"[{a.shape}]" if a.shape else "", dtypes]
        words += ["written"] if a.flags & WRITTEN and not a.flags & READ else []
        words += ["updated"] if a.flags & WRITTEN and a.flags & READ else []
        words += [word for flag, word in ((HOST, "in CPU memory"), (ANYWHERE, "device or CPU"),
                                          (SIZED, "bytes by workspace_bytes()"),
                                          (OPTIONAL, "optional")) if a.flags & flag]
        return f"  {a.name}: " + ", ".join(word for word in words if word)
    kind = "float" if a.kind == REAL else "dtype: " + " ".join(a.dtypes) if a.type else (
        " | ".join(a.values) if a.values else a.shape or "integer")
    return f"  {a.name}: {kind}"


def _docstring(op, doc):
    """The header's comments, and the table where it has none (a younger library, say)."""
    notes = doc.get("fields", {})
    lines = [doc["text"], ""] if doc.get("text") else []
    lines += ["Arguments:"]
    lines += [_argument_line(a, notes.get(a.name)) for a in op.arguments.values()]
    if op.rules:
        lines += ["", "Rules:", *(f"  {rule}" for rule in op.rules)]
    family = _texts.get("families", {}).get(doc.get("family"))
    return "\n".join(lines + (["", family] if family else [])) + "\n"


def _function(op):
    def function(*, stream=None, **arguments):
        args, _owners = op.pack(arguments, stream)
        status = op.run(ctypes.byref(args))
        if status:
            raise last_error(status)

    function.__name__ = function.__qualname__ = op.name
    function.__module__ = "kvops"
    function.__doc__ = _docstring(op, _texts.get("ops", {}).get(op.name, {}))
    function.__signature__ = _signature(op)
    return function


_file = pathlib.Path(__file__).resolve().parent / "docs.json"
_texts = json.loads(_file.read_text(encoding="utf-8")) if _file.exists() else {}
globals().update({name: _function(op) for name, op in ops.items()})
__all__ = list(ops)
