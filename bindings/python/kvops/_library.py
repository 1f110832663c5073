# The shared library: where it is found, its C structs, its error as an exception.
#
# Order of the search: the file that KVOPS_LIBRARY names, the package's own folder (wheels), the
# system's loader (libkvops.so.1). The first that is named or exists must load: no silent fallback.
import ctypes
import enum
import os
import pathlib

_SONAME = "libkvops.so.1"
_MAJOR = 0  # of KVOPS_VERSION; equal majors are compatible


class CTensor(ctypes.Structure):
    """kvops_tensor: 128 bytes."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 6),
        ("stride", ctypes.c_int64 * 6),
        ("stream", ctypes.c_void_p),
    ]


class CDevice(ctypes.Structure):
    """kvops_device: passed by value."""

    _fields_ = [("type", ctypes.c_int32), ("index", ctypes.c_int32)]


class CDeviceInfo(ctypes.Structure):
    """kvops_device_info."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("name", ctypes.c_char * 128),
        ("arch", ctypes.c_char * 32),
        ("memory_bytes", ctypes.c_int64),
        ("cache_bytes", ctypes.c_int64),
        ("compute_units", ctypes.c_int64),
        ("warp_size", ctypes.c_int64),
        ("fp8_e4m3", ctypes.c_int64),
    ]


class CQueryResult(ctypes.Structure):
    """kvops_query_result."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("bytes", ctypes.c_int64),
        ("implementation", ctypes.c_char_p),
        ("graph_safe", ctypes.c_int64),
        ("deterministic", ctypes.c_int64),
    ]


class _CError(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("op", ctypes.c_char_p),
        ("argument", ctypes.c_char_p),
        ("message", ctypes.c_char_p),
        ("element", ctypes.c_int64),
        ("status", ctypes.c_int64),
    ]


class CArgInfo(ctypes.Structure):
    """kvops_arg_info: as much of it as this package knows."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("offset", ctypes.c_size_t),
        ("kind", ctypes.c_int32),
        ("flags", ctypes.c_int32),
        ("values", ctypes.c_uint64),
        ("type", ctypes.c_char_p),
        ("shape", ctypes.c_char_p),
        ("compare", ctypes.c_int64),
        ("tolerance_f32", ctypes.c_double),
        ("tolerance_narrow", ctypes.c_double),
    ]


class COpInfo(ctypes.Structure):
    """kvops_op_info: as much of it as this package knows."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("args_size", ctypes.c_size_t),
        ("num_args", ctypes.c_size_t),
        ("args", ctypes.POINTER(ctypes.POINTER(CArgInfo))),
        ("num_rules", ctypes.c_size_t),
        ("rules", ctypes.POINTER(ctypes.c_char_p)),
        ("backends", ctypes.c_uint64),
    ]


class Status(enum.IntEnum):
    """What a call returns; every value but OK arrives as an Error."""

    OK = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    UNAVAILABLE = 3
    OUT_OF_MEMORY = 4
    DEVICE_ERROR = 5
    INTERNAL = 6


class Error(RuntimeError):
    """A refused or failed call. str() is the library's sentence.

    status: a Status; op, argument: names, "" when none is at fault; element: of the argument, -1:
    none.
    """

    def __init__(self, message, status=Status.INVALID_ARGUMENT, op="", argument="", element=-1):
        super().__init__(message)
        self.message = message
        self.status = Status(status)
        self.op = op
        self.argument = argument
        self.element = element

    def __reduce__(self):
        return Error, (self.message, self.status, self.op, self.argument, self.element)


def _candidate():
    named = os.environ.get("KVOPS_LIBRARY")
    if named:
        return named
    for name in (_SONAME, "libkvops.so"):
        beside = pathlib.Path(__file__).resolve().parent / name
        if beside.exists():
            return str(beside)
    return _SONAME


def _load():
    path = _candidate()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"kvops: cannot load {path}: {error}; "
            "install libkvops, or let KVOPS_LIBRARY name the file"
        ) from None
    version = library.kvops_version()
    if version // 10000 != _MAJOR:
        raise ImportError(f"kvops: {path} has version {version}, expected major {_MAJOR}")
    return library


def _loaded_path(library):
    """The file behind the handle, by the address of one of its functions."""

    class DlInfo(ctypes.Structure):
        _fields_ = [
            ("file", ctypes.c_char_p),
            ("base", ctypes.c_void_p),
            ("symbol", ctypes.c_char_p),
            ("address", ctypes.c_void_p),
        ]

    info = DlInfo()
    function = ctypes.cast(library.kvops_version, ctypes.c_void_p)
    try:
        dladdr = ctypes.CDLL(None).dladdr
    except AttributeError:
        return library._name
    dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(DlInfo)]
    return os.fsdecode(info.file) if dladdr(function, ctypes.byref(info)) else library._name


def _declare(library):
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    status = ctypes.c_int32
    signatures = {
        "kvops_version": (status,),
        "kvops_get_error": (status, ctypes.POINTER(_CError)),
        "kvops_dtype_name": (ctypes.c_char_p, ctypes.c_int32),
        "kvops_dtype_size": (size, ctypes.c_int32),
        "kvops_query": (status, ctypes.c_char_p, pointer, ctypes.POINTER(CQueryResult)),
        "kvops_ops": (
            ctypes.POINTER(ctypes.POINTER(COpInfo)),
            ctypes.POINTER(ctypes.c_size_t),
        ),
        "kvops_device_count": (status, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32)),
        "kvops_get_device_info": (status, CDevice, ctypes.POINTER(CDeviceInfo)),
        "kvops_malloc": (status, CDevice, size, ctypes.POINTER(pointer)),
        "kvops_free": (status, CDevice, pointer),
        "kvops_malloc_pinned": (status, CDevice, size, ctypes.POINTER(pointer)),
        "kvops_free_pinned": (status, CDevice, pointer),
        "kvops_copy": (status, CDevice, pointer, pointer, pointer, size),
        "kvops_fill": (status, CDevice, pointer, pointer, ctypes.c_int32, size),
        "kvops_stream_create": (status, CDevice, ctypes.POINTER(pointer)),
        "kvops_stream_destroy": (status, CDevice, pointer),
        "kvops_stream_synchronize": (status, CDevice, pointer),
        "kvops_set_num_threads": (status, size),
        "kvops_set_option": (status, ctypes.c_char_p, ctypes.c_char_p),
        "kvops_set_log": (status, pointer, pointer),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"kvops: {library._name} lacks {name}: it is older than this package")
        function.restype = result
        function.argtypes = arguments


lib = _load()
_declare(lib)
path = _loaded_path(lib)


def version():
    """(major, minor, patch) of the loaded library."""
    number = lib.kvops_version()
    return number // 10000, number // 100 % 100, number % 100


def last_error(status):
    """The Error of the call that just returned `status` on this thread."""
    error = _CError(struct_size=ctypes.sizeof(_CError))
    lib.kvops_get_error(ctypes.byref(error))
    return Error(
        error.message.decode(), status, error.op.decode(), error.argument.decode(), error.element
    )


def check(status):
    """Raises what the last library call reported, if it failed."""
    if status:
        raise last_error(status)
