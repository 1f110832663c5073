# vLLM's cache operators (_C_cache_ops) as calls of the library: writes, moves and gathers. Each
# function has its schema's name and arguments. Scales are passed where the cache is fp8 only:
# elsewhere vLLM's callers may give anything for them.
from functools import lru_cache, partial

import torch

from .._library import Error, Status
from .calls import Call, as_bytes, as_dtype, first, form, kernel, one
from .formats import (
    DTYPES,
    NO_LAYOUT,
    NVFP4,
    PLAIN,
    SCALE_RULES,
    U8,
    cache_dtype,
    ds_mla_rule,
    fp8_encoding,
    is_f8,
    mla_format,
    v_scale_layout,
)

# ---- writes --------------------------------------------------------------------------------------

def _scaled_caches(op, kv_cache_dtype, index, caches, tensors, scales):
    """(form, are scales given) of a writer whose caches are plain or fp8."""
    dtype = cache_dtype(op, kv_cache_dtype, index)
    if not is_f8(kv_cache_dtype):
        return form(op, tensors), False
    seen = {name: partial(as_dtype, dtype=dtype) for name in caches.split()}
    seen.update({name: one for name in scales.split()})
    return form(op, f"{tensors} {scales}", **seen), True


@lru_cache(maxsize=None)
def _packed(kv_cache_dtype, index):
    return _scaled_caches("reshape_and_cache", kv_cache_dtype, index, "key_cache value_cache",
                          "key value key_cache value_cache slot_mapping", "k_scale v_scale")


@kernel
def reshape_and_cache(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype, k_scale,
                      v_scale):
    call, scaled = _packed(kv_cache_dtype, key_cache.get_device())
    if scaled:
        call((key, value, key_cache, value_cache, slot_mapping, k_scale, v_scale))
    else:
        call((key, value, key_cache, value_cache, slot_mapping))


@lru_cache(maxsize=None)
def _flash(kv_cache_dtype, index):
    op, tensors, scales = ("reshape_and_cache_flash",
                           "key value key_cache value_cache slot_mapping", "k_scale v_scale")
    if kv_cache_dtype in NVFP4:
        call = form(op, f"{tensors} {scales}", key_cache=as_bytes, value_cache=as_bytes,
                    k_scale=one, v_scale=one)
        return call, True, (NVFP4[kv_cache_dtype], v_scale_layout(index))
    call, scaled = _scaled_caches(op, kv_cache_dtype, index, "key_cache value_cache", tensors,
                                  scales)
    return call, scaled, (PLAIN, NO_LAYOUT)


@kernel
def reshape_and_cache_flash(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype,
                            k_scale, v_scale):
    call, scaled, numbers = _flash(kv_cache_dtype, key_cache.get_device())
    if scaled:
        call((key, value, key_cache, value_cache, slot_mapping, k_scale, v_scale), numbers)
    else:
        call((key, value, key_cache, value_cache, slot_mapping), numbers)


@lru_cache(maxsize=None)
def _mla(op, tensors, kv_cache_dtype, index):
    """(form, is a scale given, format, encoding) of the two writers of MLA entries."""
    number, _dtype = mla_format(op, kv_cache_dtype, index)
    if number != PLAIN:
        return form(op, tensors, kv_cache=as_bytes), False, number, fp8_encoding(index)
    call, scaled = _scaled_caches(op, kv_cache_dtype, index, "kv_cache", tensors, "kv_scale")
    return call, scaled, PLAIN, fp8_encoding(index)


@kernel
def concat_and_cache_mla(kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, scale):
    call, scaled, number, encoding = _mla("concat_and_cache_mla", "kv_c k_pe kv_cache slot_mapping",
                                          kv_cache_dtype, kv_cache.get_device())
    more = (scale,) if scaled else ()
    call((kv_c, k_pe, kv_cache, slot_mapping, *more), (number, ds_mla_rule(), encoding))


