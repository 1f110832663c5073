# The operators of vLLM's CPU back end as calls of the library: attention over a cache that is
# packed for the CPU, and matrix products with packed weights. Each function has its schema's name
# and arguments.
from functools import lru_cache

import torch

from .._library import Error, Status
from .._tensor import Tensor
from ..operators import TENSOR, query
from . import formats
from .calls import Call, as_dtype, first, kernel, one
from .formats import cache_dtype, torch_dtype

_plan = Call("cpu_attn_get_scheduler_metadata")
_write = Call("cpu_attn_reshape_and_cache")
_attention = Call("cpu_attention_with_kv_cache")
_create_mm = Call("create_onednn_mm")
_create_scaled_mm = Call("create_onednn_scaled_mm")
_mm = Call("onednn_mm")
_scaled_mm = Call("onednn_scaled_mm")
_release = Call("release_dnnl_matmul_handler")
_ISA = _plan.op.arguments["isa"].values


def _packing(op, isa):
    if isa not in _ISA:
        raise Error(f'{op}: isa: is "{isa}", expected one of {" ".join(_ISA)}',
                    Status.UNSUPPORTED, op, "isa")
    return _ISA[isa]


def _window(size, causal):
    """vLLM's window counts the token itself; -1: unlimited."""
    left = size - 1 if size >= 0 else -1
    return left, 0 if causal else left


# ---- attention -----------------------------------------------------------------------------------


def plan_arguments(num_req, num_heads_q, num_heads_kv, head_dim, seq_lens, dtype, query_start_loc,
                   casual, window_size, isa_hint, enable_kv_split, dynamic_causal=None,
                   kv_cache_dtype="auto"):
    """(tensors, numbers) of the plan, which does not depend on the cache's dtype."""
    cache_dtype(_plan.name, kv_cache_dtype, -1)
    return ((first(seq_lens, num_req), first(query_start_loc, num_req + 1),
             first(dynamic_causal, num_req), None),
            (num_heads_q, num_heads_kv, head_dim, torch_dtype(dtype),
             _packing(_plan.name, isa_hint), casual, *_window(window_size, casual),
             enable_kv_split))


def plan_bytes(reqs, numbers):
    """The size of a plan for `reqs` requests, which depends on nothing else that is on a device."""
    names = [a.name for a in _plan.op.arguments.values() if a.kind != TENSOR]
    return query(_plan.name, seq_lens=Tensor(None, "i32", (reqs,)),
                 query_start_loc=Tensor(None, "i32", (reqs + 1,)),
                 **dict(zip(names, numbers))).bytes


@kernel
def get_scheduler_metadata(*arguments):
    tensors, numbers = plan_arguments(*arguments)
    plan = torch.empty(_plan.bytes(tensors, numbers), dtype=torch.int8, device="cpu")
    _plan((*tensors[:3], plan), numbers)
    return plan


@kernel
def cpu_attn_reshape_and_cache(key, value, key_cache, value_cache, slot_mapping, isa, k_scale=1.0,
                               v_scale=1.0, kv_cache_dtype="auto"):
    dtype = cache_dtype(_write.name, kv_cache_dtype, -1)
    if formats.is_f8(kv_cache_dtype):
        key_cache, value_cache = as_dtype(key_cache, dtype), as_dtype(value_cache, dtype)
    _write((key, value, key_cache, value_cache, slot_mapping, None),
           (k_scale, v_scale, _packing(_write.name, isa)))


def _attend(query, key_cache, value_cache, output, query_start_loc, seq_lens, scale, causal,
            alibi_slopes, window, block_table, softcap, scheduler_metadata, s_aux, dynamic_causal,
            k_scale, v_scale, kv_cache_dtype):
    dtype = cache_dtype(_attention.name, kv_cache_dtype, -1)
    if formats.is_f8(kv_cache_dtype):
        key_cache, value_cache = as_dtype(key_cache, dtype), as_dtype(value_cache, dtype)
    _attention.with_workspace(
        (query, key_cache, value_cache, query_start_loc, seq_lens, block_table, alibi_slopes,
         s_aux, scheduler_metadata, dynamic_causal, output, None, None, None),
        (scale, softcap, k_scale, v_scale, causal, *window), query)


@kernel
def cpu_attention_with_kv_cache(
        query, key_cache, value_cache, output, query_start_loc, seq_lens, scale, causal,
        alibi_slopes, sliding_window_size, block_table, softcap, scheduler_metadata, s_aux,
        dynamic_causal, k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto"):
    _attend(query, key_cache, value_cache, output, query_start_loc, seq_lens, scale, causal,
            alibi_slopes, _window(sliding_window_size, causal), block_table, softcap,
            scheduler_metadata, s_aux, dynamic_causal, k_scale, v_scale, kv_cache_dtype)


def cpu_attention_with_two_windows(
        query, key_cache, value_cache, output, query_start_loc, seq_lens, scale, causal,
        alibi_slopes, sliding_window_left, sliding_window_right, block_table, softcap,
        scheduler_metadata, s_aux, k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto"):
    """The call of 2026-05."""
    right = 0 if causal else sliding_window_right
    _attend(query, key_cache, value_cache, output, query_start_loc, seq_lens, scale, causal,
            alibi_slopes, (sliding_window_left, right), block_table, softcap, scheduler_metadata,
            s_aux, None, k_scale, v_scale, kv_cache_dtype)


@lru_cache(maxsize=None)
def _cpu_flags():
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return frozenset(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()


@kernel
def cpu_attn_has_isa(isa):
    """Every packing is read on every CPU; "amx" is named where it also is the fast one."""
    return isa in _ISA and (isa != "amx" or {"amx_tile", "amx_bf16"} <= _cpu_flags())


@kernel
def cpu_has_amx_fp8():
    return False


# ---- products ------------------------------------------------------------------------------------


@kernel
def create_onednn_mm_handler(b, primitive_cache_size):
    handle = torch.zeros(1, dtype=torch.int64, device="cpu")
    _create_mm((b, handle), (primitive_cache_size,))
    return handle.item()


@kernel
def create_onednn_scaled_mm_handler(b, b_scales, output_type, dynamic_act_quant, use_azp,
                                    primitive_cache_size):
    handle = torch.zeros(1, dtype=torch.int64, device="cpu")
    _create_scaled_mm((b, one(b_scales), handle), (torch_dtype(output_type), dynamic_act_quant,
                                                   use_azp, primitive_cache_size))
    return handle.item()


def _matrix(tensor):
    return tensor if tensor.dim() == 2 else tensor.view(-1, tensor.shape[-1])


@kernel
def onednn_mm(c, a, bias, handler_tensor):
    _mm((_matrix(a), bias, _matrix(c)), (handler_tensor.item(),))


@kernel
def onednn_scaled_mm(c, a, a_scales, azp, azp_adj, bias, handler_tensor):
    _scaled_mm((_matrix(a), one(a_scales), one(azp), azp_adj, bias, _matrix(c)),
               (handler_tensor.item(),))


@kernel
def release_dnnl_matmul_handler(handler):
    _release((), (handler,))


@kernel
def is_onednn_acl_supported():
    return False
