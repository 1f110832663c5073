# vLLM's operator schemas, of the two moments that register() knows, and which of them an installed
# vLLM speaks. "!" marks what an operator writes. Where vLLM's own text cannot be used as it is (an
# integer marked as written, two arguments of one name), the calls are the same and the text is put
# right. Operators that one of the two lacks are registered in the other's form.
import importlib.util
import pathlib
from typing import NamedTuple

VERSIONS = ("2026-05", "2026-09")

_GATED = ("silu_and_mul(Tensor! result, Tensor input) -> ()",
          *(f"{name}(Tensor! out, Tensor input) -> ()"
            for name in ("mul_and_silu", "gelu_and_mul", "gelu_tanh_and_mul")),
          "fatrelu_and_mul(Tensor! out, Tensor input, float threshold) -> ()",
          "swigluoai_and_mul(Tensor! out, Tensor input, float alpha=1.702, float limit=7.0) -> ()")

_PAGED = ("Tensor query, Tensor key_cache, Tensor value_cache, int num_kv_heads, float scale, "
          "Tensor block_tables, Tensor seq_lens, int block_size, int max_seq_len, "
          "Tensor? alibi_slopes, str kv_cache_dtype, Tensor k_scale, Tensor v_scale, int tp_rank, "
          "int blocksparse_local_blocks, int blocksparse_vert_stride, int blocksparse_block_size, "
          "int blocksparse_head_sliding_step) -> ()")

_SLASH_OUT = "Tensor! block_count, Tensor! block_offset, Tensor! column_count, Tensor! column_index"
_SLASH_IN = ("Tensor q_seqlens, Tensor kv_seqlens, Tensor vertical_indexes, "
             "Tensor slash_indexes")
_SLASH_REST = "int context_size, int block_size_M, int block_size_N, bool causal) -> ()"

_MAIN = (
    *_GATED,
    "rotary_embedding(Tensor positions, Tensor! query, Tensor!? key, int head_size, "
    "Tensor cos_sin_cache, bool is_neox, int rope_dim_offset=0, bool inverse=False) -> ()",
    "static_scaled_int8_quant(Tensor! result, Tensor input, Tensor scale, Tensor? azp) -> ()",
    "dynamic_scaled_int8_quant(Tensor! result, Tensor input, Tensor! scale, Tensor!? azp) -> ()",
    f"paged_attention_v1(Tensor! out, {_PAGED}",
    "paged_attention_v2(Tensor! out, Tensor! exp_sums, Tensor! max_logits, Tensor! tmp_out, "
    + _PAGED,
    "merge_attn_states(Tensor! output, Tensor!? output_lse, Tensor prefix_output, "
    "Tensor prefix_lse, Tensor suffix_output, Tensor suffix_lse, "
    "int? prefill_tokens_with_context, Tensor? output_scale=None) -> ()",
    f"convert_vertical_slash_indexes({_SLASH_OUT}, {_SLASH_IN}, {_SLASH_REST}",
    f"convert_vertical_slash_indexes_mergehead({_SLASH_OUT}, {_SLASH_IN}, "
    f"Tensor vertical_indices_count, Tensor slash_indices_count, {_SLASH_REST}",
    "top_k_per_row_prefill(Tensor logits, Tensor rowStarts, Tensor rowEnds, Tensor! indices, "
    "int numRows, int stride0, int stride1, int topK) -> ()",
    "top_k_per_row_decode(Tensor logits, int next_n, Tensor seq_lens, Tensor! indices, "
    "int numRows, int stride0, int stride1, int topK) -> ()",
    "cpu_attn_reshape_and_cache(Tensor key, Tensor value, Tensor(a2!) key_cache, "
    "Tensor(a3!) value_cache, Tensor slot_mapping, str isa, float k_scale=1.0, "
    "float v_scale=1.0, str kv_cache_dtype=\"auto\") -> ()",
    "cpu_attn_has_isa(str isa) -> bool",
    "cpu_has_amx_fp8() -> bool",
    "create_onednn_mm_handler(Tensor b, int primitive_cache_size) -> int",
    "onednn_mm(Tensor! c, Tensor a, Tensor? bias, Tensor handler_tensor) -> ()",
    "create_onednn_scaled_mm_handler(Tensor b, Tensor b_scales, ScalarType output_type, "
    "bool dynamic_act_quant, bool use_azp, int primitive_cache_size) -> int",
    "onednn_scaled_mm(Tensor! c, Tensor a, Tensor a_scales, Tensor? azp, Tensor? azp_adj, "
    "Tensor? bias, Tensor handler_tensor) -> ()",
    "release_dnnl_matmul_handler(int handler) -> ()",
    "is_onednn_acl_supported() -> bool",
)

