# vLLM's attention operators and what belongs to them (sparse index lists, top-k), as calls of the
# library. Each function has its schema's name and arguments.
import torch

from .._library import Error
from .calls import Call, as_dtype, first, kernel, one
from .formats import DTYPES, NUMBERS, cache_dtype, is_f8

_v1, _v2 = Call("paged_attention_v1"), Call("paged_attention_v2")
_merge = Call("merge_attn_states")
_slash = Call("convert_vertical_slash_indexes")
_slash_merged = Call("convert_vertical_slash_indexes_mergehead")
_top_k_prefill = Call("top_k_per_row_prefill")
_top_k_decode = Call("top_k_per_row_decode")


def _expect(op, argument, seen, expected, why):
    if seen != expected:
        raise Error(f"{op}: {argument}: is {seen}, expected {expected} ({why})", op=op,
                    argument=argument)


def _paged(call, out, query, key_cache, value_cache, num_kv_heads, scale, block_tables, seq_lens,
           block_size, max_seq_len, alibi_slopes, kv_cache_dtype, k_scale, v_scale, tp_rank,
           blocksparse_local_blocks, blocksparse_vert_stride, blocksparse_block_size,
           blocksparse_head_sliding_step):
    dtype = cache_dtype(call.name, kv_cache_dtype, key_cache.get_device())
    _expect(call.name, "num_kv_heads", num_kv_heads, key_cache.shape[1], "key_cache.shape[1]")
    _expect(call.name, "block_size", block_size, key_cache.shape[3], "key_cache.shape[3]")
    if is_f8(kv_cache_dtype):
        key_cache, value_cache = as_dtype(key_cache, dtype), as_dtype(value_cache, dtype)
        k_scale, v_scale = one(k_scale), one(v_scale)
    else:
        k_scale = v_scale = None
    call.with_workspace(
        (query, key_cache, value_cache, block_tables, seq_lens, alibi_slopes, k_scale, v_scale,
         None, out, None, None, None),
        (scale, 0.0, max_seq_len, 0, 0, tp_rank, blocksparse_local_blocks, blocksparse_vert_stride,
         blocksparse_block_size, blocksparse_head_sliding_step), query)


@kernel
def paged_attention_v1(out, query, *rest):
    _paged(_v1, out, query, *rest)


@kernel
def paged_attention_v2(out, exp_sums, max_logits, tmp_out, query, *rest):
    """What vLLM keeps in exp_sums, max_logits and tmp_out is kept in a workspace of ours."""
    _paged(_v2, out, query, *rest)


@kernel
def merge_attn_states(output, output_lse, prefix_output, prefix_lse, suffix_output, suffix_lse,
                      prefill_tokens_with_context, output_scale=None):
    tokens, given = output.shape[0], prefill_tokens_with_context
    alone = 0 if given is None else min(max(tokens - given, 0), tokens)
    if output.dtype == torch.uint8:
        output = as_dtype(output, NUMBERS["f8_e4m3"])
    _merge((prefix_output, prefix_lse, suffix_output, suffix_lse, one(output_scale), output,
            output_lse), (alone, 0))


# ---- sparse index lists --------------------------------------------------------------------------


def _row_blocks(op, block_count, context_size, block_size_M):
    """vLLM counts the rows of its outputs by context_size; here they say themselves."""
    if block_size_M > 0:
        _expect(op, "context_size", -(-context_size // block_size_M), block_count.shape[-1],
                "blocks of block_size_M rows in block_count")


@kernel
def convert_vertical_slash_indexes(block_count, block_offset, column_count, column_index,
                                   q_seqlens, kv_seqlens, vertical_indexes, slash_indexes,
                                   context_size, block_size_M, block_size_N, causal):
    _row_blocks(_slash.name, block_count, context_size, block_size_M)
    _slash((q_seqlens, kv_seqlens, vertical_indexes, slash_indexes, block_count, block_offset,
            column_count, column_index, None), (block_size_M, block_size_N, causal))


@kernel
def convert_vertical_slash_indexes_mergehead(
        block_count, block_offset, column_count, column_index, q_seqlens, kv_seqlens,
        vertical_indexes, slash_indexes, vertical_indices_count, slash_indices_count, context_size,
        block_size_M, block_size_N, causal):
    _row_blocks(_slash_merged.name, block_count, context_size, block_size_M)
    _slash_merged((q_seqlens, kv_seqlens, vertical_indexes, slash_indexes, vertical_indices_count,
                   slash_indices_count, block_count, block_offset, column_count, column_index,
                   None), (block_size_M, block_size_N, causal))


# ---- top-k ---------------------------------------------------------------------------------------


def _logits(logits, rows, stride0, stride1):
    """vLLM reads `rows` rows at the strides that it is told, not at the tensor's."""
    if (rows, stride0, stride1) == (logits.shape[0], *logits.stride()):
        return logits
    return logits, DTYPES.get(logits.dtype), (rows, logits.shape[1]), (stride0, stride1)


def _indices(op, indices, rows, k):
    if k > indices.shape[1] or rows > indices.shape[0]:
        raise Error(f"{op}: indices: shape is {list(indices.shape)}, expected at least "
                    f"[{rows}, {k}] (numRows, topK)", op=op, argument="indices")
    return indices, DTYPES.get(indices.dtype), (rows, k), indices.stride()


@kernel
def top_k_per_row_prefill(logits, rowStarts, rowEnds, indices, numRows, stride0, stride1, topK):
    _top_k_prefill.with_workspace(
        (_logits(logits, numRows, stride0, stride1), first(rowStarts, numRows),
         first(rowEnds, numRows), _indices(_top_k_prefill.name, indices, numRows, topK), None),
        (0,), logits)


@kernel
def top_k_per_row_decode(logits, next_n, seq_lens, indices, numRows, stride0, stride1, topK):
    _top_k_decode.with_workspace(
        (_logits(logits, numRows, stride0, stride1), seq_lens,
         _indices(_top_k_decode.name, indices, numRows, topK), None), (next_n, 0), logits)
