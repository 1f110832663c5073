# vLLM's kv_cache_dtype strings, and what they mean here: the dtype of a cache, or the format of its
# records. Also what depends on the device: which e4m3 "fp8" is, and how nvfp4 lays out V's scales.
from functools import lru_cache

import torch

from .._library import Error, Status
from .._tensor import DTYPES as NUMBERS, dtype_number
from ..device import device_info
from ..operators import ops

GPU = 10 if torch.version.hip else 2  # kvops_device_type behind torch's "cuda"
_KIND = "hip" if torch.version.hip else "cuda"

# torch dtype -> ours; f8 dtypes are younger than some versions of torch
DTYPES = {getattr(torch, name): dtype_number(name) for name in (
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "uint8", "int8", "int32", "int64") if hasattr(torch, name)}
U8 = NUMBERS["u8"]
_F8 = {"fp8": "f8_e4m3", "fp8_e4m3": "f8_e4m3", "fp8_e5m2": "f8_e5m2"}
_PLAIN = {"auto": 0, "float16": NUMBERS["f16"], "half": NUMBERS["f16"],
          "bfloat16": NUMBERS["bf16"], "float32": NUMBERS["f32"], "float": NUMBERS["f32"]}

_flash, _mla = (ops[name].arguments for name in ("reshape_and_cache_flash", "concat_and_cache_mla"))
PLAIN = _flash["format"].values["plain"]
NVFP4 = {name: n for name, n in _flash["format"].values.items() if name != "plain"}
_RECORDS = {name: n for name, n in _mla["format"].values.items() if name != "plain"}
_ENCODINGS = _mla["fp8_encoding"].values
SCALE_RULES = {"pow2": _mla["scale_rule"].values["pow2"], "raw": _mla["scale_rule"].values["amax"]}
NO_LAYOUT, _TRANSPOSED, _LINEAR = (
    _flash["v_scale_layout"].values[name] for name in ("unset", "transposed", "linear"))

_ds_mla_rule = SCALE_RULES["raw"]


def set_ds_mla_scale(name):
    """The rule by which fp8_ds_mla writers scale from now on; its number."""
    global _ds_mla_rule
    if name not in SCALE_RULES:
        raise Error(f"register: ds_mla_scale is {name!r}, expected raw or pow2")
    _ds_mla_rule = SCALE_RULES[name]


def ds_mla_rule():
    return _ds_mla_rule


@lru_cache(maxsize=None)
def e4m3(index):
    """Which e4m3 "fp8" means on a device: e4m3fnuz on gfx94x; -1 is the CPU."""
    return "f8_e4m3" if index < 0 else device_info(f"{_KIND}:{index}").fp8_e4m3


@lru_cache(maxsize=None)
def fp8_encoding(index):
    return _ENCODINGS["fnuz" if e4m3(index) == "f8_e4m3fnuz" else "ocp"]


@lru_cache(maxsize=None)
def v_scale_layout(index):
    """transposed for readers up to compute capability 11.x, linear after that and on the CPU."""
    if index < 0 or torch.cuda.get_device_capability(index)[0] >= 12:
        return _LINEAR
    return _TRANSPOSED


def _unsupported(op, kv_cache_dtype):
    return Error(f'{op}: kv_cache_dtype: is "{kv_cache_dtype}", which this operator does not know',
                 Status.UNSUPPORTED, op, "kv_cache_dtype")


def cache_dtype(op, kv_cache_dtype, index):
    """The dtype behind the string, 0: the cache tensor's own."""
    name = _F8.get(kv_cache_dtype)
    if name is None:
        if kv_cache_dtype not in _PLAIN:
            raise _unsupported(op, kv_cache_dtype)
        return _PLAIN[kv_cache_dtype]
    return NUMBERS[e4m3(index) if name == "f8_e4m3" else name]


def is_f8(kv_cache_dtype):
    return kv_cache_dtype in _F8


def mla_format(op, kv_cache_dtype, index):
    """(format, dtype of the cache, 0: its own) of the MLA writers."""
    number = _RECORDS.get(kv_cache_dtype)
    if number is None:
        return PLAIN, cache_dtype(op, kv_cache_dtype, index)
    return number, U8


def torch_dtype(value):
    """A ScalarType argument as our number: a torch.dtype, or its number in older torch."""
    if isinstance(value, int):
        value = _SCALAR_TYPES[value]
    return DTYPES[value]


_SCALAR_TYPES = {0: torch.uint8, 1: torch.int8, 3: torch.int32, 4: torch.int64, 5: torch.float16,
                 6: torch.float32, 15: torch.bfloat16}