@kernel
def concat_and_cache_mla_rope_fused(positions, q_pe, k_pe, kv_c, cos_sin_cache, is_neox,
                                    slot_mapping, kv_cache, kv_cache_dtype, kv_cache_scale):
    call, scaled, number, encoding = _mla(
        "concat_and_cache_mla_rope_fused",
        "positions q_pe k_pe kv_c cos_sin_cache kv_cache slot_mapping", kv_cache_dtype,
        kv_cache.get_device())
    more = (kv_cache_scale,) if scaled else ()
    call((positions, q_pe, k_pe, kv_c, cos_sin_cache, kv_cache, slot_mapping, *more),
         (is_neox, number, ds_mla_rule(), encoding))


_concat_and_cache_mla_grouped = Call("concat_and_cache_mla_grouped")


@kernel
def concat_and_cache_mla_grouped(kv_c, k_pe, kv_cache_ptrs, slot_mapping, block_size, block_stride,
                                 entry_stride, kv_scales=None, kv_cache_dtype="auto"):
    index = kv_c.get_device()
    number, dtype = mla_format("concat_and_cache_mla_grouped", kv_cache_dtype, index)
    # num_blocks 0: how many blocks the caches have is not in vLLM's call, slots are not bounded.
    _concat_and_cache_mla_grouped(
        (kv_c, k_pe, kv_cache_ptrs, slot_mapping, kv_scales, None),
        (dtype or DTYPES[kv_c.dtype], 0, block_size, block_stride, entry_stride, number,
         ds_mla_rule(), fp8_encoding(index)))


_indexer = form("indexer_k_quant_and_cache", "k kv_cache slot_mapping", kv_cache=as_bytes)


@kernel
def indexer_k_quant_and_cache(k, kv_cache, slot_mapping, quant_block_size, kv_cache_dtype):
    """The last argument, whatever its name, is the format of the scales."""
    rule = SCALE_RULES["pow2" if kv_cache_dtype == "ue8m0" else "raw"]
    _indexer((k, kv_cache, slot_mapping),
             (quant_block_size, rule, fp8_encoding(kv_cache.get_device())))


# ---- moves ---------------------------------------------------------------------------------------

_swap_blocks = Call("swap_blocks")
_swap_blocks_batch = Call("swap_blocks_batch")
_convert_fp8 = Call("convert_fp8")
_concat_mla_q = form("concat_mla_q", "ql_nope q_pe out")


@kernel
def swap_blocks(src, dst, block_size_in_bytes, block_mapping):
    _swap_blocks((as_dtype(src, U8) if src.element_size() == 1 else src,
                  as_dtype(dst, U8) if dst.element_size() == 1 else dst, block_mapping),
                 (block_size_in_bytes,))


_queues = {}


def _queue():
    """A tensor on torch's current device, whose current stream the copies join; else on the CPU."""
    index = torch.cuda.current_device() if torch.cuda.is_available() else -1
    if index not in _queues:
        place = f"cuda:{index}" if index >= 0 else "cpu"
        _queues[index] = torch.empty(1, dtype=torch.uint8, device=place)
    return _queues[index]


@kernel
def swap_blocks_batch(src_ptrs, dst_ptrs, sizes, is_src_access_order_any=False):
    _swap_blocks_batch((_queue(), src_ptrs, dst_ptrs, sizes), (is_src_access_order_any,))


@kernel
def convert_fp8(dst_cache, src_cache, scale, kv_cache_dtype):
    dtype = cache_dtype("convert_fp8", kv_cache_dtype, src_cache.get_device())
    if not is_f8(kv_cache_dtype):
        raise Error(f'convert_fp8: kv_cache_dtype: is "{kv_cache_dtype}", expected fp8, fp8_e4m3 '
                    "or fp8_e5m2", Status.UNSUPPORTED, "convert_fp8", "kv_cache_dtype")
    # vLLM's kernel goes by address: x-packed caches of 8 and 16 bits differ in shape there.
    pair = (src_cache, dst_cache)
    if src_cache.shape != dst_cache.shape and src_cache.numel() == dst_cache.numel() > 0:
        pair = (t.view(t.shape[0], -1) if t.is_contiguous() else t for t in pair)
    src, dst = (as_dtype(t, dtype) if t.element_size() == 1 else t for t in pair)
    _convert_fp8((src, dst), (scale,))


