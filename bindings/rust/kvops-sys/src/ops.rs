// Written by tools/bindgen.py from kvops_ops(): do not edit.
use crate::{kvops_dtype, kvops_status, kvops_tensor};

pub const KVOPS_OK: kvops_status = 0;
pub const KVOPS_INVALID_ARGUMENT: kvops_status = 1;
pub const KVOPS_UNSUPPORTED: kvops_status = 2;
pub const KVOPS_UNAVAILABLE: kvops_status = 3;
pub const KVOPS_OUT_OF_MEMORY: kvops_status = 4;
pub const KVOPS_DEVICE_ERROR: kvops_status = 5;
pub const KVOPS_INTERNAL: kvops_status = 6;

pub const KVOPS_F32: kvops_dtype = 1;
pub const KVOPS_F16: kvops_dtype = 2;
pub const KVOPS_BF16: kvops_dtype = 3;
pub const KVOPS_F8_E4M3: kvops_dtype = 4;
pub const KVOPS_F8_E5M2: kvops_dtype = 5;
pub const KVOPS_F8_E4M3FNUZ: kvops_dtype = 6;
pub const KVOPS_F8_E5M2FNUZ: kvops_dtype = 7;
pub const KVOPS_U8: kvops_dtype = 8;
pub const KVOPS_I8: kvops_dtype = 9;
pub const KVOPS_I32: kvops_dtype = 10;
pub const KVOPS_I64: kvops_dtype = 11;

/// Values of `format`.
pub mod format {
    pub const PLAIN: i64 = 0;
    pub const NVFP4: i64 = 1;
    pub const NVFP4_4OVER6: i64 = 2;
    pub const FP8_DS_MLA: i64 = 3;
    pub const NVFP4_DS_MLA: i64 = 4;
}

/// Values of `fp8_encoding`.
pub mod fp8_encoding {
    pub const OCP: i64 = 0;
    pub const FNUZ: i64 = 1;
}

/// Values of `isa`.
pub mod isa {
    pub const VEC: i64 = 1;
    pub const VEC16: i64 = 2;
    pub const AMX: i64 = 3;
}

/// Values of `order`.
pub mod order {
    pub const UNORDERED: i64 = 0;
    pub const BY_VALUE: i64 = 1;
    pub const BY_INDEX: i64 = 2;
}

/// Values of `scale_rule`.
pub mod scale_rule {
    pub const POW2: i64 = 0;
    pub const AMAX: i64 = 1;
}