_CACHE = (
    "swap_blocks(Tensor src, Tensor! dst, int block_size_in_bytes, Tensor block_mapping) -> ()",
    "swap_blocks_batch(Tensor src_ptrs, Tensor dst_ptrs, Tensor sizes, "
    "bool is_src_access_order_any=False) -> ()",
    *(f"{name}(Tensor key, Tensor value, Tensor! key_cache, Tensor! value_cache, "
      "Tensor slot_mapping, str kv_cache_dtype, Tensor k_scale, Tensor v_scale) -> ()"
      for name in ("reshape_and_cache", "reshape_and_cache_flash")),
    "concat_and_cache_mla(Tensor kv_c, Tensor k_pe, Tensor! kv_cache, Tensor slot_mapping, "
    "str kv_cache_dtype, Tensor scale) -> ()",
    "concat_and_cache_mla_rope_fused(Tensor positions, Tensor! q_pe, Tensor! k_pe, Tensor kv_c, "
    "Tensor cos_sin_cache, bool is_neox, Tensor slot_mapping, Tensor! kv_cache, "
    "str kv_cache_dtype, Tensor kv_cache_scale) -> ()",
    "concat_and_cache_mla_grouped(Tensor kv_c, Tensor k_pe, Tensor kv_cache_ptrs, "
    "Tensor slot_mapping, int block_size, int block_stride, int entry_stride, "
    "Tensor? kv_scales=None, str kv_cache_dtype=\"auto\") -> ()",
    "convert_fp8(Tensor! dst_cache, Tensor src_cache, float scale, str kv_cache_dtype) -> ()",
    "gather_and_maybe_dequant_cache(Tensor src_cache, Tensor! dst, Tensor block_table, "
    "Tensor cu_seq_lens, Tensor token_to_seq, int num_tokens, str kv_cache_dtype, Tensor scale, "
    "Tensor? seq_starts) -> ()",
    "cp_gather_cache(Tensor src_cache, Tensor! dst, Tensor block_table, Tensor cu_seq_lens, "
    "int batch_size, Tensor? seq_starts=None) -> ()",
    "cp_gather_and_upconvert_nvfp4_kv_cache(Tensor src_cache, Tensor! dst, Tensor block_table, "
    "Tensor workspace_starts, int batch_size) -> ()",
    "indexer_k_quant_and_cache(Tensor k, Tensor! kv_cache, Tensor slot_mapping, "
    "int quant_block_size, str kv_cache_dtype) -> ()",
    "cp_gather_indexer_k_quant_cache(Tensor kv_cache, Tensor! dst_k, Tensor! dst_scale, "
    "Tensor block_table, Tensor cu_seq_lens) -> ()",
    "concat_mla_q(Tensor ql_nope, Tensor q_pe, Tensor! q_out) -> ()",
)

_UTILS = ("get_max_shared_memory_per_block_device_attribute(int device_id) -> int",)

_NORMS = ("rms_norm(Tensor! result, Tensor input, {weight}, float epsilon) -> ()",
          "fused_add_rms_norm(Tensor! input, Tensor! residual, {weight}, float epsilon) -> ()")
_PLAN = ("get_scheduler_metadata(int num_req, int num_heads_q, int num_heads_kv, int head_dim, "
         "Tensor seq_lens, ScalarType dtype, Tensor query_start_loc, bool casual, "
         "int window_size, str isa_hint, bool enable_kv_split{more}) -> Tensor")
_CPU_ATTENTION = (
    "cpu_attention_with_kv_cache(Tensor query, Tensor key_cache, Tensor value_cache, "
    "Tensor(a3!) output, Tensor query_start_loc, Tensor seq_lens, float scale, bool causal, "
    "Tensor? alibi_slopes, {window}, Tensor block_table, float softcap, "
    "Tensor scheduler_metadata, Tensor? s_aux{causal}, float k_scale=1.0, float v_scale=1.0, "
    "str kv_cache_dtype=\"auto\") -> ()")
_UPCONVERT = ("cp_gather_and_upconvert_fp8_kv_cache(Tensor src_cache, Tensor! dst, "
              "Tensor block_table, {lengths}Tensor workspace_starts, int batch_size{more}) -> ()")
_CLAMP = "silu_and_mul_with_clamp(Tensor! result, Tensor input, float limit{more}) -> ()"

_CHANGED = {
    "2026-05": (
        ("_C", *(norm.format(weight="Tensor weight") for norm in _NORMS),
         _CLAMP.format(more=""), _PLAN.format(more=""),
         _CPU_ATTENTION.format(
             window="SymInt sliding_window_left, SymInt sliding_window_right", causal="")),
        ("_C_cache_ops", _UPCONVERT.format(lengths="Tensor seq_lens, ", more="")),
    ),
    "2026-09": (
        ("_C", *(norm.format(weight="Tensor? weight") for norm in _NORMS),
         _CLAMP.format(more=", float alpha=1.0, float beta=0.0"),
         _PLAN.format(more=", Tensor? dynamic_causal, str kv_cache_dtype=\"auto\""),
         _CPU_ATTENTION.format(window="SymInt sliding_window_size",
                               causal=", Tensor? dynamic_causal")),
        ("_C_cache_ops", _UPCONVERT.format(
            lengths="", more=", Tensor? seq_starts=None, Tensor? host_cache=None, "
            "Tensor? host_row_ids=None, Tensor? device_row_ids=None")),
    ),
}


class Schema(NamedTuple):
    """`text` begins with `name`, without the namespace."""

    namespace: str
    name: str
    text: str


def schemas(version):
    """Every Schema of "2026-05" or "2026-09"."""
    groups = (("_C", *_MAIN), ("_C_cache_ops", *_CACHE), ("_C_cuda_utils", *_UTILS),
              *_CHANGED[version])
    return tuple(Schema(space, text[: text.index("(")], text)
                 for space, *texts in groups for text in texts)


def _vllm_file(*parts):
    """The text of a file of the installed vLLM, which is not imported; "" without one."""
    spec = importlib.util.find_spec("vllm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = pathlib.Path(folder, *parts)
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace")
    return ""


def installed_schema():
    """The version whose calls the installed vLLM makes; "2026-05" without one."""
    return "2026-09" if "dynamic_causal" in _vllm_file("_custom_ops.py") else "2026-05"


def installed_ds_mla_scale():
    """How the installed vLLM scales the tiles of an fp8_ds_mla record: "raw" or "pow2".

    Its Triton writer of that record tells: the raw rule keeps scales above the least normal f32,
    the rule of powers of two has no use for that number.
    """
    for folder in ("common", "nvidia"):
        writer = _vllm_file("models", "deepseek_v32", folder, "kernels.py")
        if "fp8_ds_mla" in writer:
            return "raw" if "1.1754944e-38" in writer else "pow2"
    return "raw"