@kernel
def concat_mla_q(ql_nope, q_pe, q_out):
    _concat_mla_q((ql_nope, q_pe, q_out))


# ---- gathers -------------------------------------------------------------------------------------

_gather_and_maybe_dequant_cache = Call("gather_and_maybe_dequant_cache")
_cp_gather_cache = Call("cp_gather_cache")
_upconvert_fp8 = Call("cp_gather_and_upconvert_fp8_kv_cache")
_upconvert_nvfp4 = Call("cp_gather_and_upconvert_nvfp4_kv_cache")
_cp_gather_indexer = Call("cp_gather_indexer_k_quant_cache")


@kernel
def gather_and_maybe_dequant_cache(src_cache, dst, block_table, cu_seq_lens, token_to_seq,
                                   num_tokens, kv_cache_dtype, scale, seq_starts):
    dtype = cache_dtype("gather_and_maybe_dequant_cache", kv_cache_dtype, src_cache.get_device())
    scaled, batch = is_f8(kv_cache_dtype), cu_seq_lens.shape[0] - 1
    _gather_and_maybe_dequant_cache(
        (as_dtype(src_cache, dtype) if scaled else src_cache, first(block_table, batch),
         cu_seq_lens, first(seq_starts, batch), one(scale) if scaled else None,
         first(dst, min(num_tokens, dst.shape[0])), None), (0,))


@kernel
def cp_gather_cache(src_cache, dst, block_table, cu_seq_lens, batch_size, seq_starts=None):
    if src_cache.dim() != dst.dim() + 1:  # the same entries, of another shape
        src_cache, dst = src_cache.flatten(2), dst.view(dst.shape[0], -1)
    if src_cache.element_size() == 1:
        src_cache, dst = as_bytes(src_cache), as_bytes(dst)
    _cp_gather_cache((src_cache, first(block_table, batch_size),
                      first(cu_seq_lens, batch_size + 1), first(seq_starts, batch_size), dst,
                      None), (0,))


@kernel
def cp_gather_and_upconvert_fp8_kv_cache(src_cache, dst, block_table, workspace_starts, batch_size,
                                         seq_starts=None, host_cache=None, host_row_ids=None,
                                         device_row_ids=None):
    if host_cache is not None or host_row_ids is not None or device_row_ids is not None:
        raise Error("cp_gather_and_upconvert_fp8_kv_cache: host_cache: is given, expected a cache "
                    "that lies on the device", Status.UNSUPPORTED,
                    "cp_gather_and_upconvert_fp8_kv_cache", "host_cache")
    _upconvert_fp8((as_bytes(src_cache), first(block_table, batch_size), workspace_starts,
                    first(seq_starts, batch_size), dst, None),
                   (0, fp8_encoding(src_cache.get_device())))


def upconvert_with_lengths(src_cache, dst, block_table, seq_lens, workspace_starts, batch_size):
    """The call of 2026-05, whose lengths say nothing that the starts do not."""
    cp_gather_and_upconvert_fp8_kv_cache(src_cache, dst, block_table, workspace_starts, batch_size)


@kernel
def cp_gather_and_upconvert_nvfp4_kv_cache(src_cache, dst, block_table, workspace_starts,
                                           batch_size):
    _upconvert_nvfp4((as_bytes(src_cache), first(block_table, batch_size), workspace_starts, None,
                      dst, None), (0,))


@kernel
def cp_gather_indexer_k_quant_cache(kv_cache, dst_k, dst_scale, block_table, cu_seq_lens):
    _cp_gather_indexer((as_bytes(kv_cache), first(block_table, cu_seq_lens.shape[0] - 1),
                        cu_seq_lens, None, dst_k, as_bytes(dst_scale), None), (0,))