/// Values of `v_scale_layout`.
pub mod v_scale_layout {
    pub const UNSET: i64 = 0;
    pub const TRANSPOSED: i64 = 1;
    pub const LINEAR: i64 = 2;
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_rms_norm_args {
    pub struct_size: usize,
    /// `[..., d] T`
    pub input: kvops_tensor,
    /// `[d] or [n, d] T or f32, opt; n = input.shape[0], a row per first index`
    pub weight: kvops_tensor,
    /// `[..., d] T; may be input`
    pub out: kvops_tensor,
    pub epsilon: f64,
}
crate::args!(kvops_rms_norm_args, 400);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_fused_add_rms_norm_args {
    pub struct_size: usize,
    /// `[..., d] T; replaced by the normalised sum`
    pub input: kvops_tensor,
    /// `[..., d] T; replaced by the sum`
    pub residual: kvops_tensor,
    /// `[d] T or f32, opt`
    pub weight: kvops_tensor,
    pub epsilon: f64,
}
crate::args!(kvops_fused_add_rms_norm_args, 400);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_rotary_embedding_args {
    pub struct_size: usize,
    /// `[tokens] or [batch, tokens] i64 or i32; any strides`
    pub positions: kvops_tensor,
    /// `positions.shape + [heads, head_size] or [heads * head_size] T`
    pub query: kvops_tensor,
    /// `as query, with kv_heads T, opt`
    pub key: kvops_tensor,
    /// `[max_pos, rot] f32 f16 bf16, whatever T is`
    pub cos_sin_cache: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    pub head_size: i64,
    /// `first rotated element of a head; rot + rope_dim_offset <= head_size`
    pub rope_dim_offset: i64,
    /// `1: pairs (j, rot/2 + j). 0, GPT-J style: pairs (2j, 2j + 1)`
    pub is_neox: i64,
    /// `1: rotate back`
    pub inverse: i64,
}
crate::args!(kvops_rotary_embedding_args, 680);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_silu_and_mul_args {
    pub struct_size: usize,
    /// `[..., 2d] T`
    pub input: kvops_tensor,
    /// `[..., d] T`
    pub out: kvops_tensor,
}
crate::args!(kvops_silu_and_mul_args, 264);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_mul_and_silu_args {
    pub struct_size: usize,
    /// `[..., 2d] T`
    pub input: kvops_tensor,
    /// `[..., d] T`
    pub out: kvops_tensor,
}
crate::args!(kvops_mul_and_silu_args, 264);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_gelu_and_mul_args {
    pub struct_size: usize,
    /// `[..., 2d] T`
    pub input: kvops_tensor,
    /// `[..., d] T`
    pub out: kvops_tensor,
}
crate::args!(kvops_gelu_and_mul_args, 264);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_gelu_tanh_and_mul_args {
    pub struct_size: usize,
    /// `[..., 2d] T`
    pub input: kvops_tensor,
    /// `[..., d] T`
    pub out: kvops_tensor,
}
crate::args!(kvops_gelu_tanh_and_mul_args, 264);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_fatrelu_and_mul_args {
    pub struct_size: usize,
    /// `[..., 2d] T`
    pub input: kvops_tensor,
    /// `[..., d] T`
    pub out: kvops_tensor,
    /// `finite`
    pub threshold: f64,
}
crate::args!(kvops_fatrelu_and_mul_args, 272);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_swigluoai_and_mul_args {
    pub struct_size: usize,
    /// `[..., 2d] T; INTERLEAVED: gate i at 2i, up i at 2i + 1`
    pub input: kvops_tensor,
    /// `[..., d] T`
    pub out: kvops_tensor,
    /// `1.702 in GPT-OSS`
    pub alpha: f64,
    /// `7.0 in GPT-OSS`
    pub limit: f64,
}
crate::args!(kvops_swigluoai_and_mul_args, 280);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_silu_and_mul_with_clamp_args {
    pub struct_size: usize,
    /// `[..., 2d] T`
    pub input: kvops_tensor,
    /// `[..., d] T`
    pub out: kvops_tensor,
    pub limit: f64,
    /// `1 for plain silu: there is no default, 0 makes the gate g / 2`
    pub alpha: f64,
    /// `0 for a plain product`
    pub beta: f64,
}
crate::args!(kvops_silu_and_mul_with_clamp_args, 288);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_reshape_and_cache_args {
    pub struct_size: usize,
    /// `[>= tokens, heads, size] T`
    pub key: kvops_tensor,
    /// `as key T`
    pub value: kvops_tensor,
    /// `[blocks, heads, size/x, block, x] Cache; x elements are 16 bytes`
    pub key_cache: kvops_tensor,
    /// `[blocks, heads, size, block] Cache; both: any strides`
    pub value_cache: kvops_tensor,
    /// `[tokens] i64`
    pub slot_mapping: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub k_scale: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub v_scale: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
}
crate::args!(kvops_reshape_and_cache_args, 1032);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_reshape_and_cache_flash_args {
    pub struct_size: usize,
    /// `[>= tokens, heads, size] T; NVFP4: f16 bf16`
    pub key: kvops_tensor,
    /// `as key`
    pub value: kvops_tensor,
    /// `[blocks, block, heads, size] Cache; NVFP4: u8, [.., 9 size/16]`
    pub key_cache: kvops_tensor,
    /// `as key_cache, with strides of its own`
    pub value_cache: kvops_tensor,
    /// `[tokens] i64`
    pub slot_mapping: kvops_tensor,
    /// `[] or [1] or [heads] f32; opt unless fp8 or NVFP4`
    pub k_scale: kvops_tensor,
    /// `[] or [1] or [heads] f32; NVFP4: one element each`
    pub v_scale: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `KVOPS_FORMAT_PLAIN, _NVFP4, _NVFP4_4OVER6`
    pub format: i64,
    /// `NVFP4: must be set; PLAIN: must not`
    pub v_scale_layout: i64,
}
crate::args!(kvops_reshape_and_cache_flash_args, 1048);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_concat_and_cache_mla_args {
    pub struct_size: usize,
    /// `[>= tokens, latent] T; FP8_DS_MLA: f16 bf16; NVFP4_DS_MLA: bf16`
    pub kv_c: kvops_tensor,
    /// `[>= tokens, rope] as kv_c`
    pub k_pe: kvops_tensor,
    /// `[blocks, block, entry] Cache, entry = latent + rope; *_DS_MLA: u8`
    pub kv_cache: kvops_tensor,
    /// `[tokens] i64`
    pub slot_mapping: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub kv_scale: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `KVOPS_FORMAT_PLAIN, _FP8_DS_MLA, _NVFP4_DS_MLA`
    pub format: i64,
    /// `kvops_scale_rule, read for FP8_DS_MLA`
    pub scale_rule: i64,
    /// `kvops_fp8_encoding, read for FP8_DS_MLA`
    pub fp8_encoding: i64,
}
crate::args!(kvops_concat_and_cache_mla_args, 800);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_concat_and_cache_mla_rope_fused_args {
    pub struct_size: usize,
    /// `[rows] i64 or i32`
    pub positions: kvops_tensor,
    /// `[rows, heads, rope] T; rotated in place`
    pub q_pe: kvops_tensor,
    /// `[rows, rope] T; rotated in place`
    pub k_pe: kvops_tensor,
    /// `[rows, latent] T`
    pub kv_c: kvops_tensor,
    /// `[max_pos, rope] T or f32; rope/2 cosines, rope/2 sines`
    pub cos_sin_cache: kvops_tensor,
    /// `as concat_and_cache_mla`
    pub kv_cache: kvops_tensor,
    /// `[tokens], tokens <= rows i64`
    pub slot_mapping: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub kv_scale: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `pairs as in rotary_embedding`
    pub is_neox: i64,
    /// `KVOPS_FORMAT_PLAIN, _FP8_DS_MLA`
    pub format: i64,
    pub scale_rule: i64,
    pub fp8_encoding: i64,
}
crate::args!(kvops_concat_and_cache_mla_rope_fused_args, 1192);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_concat_and_cache_mla_grouped_args {
    pub struct_size: usize,
    /// `[layers, >= tokens, latent] T`
    pub kv_c: kvops_tensor,
    /// `[layers, >= tokens, rope] T`
    pub k_pe: kvops_tensor,
    /// `[layers] i64: address of a layer's cache, or 0`
    pub kv_cache_ptrs: kvops_tensor,
    /// `[layers, tokens] i64; stride 0: one row for all layers`
    pub slot_mapping: kvops_tensor,
    /// `[layers] f32; given iff the caches are fp8`
    pub kv_scales: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `kvops_dtype of the caches: T, fp8; FP8_DS_MLA: KVOPS_U8`
    pub cache_dtype: i64,
    /// `of every cache; 0: unknown, and slots are not bounded above`
    pub num_blocks: i64,
    /// `tokens per block`
    pub block_size: i64,
    /// `in cache elements`
    pub block_stride: i64,
    /// `in cache elements, >= entry`
    pub entry_stride: i64,
    /// `KVOPS_FORMAT_PLAIN, _FP8_DS_MLA`
    pub format: i64,
    pub scale_rule: i64,
    pub fp8_encoding: i64,
}
crate::args!(kvops_concat_and_cache_mla_grouped_args, 840);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_swap_blocks_args {
    pub struct_size: usize,
    /// `[blocks, ...] any dtype; on a device or in CPU memory`
    pub src: kvops_tensor,
    /// `[blocks, ...] likewise, the same device; may overlap src`
    pub dst: kvops_tensor,
    /// `[pairs, 2] i64, HOST: source block, destination block`
    pub block_mapping: kvops_tensor,
    pub block_size_in_bytes: i64,
}
crate::args!(kvops_swap_blocks_args, 400);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_swap_blocks_batch_args {
    pub struct_size: usize,
    /// `only device and stream are read: where the copies are queued`
    pub queue: kvops_tensor,
    /// `[copies] i64, HOST: addresses, device or CPU`
    pub src_ptrs: kvops_tensor,
    /// `[copies] i64, HOST`
    pub dst_ptrs: kvops_tensor,
    /// `[copies] i64, HOST: bytes; 0 is skipped`
    pub sizes: kvops_tensor,
    /// `1: sources may be read before earlier work of the stream ends`
    pub is_src_access_order_any: i64,
}
crate::args!(kvops_swap_blocks_batch_args, 528);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_convert_fp8_args {
    pub struct_size: usize,
    /// `[...] f32 f16 bf16, or fp8; all strides are free`
    pub src: kvops_tensor,
    /// `as src fp8, or f32 f16 bf16; all strides are free`
    pub dst: kvops_tensor,
    /// `rounded to f32; > 0`
    pub scale: f64,
}
crate::args!(kvops_convert_fp8_args, 272);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_gather_and_maybe_dequant_cache_args {
    pub struct_size: usize,
    /// `[blocks, block, entry] Cache`
    pub kv_cache: kvops_tensor,
    /// `[batch, width] i32`
    pub block_table: kvops_tensor,
    /// `[batch + 1] i32`
    pub cu_seq_lens: kvops_tensor,
    /// `[batch] i32, opt`
    pub seq_starts: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub kv_scale: kvops_tensor,
    /// `[rows, entry] T`
    pub out: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    pub zero_invalid: i64,
}
crate::args!(kvops_gather_and_maybe_dequant_cache_args, 912);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_cp_gather_cache_args {
    pub struct_size: usize,
    /// `[blocks, block, ...] any dtype; trailing dimensions dense`
    pub kv_cache: kvops_tensor,
    /// `[batch, width] i32`
    pub block_table: kvops_tensor,
    /// `[batch + 1] i32`
    pub cu_seq_lens: kvops_tensor,
    /// `[batch] i32, opt`
    pub seq_starts: kvops_tensor,
    /// `[rows, ...] as kv_cache; trailing dimensions dense`
    pub out: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    pub zero_invalid: i64,
}
crate::args!(kvops_cp_gather_cache_args, 784);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_cp_gather_and_upconvert_fp8_kv_cache_args {
    pub struct_size: usize,
    /// `[blocks, block, 656] u8: FP8_DS_MLA records`
    pub kv_cache: kvops_tensor,
    /// `[batch, width] i32`
    pub block_table: kvops_tensor,
    /// `[>= batch] i32, ascending`
    pub workspace_starts: kvops_tensor,
    /// `[batch] i32, opt`
    pub seq_starts: kvops_tensor,
    /// `[rows, 576] bf16 or f16, as the records' source`
    pub out: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    pub zero_invalid: i64,
    pub fp8_encoding: i64,
}
crate::args!(kvops_cp_gather_and_upconvert_fp8_kv_cache_args, 792);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args {
    pub struct_size: usize,
    /// `[blocks, block, 352] u8: NVFP4_DS_MLA records`
    pub kv_cache: kvops_tensor,
    /// `[batch, width] i32`
    pub block_table: kvops_tensor,
    /// `[>= batch] i32, ascending`
    pub workspace_starts: kvops_tensor,
    /// `[batch] i32, opt`
    pub seq_starts: kvops_tensor,
    /// `[rows, 576] bf16 or f16`
    pub out: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    pub zero_invalid: i64,
}
crate::args!(kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args, 784);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_paged_attention_v1_args {
    pub struct_size: usize,
    /// `[seqs, heads, size] T`
    pub query: kvops_tensor,
    /// `[blocks, kv_heads, size/x, block, x] Cache: T or fp8; any strides`
    pub key_cache: kvops_tensor,
    /// `[blocks, kv_heads, size, block] Cache; any strides`
    pub value_cache: kvops_tensor,
    /// `[seqs, width] i32`
    pub block_table: kvops_tensor,
    /// `[seqs] i32`
    pub seq_lens: kvops_tensor,
    /// `[heads] f32, opt`
    pub alibi_slopes: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub k_scale: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub v_scale: kvops_tensor,
    /// `[heads] f32, opt`
    pub sinks: kvops_tensor,
    /// `[seqs, heads, size] T`
    pub out: kvops_tensor,
    /// `[seqs, heads] f32, opt; any strides`
    pub lse: kvops_tensor,
    /// `[bytes] u8, 64-byte aligned, opt`
    pub workspace: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `of the logits, usually size^-0.5`
    pub scale: f64,
    /// `0: none`
    pub softcap: f64,
    /// `upper bound of seq_lens; 0: width * block`
    pub max_seq_len: i64,
    /// `the last `window` tokens take part; 0: all of them`
    pub window: i64,
    /// `1: split points depend on a sequence's length only`
    pub batch_invariant: i64,
    /// `block-sparse: index of this rank's heads`
    pub tp_rank: i64,
    pub blocksparse_local_blocks: i64,
    /// `<= 1: dense`
    pub blocksparse_vert_stride: i64,
    /// `a multiple of block`
    pub blocksparse_block_size: i64,
    pub blocksparse_head_sliding_step: i64,
}
crate::args!(kvops_paged_attention_v1_args, 1752);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_paged_attention_v2_args {
    pub struct_size: usize,
    /// `[seqs, heads, size] T`
    pub query: kvops_tensor,
    /// `[blocks, kv_heads, size/x, block, x] Cache: T or fp8; any strides`
    pub key_cache: kvops_tensor,
    /// `[blocks, kv_heads, size, block] Cache; any strides`
    pub value_cache: kvops_tensor,
    /// `[seqs, width] i32`
    pub block_table: kvops_tensor,
    /// `[seqs] i32`
    pub seq_lens: kvops_tensor,
    /// `[heads] f32, opt`
    pub alibi_slopes: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub k_scale: kvops_tensor,
    /// `[] or [1] f32; opt unless Cache is fp8`
    pub v_scale: kvops_tensor,
    /// `[heads] f32, opt`
    pub sinks: kvops_tensor,
    /// `[seqs, heads, size] T`
    pub out: kvops_tensor,
    /// `[seqs, heads] f32, opt; any strides`
    pub lse: kvops_tensor,
    /// `[bytes] u8, 64-byte aligned, opt`
    pub workspace: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `of the logits, usually size^-0.5`
    pub scale: f64,
    /// `0: none`
    pub softcap: f64,
    /// `upper bound of seq_lens; 0: width * block`
    pub max_seq_len: i64,
    /// `the last `window` tokens take part; 0: all of them`
    pub window: i64,
    /// `1: split points depend on a sequence's length only`
    pub batch_invariant: i64,
    /// `block-sparse: index of this rank's heads`
    pub tp_rank: i64,
    pub blocksparse_local_blocks: i64,
    /// `<= 1: dense`
    pub blocksparse_vert_stride: i64,
    /// `a multiple of block`
    pub blocksparse_block_size: i64,
    pub blocksparse_head_sliding_step: i64,
}
crate::args!(kvops_paged_attention_v2_args, 1752);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_merge_attn_states_args {
    pub struct_size: usize,
    /// `[tokens, heads, size] T`
    pub prefix_output: kvops_tensor,
    /// `[heads, tokens] f32, natural logarithm; any strides`
    pub prefix_lse: kvops_tensor,
    /// `[tokens, heads, size] T`
    pub suffix_output: kvops_tensor,
    /// `[heads, tokens] f32; any strides`
    pub suffix_lse: kvops_tensor,
    /// `[] or [1] f32; given exactly if out is fp8`
    pub out_scale: kvops_tensor,
    /// `[tokens, heads, size] T, or e4m3, e4m3fnuz; may be an input`
    pub out: kvops_tensor,
    /// `[heads, tokens] f32, opt; any strides; may be an input`
    pub out_lse: kvops_tensor,
    /// `so many tokens at the end have no prefix; 0: every token has one`
    pub suffix_only_tokens: i64,
    /// `fp8 out: 1: NaN stays NaN; 0: the largest value, as in vLLM`
    pub keep_nan: i64,
}
crate::args!(kvops_merge_attn_states_args, 920);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_concat_mla_q_args {
    pub struct_size: usize,
    /// `[tokens, heads, nope] T; a transposed view is fine`
    pub ql_nope: kvops_tensor,
    /// `[tokens, heads, rope] T`
    pub q_pe: kvops_tensor,
    /// `[tokens, heads, nope + rope] T`
    pub out: kvops_tensor,
}
crate::args!(kvops_concat_mla_q_args, 392);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_indexer_k_quant_and_cache_args {
    pub struct_size: usize,
    /// `[rows, d] f32 f16 bf16`
    pub k: kvops_tensor,
    /// `[blocks, block, entry] u8, entry >= d + 4 d/q; a block is dense`
    pub kv_cache: kvops_tensor,
    /// `[slots] i64; min(rows, slots) tokens are written`
    pub slot_mapping: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `q: a multiple of 4 that divides d`
    pub quant_block_size: i64,
    /// `kvops_scale_rule; vLLM's "ue8m0" is KVOPS_SCALE_POW2`
    pub scale_rule: i64,
    /// `kvops_fp8_encoding`
    pub fp8_encoding: i64,
}
crate::args!(kvops_indexer_k_quant_and_cache_args, 544);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_cp_gather_indexer_k_quant_cache_args {
    pub struct_size: usize,
    /// `[blocks, block, entry] u8, as above`
    pub kv_cache: kvops_tensor,
    /// `[batch, width] i32`
    pub block_table: kvops_tensor,
    /// `[batch + 1] i32`
    pub cu_seq_lens: kvops_tensor,
    /// `[batch] i32, opt`
    pub seq_starts: kvops_tensor,
    /// `[rows, d] u8 or fp8: codes`
    pub out_k: kvops_tensor,
    /// `[rows, 4 groups] u8: the bytes of groups = d/q f32 scales`
    pub out_scale: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    pub zero_invalid: i64,
}
crate::args!(kvops_cp_gather_indexer_k_quant_cache_args, 912);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_top_k_per_row_prefill_args {
    pub struct_size: usize,
    /// `[rows, columns] f32; any strides`
    pub logits: kvops_tensor,
    /// `[rows] i32`
    pub row_starts: kvops_tensor,
    /// `[rows] i32`
    pub row_ends: kvops_tensor,
    /// `[rows, k] i32; 1 <= k <= 2^20`
    pub indices: kvops_tensor,
    /// `[bytes] u8, 64-byte aligned; opt if 0 bytes suffice`
    pub workspace: kvops_tensor,
    /// `kvops_top_k_order`
    pub order: i64,
}
crate::args!(kvops_top_k_per_row_prefill_args, 656);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_top_k_per_row_decode_args {
    pub struct_size: usize,
    /// `[batch * next_n, columns] f32; any strides`
    pub logits: kvops_tensor,
    /// `[batch] [batch, 1]; per row: [batch * next_n] [batch, next_n] i32`
    pub seq_lens: kvops_tensor,
    /// `[batch * next_n, k] i32; 1 <= k <= 2^20`
    pub indices: kvops_tensor,
    /// `[bytes] u8, 64-byte aligned; opt if 0 bytes suffice`
    pub workspace: kvops_tensor,
    /// `rows (speculative tokens) per request, >= 1`
    pub next_n: i64,
    /// `kvops_top_k_order`
    pub order: i64,
}
crate::args!(kvops_top_k_per_row_decode_args, 536);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_convert_vertical_slash_indexes_args {
    pub struct_size: usize,
    /// `[batch] i32`
    pub q_seq_lens: kvops_tensor,
    /// `[batch] i32`
    pub kv_seq_lens: kvops_tensor,
    /// `[batch, heads, verticals] i32: key positions, ascending`
    pub vertical_indexes: kvops_tensor,
    /// `[batch, heads, slashes] i32: diagonal offsets, descending`
    pub slash_indexes: kvops_tensor,
    /// `[batch, heads, rows] i32`
    pub block_count: kvops_tensor,
    /// `[batch, heads, rows, slashes] i32: first key of a block`
    pub block_offset: kvops_tensor,
    /// `[batch, heads, rows] i32`
    pub column_count: kvops_tensor,
    /// `[batch, heads, rows, verticals] i32: single keys, ascending`
    pub column_index: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `query rows per row block`
    pub block_size_m: i64,
    /// `keys per block, block_size_m to 2^30`
    pub block_size_n: i64,
    pub causal: i64,
}
crate::args!(kvops_convert_vertical_slash_indexes_args, 1184);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_convert_vertical_slash_indexes_mergehead_args {
    pub struct_size: usize,
    /// `all as above`
    pub q_seq_lens: kvops_tensor,
    pub kv_seq_lens: kvops_tensor,
    pub vertical_indexes: kvops_tensor,
    pub slash_indexes: kvops_tensor,
    /// `[heads] i32: valid entries, clamped to [0, verticals]`
    pub vertical_indices_count: kvops_tensor,
    /// `[heads] i32: the same, clamped to [0, slashes]`
    pub slash_indices_count: kvops_tensor,
    pub block_count: kvops_tensor,
    pub block_offset: kvops_tensor,
    pub column_count: kvops_tensor,
    pub column_index: kvops_tensor,
    pub faults: kvops_tensor,
    pub block_size_m: i64,
    pub block_size_n: i64,
    pub causal: i64,
}
crate::args!(kvops_convert_vertical_slash_indexes_mergehead_args, 1440);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_cpu_attn_get_scheduler_metadata_args {
    pub struct_size: usize,
    /// `[reqs] i32`
    pub seq_lens: kvops_tensor,
    /// `[reqs + 1] i32, ascending from 0`
    pub query_start_loc: kvops_tensor,
    /// `[reqs] i32, opt: request r is causal iff != 0`
    pub dynamic_causal: kvops_tensor,
    /// `[bytes] u8 or i8, 64-byte aligned; written`
    pub scheduler_metadata: kvops_tensor,
    /// `<= 65536`
    pub num_heads: i64,
    pub num_kv_heads: i64,
    /// `a multiple of 16, <= 576`
    pub head_size: i64,
    /// `kvops_dtype: T`
    pub query_dtype: i64,
    /// `KVOPS_CPU_ISA_*`
    pub isa: i64,
    pub causal: i64,
    /// `keys left of a token's own; -1: unlimited. Not 0 by default: set both`
    pub window_left: i64,
    /// `keys right of it; causal makes it 0`
    pub window_right: i64,
    /// `1: few queries over many keys are cut into ranges and merged`
    pub enable_kv_split: i64,
}
crate::args!(kvops_cpu_attn_get_scheduler_metadata_args, 592);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_cpu_attn_reshape_and_cache_args {
    pub struct_size: usize,
    /// `[tokens, heads, size] T; AMX: f16 bf16`
    pub key: kvops_tensor,
    /// `as key`
    pub value: kvops_tensor,
    /// `[blocks, heads, block, size] Cache: T, f8_e4m3, f8_e5m2`
    pub key_cache: kvops_tensor,
    /// `as key_cache, with strides of its own`
    pub value_cache: kvops_tensor,
    /// `[>= tokens] i64`
    pub slot_mapping: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    /// `> 0 when Cache is fp8, else not read`
    pub k_scale: f64,
    pub v_scale: f64,
    /// `packing to write: KVOPS_CPU_ISA_*`
    pub isa: i64,
}
crate::args!(kvops_cpu_attn_reshape_and_cache_args, 800);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_cpu_attention_with_kv_cache_args {
    pub struct_size: usize,
    /// `[tokens, heads, size] T`
    pub query: kvops_tensor,
    /// `[blocks, kv_heads, block, size] Cache; packing of the plan`
    pub key_cache: kvops_tensor,
    /// `as key_cache, with strides of its own`
    pub value_cache: kvops_tensor,
    /// `[reqs + 1] i32`
    pub query_start_loc: kvops_tensor,
    /// `[reqs] i32`
    pub seq_lens: kvops_tensor,
    /// `[reqs, width] i32`
    pub block_table: kvops_tensor,
    /// `[heads] f32, opt`
    pub alibi_slopes: kvops_tensor,
    /// `[heads] bf16 or f32, opt`
    pub sinks: kvops_tensor,
    /// `[bytes] u8 or i8, for these lengths`
    pub scheduler_metadata: kvops_tensor,
    /// `[reqs] i32, opt`
    pub dynamic_causal: kvops_tensor,
    /// `[tokens, heads, size] T`
    pub out: kvops_tensor,
    /// `[tokens, heads] f32, opt; any strides`
    pub lse: kvops_tensor,
    /// `[bytes] u8, opt if 0 bytes suffice`
    pub workspace: kvops_tensor,
    /// `[1] i64, opt`
    pub faults: kvops_tensor,
    pub scale: f64,
    /// `0: none`
    pub softcap: f64,
    /// `> 0 when Cache is fp8, else not read`
    pub k_scale: f64,
    pub v_scale: f64,
    pub causal: i64,
    /// `causal and windows as planned; -1: unlimited`
    pub window_left: i64,
    pub window_right: i64,
}
crate::args!(kvops_cpu_attention_with_kv_cache_args, 1856);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_create_onednn_mm_args {
    pub struct_size: usize,
    /// `[k, n] T; any strides; may be freed afterwards`
    pub weight: kvops_tensor,
    /// `[] or [1] i64; written`
    pub handle: kvops_tensor,
    /// `execution plans kept; 0: our choice. Never changes results`
    pub primitive_cache_size: i64,
}
crate::args!(kvops_create_onednn_mm_args, 272);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_onednn_mm_args {
    pub struct_size: usize,
    /// `[m, k] T of the weight`
    pub input: kvops_tensor,
    /// `[n] T, opt`
    pub bias: kvops_tensor,
    /// `[m, n] T`
    pub out: kvops_tensor,
    pub handle: i64,
}
crate::args!(kvops_onednn_mm_args, 400);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_release_dnnl_matmul_handler_args {
    pub struct_size: usize,
    /// `of either kind; 0: nothing happens`
    pub handle: i64,
}
crate::args!(kvops_release_dnnl_matmul_handler_args, 16);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_create_onednn_scaled_mm_args {
    pub struct_size: usize,
    /// `[k, n] i8; any strides; may be freed afterwards`
    pub weight: kvops_tensor,
    /// `[] [1] [n] [1, n] [n, 1] f32; copied`
    pub weight_scales: kvops_tensor,
    /// `[] or [1] i64; written`
    pub handle: kvops_tensor,
    /// `kvops_dtype: T`
    pub out_dtype: i64,
    /// `1: input_scale per row of the input; 0: one for all`
    pub dynamic_act_quant: i64,
    /// `static: inputs have a zero point`
    pub use_azp: i64,
    pub primitive_cache_size: i64,
}
crate::args!(kvops_create_onednn_scaled_mm_args, 424);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_onednn_scaled_mm_args {
    pub struct_size: usize,
    /// `[m, k] i8`
    pub input: kvops_tensor,
    /// `static: [] or [1]; dynamic: [m] or [m, 1] f32`
    pub input_scale: kvops_tensor,
    /// `as input_scale i32, opt: zero points`
    pub azp: kvops_tensor,
    /// `[n] or [1, n] f32, opt: sw * W`
    pub azp_adj: kvops_tensor,
    /// `[n] T, opt`
    pub bias: kvops_tensor,
    /// `[m, n] T: the handle's out_dtype`
    pub out: kvops_tensor,
    pub handle: i64,
}
crate::args!(kvops_onednn_scaled_mm_args, 784);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_static_scaled_int8_quant_args {
    pub struct_size: usize,
    /// `[..., d] T, d >= 1`
    pub input: kvops_tensor,
    /// `[] or [1] f32`
    pub scale: kvops_tensor,
    /// `[] or [1] i32, opt`
    pub azp: kvops_tensor,
    /// `[..., d] i8`
    pub out: kvops_tensor,
}
crate::args!(kvops_static_scaled_int8_quant_args, 520);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_dynamic_scaled_int8_quant_args {
    pub struct_size: usize,
    /// `[..., d] T, d >= 1`
    pub input: kvops_tensor,
    /// `[..., d] i8`
    pub out: kvops_tensor,
    /// `[..., 1] f32; written`
    pub scale: kvops_tensor,
    /// `[..., 1] i32, opt; written: given selects the asymmetric form`
    pub azp: kvops_tensor,
}
crate::args!(kvops_dynamic_scaled_int8_quant_args, 520);

extern "C" {
    /// ```text
    /// Normalises every row (last dimension) to root mean square 1 and scales it.
    ///
    ///   s       = 1 / sqrt(sum_j input[j]^2 / d + epsilon)        within 2 ulp
    ///   out[j]  = RN_T((input[j] * s) * weight[j])                without weight: RN_T(input[j] * s)
    ///
    /// input has rank >= 1 and the shape of out. One rounding, at the end. The order of the sum depends
    /// on d and T only: a row has the same bits in any batch, at any address, with any strides. An
    /// infinity in a row: finite elements give 0, the infinite ones NaN; NaN: all give NaN. A sum of
    /// squares beyond f32: the row gives 0.
    /// ```
    pub fn kvops_rms_norm(args: *const kvops_rms_norm_args) -> kvops_status;
    /// ```text
    /// residual = RN_T(input + residual), then input = rms_norm(residual, weight, epsilon): the same
    /// bits as an addition followed by kvops_rms_norm, on every backend and for any alignment.
    /// ```
    pub fn kvops_fused_add_rms_norm(args: *const kvops_fused_add_rms_norm_args) -> kvops_status;
    /// ```text
    /// Rotates rot elements of every head of query and of key in place. A row of cos_sin_cache is rot/2
    /// cosines, then rot/2 sines; rot is even. With p = positions[token], v = a head from
    /// rope_dim_offset on, (a, b) = pair j:
    ///
    ///   c = cos_sin_cache[p][j],  s = cos_sin_cache[p][rot/2 + j]          inverse: s = -s
    ///   v[a], v[b] = RN_T(v[a]*c - v[b]*s), RN_T(v[b]*c + v[a]*s)          one rounding each
    ///
    /// The rest of a head is left alone. query and key have their own token and head strides; both may
    /// be slices of one packed qkv row. A token whose position is negative or >= max_pos is left alone,
    /// the latter counted as a fault.
    /// ```
    pub fn kvops_rotary_embedding(args: *const kvops_rotary_embedding_args) -> kvops_status;
    /// ```text
    /// out = silu(a) * b,  silu(x) = x / (1 + exp(-x)).  x = -inf gives NaN; below -88.7 the exponential
    /// overflows and silu is -0.
    /// ```
    pub fn kvops_silu_and_mul(args: *const kvops_silu_and_mul_args) -> kvops_status;
    /// ```text
    /// out = a * silu(b).
    /// ```
    pub fn kvops_mul_and_silu(args: *const kvops_mul_and_silu_args) -> kvops_status;
    /// ```text
    /// out = gelu(a) * b,  gelu(x) = (x * 0.5) * (1 + erf(x * 0.70710678)).
    /// ```
    pub fn kvops_gelu_and_mul(args: *const kvops_gelu_and_mul_args) -> kvops_status;
    /// ```text
    /// out = gelu(a) * b,  gelu(x) = (0.5 * x) * (1 + tanh(0.79788456 * (x + 0.044715 * (x*x*x)))).
    /// ```
    pub fn kvops_gelu_tanh_and_mul(args: *const kvops_gelu_tanh_and_mul_args) -> kvops_status;
    /// ```text
    /// out = (a <= RN_T(threshold) ? 0 : a) * b.  A NaN in a passes; a dropped a times an infinite b is
    /// NaN, times a negative b -0. threshold is rounded to f32, then to T.
    /// ```
    pub fn kvops_fatrelu_and_mul(args: *const kvops_fatrelu_and_mul_args) -> kvops_status;
    /// ```text
    /// g = min(gate, limit),  u = max(min(up, limit), -limit),
    /// out = RN_T(((u + 1) * g) / (1 + exp(-(g * alpha)))).
    /// One rounding; alpha and limit are rounded to f32; a NaN in gate or up gives NaN.
    /// ```
    pub fn kvops_swigluoai_and_mul(args: *const kvops_swigluoai_and_mul_args) -> kvops_status;
    /// ```text
    /// g = RN_T(min(a, limit)),  u = RN_T(max(min(b, limit), -limit));
    /// out = RN_T(RN_T(g / (1 + exp(-(alpha * g)))) * (u + beta)).
    /// limit, alpha and beta are rounded to f32, u + beta is a sum in f32; a NaN in a or b gives NaN.
    /// ```
    pub fn kvops_silu_and_mul_with_clamp(args: *const kvops_silu_and_mul_with_clamp_args) -> kvops_status;
    /// ```text
    /// Scatters new keys and values into the x-packed cache that paged_attention_v1/v2 read. The slot of
    /// token t is position o of block b:
    ///
    ///   key_cache[b, h, d / x, o, d % x] = conv(key[t, h, d], k_scale)
    ///   value_cache[b, h, d, o]          = conv(value[t, h, d], v_scale)    conv: copy, or fp8 codes
    ///
    ///   one (block, head) of key_cache:    o0: k0..k[x-1] | o1: k0..k[x-1] | ...  then kx.. of every o
    ///   one (block, head) of value_cache:  v0: o0 o1 ... | v1: o0 o1 ... | ...
    ///
    /// That is the dense layout; all strides of the caches are read. A flash cache [blocks, block,
    /// heads, size] with strides (sb, st, sh, 1) is a key_cache with strides (sb, sh, x, st, 1) and a
    /// value_cache with strides (sb, sh, 1, st).
    /// ```
    pub fn kvops_reshape_and_cache(args: *const kvops_reshape_and_cache_args) -> kvops_status;
    /// ```text
    /// Writes new rows into a paged cache whose rows are contiguous over size. NHD, HND, K|V packed in
    /// one row, blocks that span layers: all are strides.
    ///
    ///   PLAIN   key_cache[b, o, h, d] = conv(key[t, h, d], k_scale[h or 0]), and so for value
    ///
    /// NVFP4: size % 16 == 0. A page (one block of one side) is dense, NHD or HND by the strides of
    /// dimensions 1 and 2; row = o * heads + h or h * block + o. It holds all codes, then all scales:
    ///
    ///   codes   row * size/2 + j             element 2j in the low nibble, 2j + 1 in the high one
    ///   scales  block*heads*size/2 + row * size/16 + g        one e4m3 per group g of 16 elements
    ///   V, TRANSPOSED: the scale of (o, g) stands where LINEAR has (o', g'):  k = 4g + o % 4,
    ///                  o' = 4 (o / 4) + k / (size/16),  g' = k % (size/16);  block % 4 == 0
    ///
    ///   G = RN(1 / k_scale),  sf = e4m3(RN(G * RN(amax * c))),  c = 0x3E2AAAAB (1/6),  S = decode(sf)
    ///   w = S == 0 ? 0 : 1 / RN(S * (1 / G)),  code = e2m1(RN(x * w)), half to even, saturating
    ///
    /// NaN enters amax only if all 16 are NaN, and codes as 6. NVFP4_4OVER6 also tries c = 1/4 and keeps
    /// it where the sum of (decode(code) * RN(1 / w) - x)^2 is strictly smaller: in f32, rounded after
    /// every operation, of pairs, pairs of pairs and so on; 1 / w is 0 where w = 0. Reciprocals are
    /// correctly rounded: all backends write the same bytes. Under a k_scale that is not positive and
    /// finite the codes mean nothing; KVOPS_DEBUG=bounds refuses it.
    /// ```
    pub fn kvops_reshape_and_cache_flash(args: *const kvops_reshape_and_cache_flash_args) -> kvops_status;
    /// ```text
    /// Stores [kv_c | k_pe] of each token as one cache entry. *_DS_MLA: latent = 512, rope = 64, and
    /// kv_scale is not read.
    ///
    ///   PLAIN         conv(kv_c[t], kv_scale) | conv(k_pe[t], kv_scale)
    ///
    ///   FP8_DS_MLA    [0, 512) e4m3(x / s[k]) of kv_c | [512, 528) f32 s[k] of elements 128k ..
    ///                 | [528, 656) the bits of k_pe
    ///                 POW2: s = 2^ceil(log2(max(RN(amax / C), 1e-4))), exact
    ///                 AMAX: s = max(RN(amax / C), 2^-126)
    ///
    ///   NVFP4_DS_MLA  [0, 256) e2m1(RN(x * RN(1 / S))), even element in the low nibble
    ///                 | [256, 320) e4m3(k_pe), unscaled | [320, 352) scales sf, OCP, of groups of 16
    ///                 f = max(RN(amax / 6), 2^-9),  sf = e4m3(f), plus one code if that is < f and
    ///                 sf < 0x7E,  S = decode(sf);  group g at byte 320 + 8 (g % 4) + g / 4
    ///
    /// NaN does not enter amax. Codes and scales are byte-equal on all backends.
    /// ```
    pub fn kvops_concat_and_cache_mla(args: *const kvops_concat_and_cache_mla_args) -> kvops_status;
    /// ```text
    /// Rotates q_pe and k_pe of ALL rows in place, then stores [kv_c | rotated k_pe] of the rows that
    /// have a slot, as concat_and_cache_mla does. Three roundings to T, also of cos and sin before, the
    /// same bits everywhere: RN_T(RN_T(x*c) - RN_T(y*s)); NaN is the quiet one; rotary_embedding rounds
    /// once. A row whose position is outside [0, max_pos) is neither rotated nor stored.
    /// ```
    pub fn kvops_concat_and_cache_mla_rope_fused(args: *const kvops_concat_and_cache_mla_rope_fused_args) -> kvops_status;
    /// ```text
    /// concat_and_cache_mla for several layers in one launch. The caches are reached by address: neither
    /// their memory nor, with num_blocks = 0, their slots can be checked.
    /// ```
    pub fn kvops_concat_and_cache_mla_grouped(args: *const kvops_concat_and_cache_mla_grouped_args) -> kvops_status;
    /// ```text
    /// Block block_mapping[i][0] of src is copied, as bytes, to block block_mapping[i][1] of dst, for
    /// i = 0, 1, ... in this order. Block b starts at byte b * block_size_in_bytes of its tensor and
    /// must end within the bytes from the first element of its tensor to the end of the last; shapes,
    /// strides and dtypes matter no further. A block onto itself is no copy. All pairs are checked
    /// before the first copy: INVALID_ARGUMENT names the first bad one. A copy into pageable CPU memory
    /// is complete on return; the others are stream-ordered, and only they may be captured. A graph
    /// replays the pairs of the captured call.
    /// ```
    pub fn kvops_swap_blocks(args: *const kvops_swap_blocks_args) -> kvops_status;
    /// ```text
    /// sizes[i] bytes from src_ptrs[i] to dst_ptrs[i] for all i. The batch is ordered on the stream, its
    /// copies are not ordered among themselves and must not depend on each other. Works on the default
    /// stream, for any number of copies. A negative size, or an address of 0 where the size is not, is
    /// INVALID_ARGUMENT before any copy; other addresses cannot be checked. kvops_get_error() names the
    /// first copy that failed. Set is_src_access_order_any only for sources that nothing on the device
    /// still writes (CPU to device).
    /// ```
    pub fn kvops_swap_blocks_batch(args: *const kvops_swap_blocks_batch_args) -> kvops_status;
    /// ```text
    /// float -> fp8: dst = fp8(src / scale), see cache_format.h. fp8 -> float: dst = RN_T(p) of the f32
    /// product p = RN(decode(src) * scale); f16 overflows to infinity. One side must be fp8, one not.
    /// ```
    pub fn kvops_convert_fp8(args: *const kvops_convert_fp8_args) -> kvops_status;
    /// ```text
    /// out[t] = RN_T(decode(entry) * kv_scale), or a bit copy when Cache is T. Packed records are not
    /// decoded here.
    /// ```
    pub fn kvops_gather_and_maybe_dequant_cache(args: *const kvops_gather_and_maybe_dequant_cache_args) -> kvops_status;
    /// ```text
    /// out[t] = the entry, bit for bit. cu_seq_lens may be padded (context parallelism): rows that were
    /// never written are copied as they are.
    /// ```
    pub fn kvops_cp_gather_cache(args: *const kvops_cp_gather_cache_args) -> kvops_status;
    /// ```text
    /// out[t] = RN_T(decode(code) * scale) for 512 latent elements, then the 64 rope elements bit for
    /// bit. Any f32 scale is read as it is. Here row t belongs to the last request b < batch with
    /// workspace_starts[b] <= t: the last owns the rest of out, rows before the first have no owner.
    /// ```
    pub fn kvops_cp_gather_and_upconvert_fp8_kv_cache(args: *const kvops_cp_gather_and_upconvert_fp8_kv_cache_args) -> kvops_status;
    /// ```text
    /// The same for 352-byte records: e2m1 * e4m3 and the e4m3 rope are exact in either dtype. Needs no
    /// fp4 hardware.
    /// ```
    pub fn kvops_cp_gather_and_upconvert_nvfp4_kv_cache(args: *const kvops_cp_gather_and_upconvert_nvfp4_kv_cache_args) -> kvops_status;
    /// ```text
    /// The query token of sequence s attends to its cached tokens t < L = seq_lens[s]. Head h reads kv
    /// head g = h / (heads / kv_heads); token t is token t % block of block block_table[s, t / block].
    ///
    ///   c(z)       = softcap * tanh(z / softcap), or z when softcap is 0
    ///   a[t]       = c(scale * sum_d query[s,h,d] * k[t,d])  +  alibi_slopes[h] * (t - L + 1)
    ///   m          = max(max_t a[t], sinks[h]),   Z = sum_t exp(a[t] - m) + exp(sinks[h] - m)
    ///   out[s,h,:] = RN_T(sum_t exp(a[t] - m) * v[t,:] / Z),   lse[s,h] = log(Z) + m
    ///
    /// Without sinks their terms vanish. A window w keeps t >= L - w. No token left: out = 0 and, where
    /// there are no sinks, lse = -inf. The caches take any strides: an NHD or HND cache [blocks, block,
    /// kv_heads, size] with strides (sb, st, sh, 1) is passed as keys [blocks, kv_heads, size/x, block,
    /// x] with strides (sb, sh, x, st, 1) and values [blocks, kv_heads, size, block] with (sb, sh, 1,
    /// st). The same bits result.
    ///
    /// Everything is accumulated in f32. fp8: k = decode * k_scale, v = decode * v_scale, but k_scale is
    /// part of the scale and v_scale of the last product, so that neither rounds an element. L <= 0:
    /// zeros. A logit of -inf has no weight. What lies at t >= L in a block, and in the table past it,
    /// is not used and may be anything, NaN included. Faults: each entry of the table that a token
    /// needs and whose block id is outside [0, blocks), which leaves its tokens out; and each L above
    /// max_seq_len or width * block, where it is cut. Chunked prefill: each token of the chunk is a
    /// sequence of its own, with the same table row and the L that ends with it.
    ///
    /// size: a multiple of 8 (fp8: 16) from 8 to 512; any block; heads a multiple of kv_heads.
    ///
    /// Block-sparse, if vert_stride > 1; B = blocksparse_block_size, step = head_sliding_step: the cache
    /// block that starts at token t takes part iff
    ///
    ///   (t/B + o) % vert_stride == 0   or   t/B > (L-1)/B - local_blocks,
    ///   o = 1 + (step >= 0 ? (tp_rank * heads + h) * step : (tp_rank * kv_heads + g) * -step)
    ///
    /// No block left: zeros. Without batch_invariant the way a sequence is split, and so its last bits,
    /// may depend on the other sequences of the call and on whether there is a workspace; with it, on
    /// neither. On the CPU bits never depend on the batch, on threads or on the workspace. Without a
    /// workspace one sequence and kv head is the work of one thread, on a GPU of one thread block. What
    /// the workspace holds before a call does not matter; calls that may overlap need one each.
    /// ```
    pub fn kvops_paged_attention_v1(args: *const kvops_paged_attention_v1_args) -> kvops_status;
    pub fn kvops_paged_attention_v1_workspace(args: *const kvops_paged_attention_v1_args, bytes: *mut i64) -> kvops_status;
    /// ```text
    /// vLLM's second entry point: the same arguments and, with the same workspace, the same bits.
    /// ```
    pub fn kvops_paged_attention_v2(args: *const kvops_paged_attention_v2_args) -> kvops_status;
    pub fn kvops_paged_attention_v2_workspace(args: *const kvops_paged_attention_v2_args, bytes: *mut i64) -> kvops_status;
    /// ```text
    /// Combines two attention results over disjoint sets of keys. With p, q = prefix_lse, suffix_lse of
    /// (head, token), each infinity of either sign taken as -inf (an empty set), and M = max(p, q):
    ///
    ///   a = exp(p - M),  b = exp(q - M),  out = RN_T(prefix * (a / (a + b)) + suffix * (b / (a + b))),
    ///   out_lse = log(a + b) + M
    ///
    /// One side empty: the other side's bits, and the empty one is not read. Both: prefix_output's bits,
    /// out_lse = -inf. A NaN beside an infinity counts as empty, beside a number it gives NaN. The last
    /// suffix_only_tokens tokens copy suffix_output and suffix_lse unchanged, their prefix is not read.
    /// fp8: every stored value, copies included, is sat(x * RN(1 / out_scale)) of the unrounded x, with
    /// 448 (fnuz: 224) as the largest magnitude.
    /// ```
    pub fn kvops_merge_attn_states(args: *const kvops_merge_attn_states_args) -> kvops_status;
    /// ```text
    /// out = [ql_nope | q_pe] along the last dimension, bit for bit.
    /// ```
    pub fn kvops_concat_mla_q(args: *const kvops_concat_mla_q_args) -> kvops_status;
    /// ```text
    /// Per token and group of q elements: amax = max |k|, NaN ignored;  s = RN(max(amax, 1e-4) / C),
    /// C = 448 (fnuz: 224); POW2: s = 2^ceil(log2(s)), exact;  codes sat(k / s). Byte-equal everywhere.
    /// ```
    pub fn kvops_indexer_k_quant_and_cache(args: *const kvops_indexer_k_quant_and_cache_args) -> kvops_status;
    /// ```text
    /// Gathers codes and scales of a batch into two packed arrays, byte for byte; d and groups come from
    /// the outputs. Rows, requests and faults as in cache_read.h.
    /// ```
    pub fn kvops_cp_gather_indexer_k_quant_cache(args: *const kvops_cp_gather_indexer_k_quant_cache_args) -> kvops_status;
    /// ```text
    /// indices[r, :] = the positions of the k largest logits among columns [start, end), relative to
    /// start; start and end are row_starts[r] and row_ends[r], clamped to [0, columns]. Always min(k,
    /// len) distinct positions, len = end - start or 0, then -1. len <= k: 0, 1, .. len - 1, in this
    /// order unless it is BY_VALUE. Exact in all 32 bits: +0 ranks above -0, -inf is a value like
    /// others, NaN of either sign are equal and above +inf. Logits outside a row's range are not read.
    /// ```
    pub fn kvops_top_k_per_row_prefill(args: *const kvops_top_k_per_row_prefill_args) -> kvops_status;
    pub fn kvops_top_k_per_row_prefill_workspace(args: *const kvops_top_k_per_row_prefill_args, bytes: *mut i64) -> kvops_status;
    /// ```text
    /// The same with row_starts = 0 and row_ends[r] = seq_lens[r] (lengths per row), or
    /// seq_lens[r / next_n] - next_n + r % next_n + 1 (per request).
    /// ```
    pub fn kvops_top_k_per_row_decode(args: *const kvops_top_k_per_row_decode_args) -> kvops_status;
    pub fn kvops_top_k_per_row_decode_workspace(args: *const kvops_top_k_per_row_decode_args, bytes: *mut i64) -> kvops_status;
    /// ```text
    /// Turns the important columns and diagonals of every head into, per block of M = block_size_m query
    /// rows, a list of blocks of N = block_size_n keys and a list of left-over columns. Slash o at query
    /// row i is key i + Lk - Lq - o (causal) or i + Lk - o. For row block r, q = r * M < Lq:
    ///
    ///   E = q + M + (causal ? Lk - Lq : Lk);  v, s = first vertical, first slash < E, or the last one
    ///   s <= E:  hi = max(E - s, M), lo = hi - M;   else lo = causal ? E : Lk, hi = lo + N (no s: lo)
    ///   repeat the first that applies:
    ///     v < hi                              column v if v < lo;  v = next vertical, or none
    ///     next slash s, causal or s >= q      e = max(E - s, M);  if e > hi + M: blocks, lo = e - M,
    ///                                         hi = e;  else if e > hi: hi += M
    ///     causal, or no vertical follows v    not causal and a v: column v;  blocks;  stop
    ///     else                                blocks;  lo = Lk, hi = Lk + N, and no range grows again
    ///   blocks: lo, lo + N, ... below min(hi, Lk), if lo >= 0
    ///
    /// Counts of row blocks past Lq are 0, index entries past the counts stay. Verticals below 0 are
    /// skipped, those from Lk on as faults. Lists may be empty; there is always room for the result.
    /// Lists out of order take the same steps; KVOPS_DEBUG=bounds refuses them.
    /// ```
    pub fn kvops_convert_vertical_slash_indexes(args: *const kvops_convert_vertical_slash_indexes_args) -> kvops_status;
    /// ```text
    /// The same with list lengths of their own for every head.
    /// ```
    pub fn kvops_convert_vertical_slash_indexes_mergehead(args: *const kvops_convert_vertical_slash_indexes_mergehead_args) -> kvops_status;
    /// ```text
    /// Plans one step of cpu_attention_with_kv_cache for all layers. The plan is position-independent
    /// (it may be copied anywhere), read-only afterwards, valid for any number of threads, and
    /// independent of cache dtype and strides. INVALID_ARGUMENT if query_start_loc does not ascend from
    /// 0, a length is negative, or a request has more queries than its length, unless that is 0: then
    /// its rows are written as zeros. reqs = 0 gives a valid empty plan.
    /// ```
    pub fn kvops_cpu_attn_get_scheduler_metadata(args: *const kvops_cpu_attn_get_scheduler_metadata_args) -> kvops_status;
    pub fn kvops_cpu_attn_get_scheduler_metadata_size(args: *const kvops_cpu_attn_get_scheduler_metadata_args, bytes: *mut i64) -> kvops_status;
    /// ```text
    /// Writes rows of key and value into their slots in the packing of isa; tokens come from key, slots
    /// as in cache.h. [block, size] of one head is dense, block and head strides are free. fp8 codes as
    /// everywhere; vLLM's, from a reciprocal and truncated, differ by at most one code.
    /// ```
    pub fn kvops_cpu_attn_reshape_and_cache(args: *const kvops_cpu_attn_reshape_and_cache_args) -> kvops_status;
    /// ```text
    /// Attention of new queries over the paged cache: decode, prefill, mixed batches, encoders. Query i
    /// of request r has position p = seq_lens[r] - q_len + i; head h reads kv head h / (heads /
    /// kv_heads); the valid keys are p - window_left <= k <= p + window_right, 0 <= k < seq_lens[r].
    ///
    ///   x[k] = scale * (q . K[k]) * k_scale
    ///   softcap: x = softcap * tanh(x / softcap);   alibi: x += slope[h] * (k - p)
    ///   out = RN_T(v_scale * sum_k exp(x[k] - m) V[k] / (sum_k exp(x[k] - m) + exp(sink - m)))
    ///
    /// The sink is a raw logit without a value; m is the maximum, sink included; lse is the logarithm of
    /// the denominator, plus m. No valid key: zeros, lse = -inf without a sink.
    /// Cache contents at k >= seq_lens[r], and the table past them, are not used. Rows of out past
    /// query_start_loc[reqs] are left alone. Keys in a block that the cache does not have weigh nothing.
    /// Without KV split the bits of a query depend on its own keys alone, not on threads, on other
    /// requests, or on how many queries come at once; with it, on that and on its request's length.
    /// INVALID_ARGUMENT when the plan was made for other lengths, shapes, dtypes or options, is damaged,
    /// or when a length is beyond the table.
    ///
    /// f32 arithmetic; where the CPU multiplies bf16 (AVX512-BF16) and the query is bf16, the weights
    /// exp(x - m) are rounded to bf16 before they meet V, but not in their sum, and bf16 numbers below
    /// 2^-126 count as 0. KVOPS_IMPL=cpu_attention_with_kv_cache:portable forces f32.
    /// ```
    pub fn kvops_cpu_attention_with_kv_cache(args: *const kvops_cpu_attention_with_kv_cache_args) -> kvops_status;
    pub fn kvops_cpu_attention_with_kv_cache_workspace(args: *const kvops_cpu_attention_with_kv_cache_args, bytes: *mut i64) -> kvops_status;
    /// ```text
    /// Packs a weight matrix once for repeated products. k, n >= 1.
    /// ```
    pub fn kvops_create_onednn_mm(args: *const kvops_create_onednn_mm_args) -> kvops_status;
    /// ```text
    /// out = RN_T(input . weight + bias), summed in f32 in any order.
    /// ```
    pub fn kvops_onednn_mm(args: *const kvops_onednn_mm_args) -> kvops_status;
    /// ```text
    /// Frees a packed weight; products that still run keep it until they end. Twice is INVALID_ARGUMENT,
    /// never a crash.
    /// ```
    pub fn kvops_release_dnnl_matmul_handler(args: *const kvops_release_dnnl_matmul_handler_args) -> kvops_status;
    /// ```text
    /// Packs an int8 weight and fixes how inputs are quantised. k <= 131071: sums fit an int32.
    /// ```
    pub fn kvops_create_onednn_scaled_mm(args: *const kvops_create_onednn_scaled_mm_args) -> kvops_status;
    /// ```text
    /// acc = input . weight, exact; sw = weight_scales, sx = input_scale, W = column sums of weight:
    ///
    ///   static   out = RN_T(sx * (sw * (acc - azp * W)) + bias)             azp_adj is not read
    ///   dynamic  out = RN_T(sx * (sw * acc) - azp_adj * (sx * azp) + bias)  azp_adj absent: sw * W
    ///
    /// Left to right, each step rounded to f32. Static azp needs a handle created with use_azp.
    /// ```
    pub fn kvops_onednn_scaled_mm(args: *const kvops_onednn_scaled_mm_args) -> kvops_status;
    /// ```text
    /// out = RNE(clamp(RN(RN(x * RN(1 / scale)) + azp), -128, 127)), NaN -128; x ~ scale * (out - azp).
    /// ```
    pub fn kvops_static_scaled_int8_quant(args: *const kvops_static_scaled_int8_quant_args) -> kvops_status;
    /// ```text
    /// Per row, NaN aside: scale = max|x| / 127; asymmetric: scale = (max - min) / 255, azp = -128 - min
    /// / scale to nearest even; then as above. scale >= 2^-126. A row of zeros gives scale 1, azp 0 and
    /// zeros; an asymmetric row of one other value c gives scale |c|, azp 0, out sign(c).
    /// ```
    pub fn kvops_dynamic_scaled_int8_quant(args: *const kvops_dynamic_scaled_int8_quant_args) -> kvops_status;
}
