# Process-wide settings of the library: include/kvcache_ops/options.h.
import ctypes

from ._library import check, lib

_LOG = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)
_log = None  # the callback that the library holds


def set_num_threads(threads):
    """Threads of the CPU back end; 0: as many as the process may use."""
    check(lib.kvops_set_num_threads(threads))


def set_option(name, value):
    """What KVOPS_DEBUG, KVOPS_IMPL, KVOPS_CPU_ISA say at load: debug, impl, cpu_isa."""
    check(lib.kvops_set_option(name.encode(), value.encode()))


def set_log(function):
    """Sends the lines of the debug option "log" to function(str); None: to stderr."""
    global _log
    callback = function and _LOG(lambda _context, line: function(line.decode()))
    check(lib.kvops_set_log(ctypes.cast(callback, ctypes.c_void_p) if callback else None, None))
    _log = callback
