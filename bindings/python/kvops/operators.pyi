# Written by tools/bindgen.py from kvops_ops(): do not edit.
from typing import Any, Literal, Mapping, TypeAlias

from ._library import Error, Status
from ._tensor import Tensor

# A NumPy array, a DLPack object or a kvops.Tensor
Array: TypeAlias = Any
# An address, or a stream object
StreamLike: TypeAlias = Any
DType: TypeAlias = Literal["f32", "f16", "bf16", "f8_e4m3", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz", "u8", "i8", "i32", "i64"] | int

class Argument:
    name: str
    offset: int
    kind: int
    flags: int
    type: str
    shape: str
    compare: str
    tolerance: tuple[float, float]
    dtypes: tuple[str, ...]
    values: Mapping[str, int]
    optional: bool

class Operator:
    name: str
    arguments: Mapping[str, Argument]
    rules: tuple[str, ...]
    backends: tuple[str, ...]
    sized: str

class Call:
    op: Operator
    args: Any
    stream: StreamLike
    def __call__(self) -> None: ...
    def set(self, **values: Any) -> None: ...

class Query(tuple[int, str, bool, bool]):
    bytes: int
    implementation: str
    graph_safe: bool
    deterministic: bool

ops: Mapping[str, Operator]

def prepare(op: Any, *, stream: StreamLike = None, **arguments: Any) -> Call: ...
def query(op: Any, *, stream: StreamLike = None, **arguments: Any) -> Query: ...
def workspace_bytes(op: Any, **arguments: Any) -> int: ...
def call(op: Any, *, stream: StreamLike = None, **arguments: Any) -> None: ...

def rms_norm(
    *,
    input: Array,
    weight: Array | None = None,
    out: Array,
    epsilon: float = 0.0,
    stream: StreamLike = None,
) -> None:
    """
    Normalises every row (last dimension) to root mean square 1 and scales it.

      s       = 1 / sqrt(sum_j input[j]^2 / d + epsilon)        within 2 ulp
      out[j]  = RN_T((input[j] * s) * weight[j])                without weight: RN_T(input[j] * s)

    input has rank >= 1 and the shape of out. One rounding, at the end. The order of the sum depends
    on d and T only: a row has the same bits in any batch, at any address, with any strides. An
    infinity in a row: finite elements give 0, the infinite ones NaN; NaN: all give NaN. A sum of
    squares beyond f32: the row gives 0.
    """

def fused_add_rms_norm(
    *,
    input: Array,
    residual: Array,
    weight: Array | None = None,
    epsilon: float = 0.0,
    stream: StreamLike = None,
) -> None:
    """
    residual = RN_T(input + residual), then input = rms_norm(residual, weight, epsilon): the same
    bits as an addition followed by kvops_rms_norm, on every backend and for any alignment.
    """

def rotary_embedding(
    *,
    positions: Array,
    query: Array,
    key: Array | None = None,
    cos_sin_cache: Array,
    faults: Array | None = None,
    head_size: int = 0,
    rope_dim_offset: int = 0,
    is_neox: int = 0,
    inverse: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Rotates rot elements of every head of query and of key in place. A row of cos_sin_cache is rot/2
    cosines, then rot/2 sines; rot is even. With p = positions[token], v = a head from
    rope_dim_offset on, (a, b) = pair j:

      c = cos_sin_cache[p][j],  s = cos_sin_cache[p][rot/2 + j]          inverse: s = -s
      v[a], v[b] = RN_T(v[a]*c - v[b]*s), RN_T(v[b]*c + v[a]*s)          one rounding each

    The rest of a head is left alone. query and key have their own token and head strides; both may
    be slices of one packed qkv row. A token whose position is negative or >= max_pos is left alone,
    the latter counted as a fault.
    """

def silu_and_mul(
    *,
    input: Array,
    out: Array,
    stream: StreamLike = None,
) -> None:
    """
    out = silu(a) * b,  silu(x) = x / (1 + exp(-x)).  x = -inf gives NaN; below -88.7 the exponential
    overflows and silu is -0.
    """

def mul_and_silu(
    *,
    input: Array,
    out: Array,
    stream: StreamLike = None,
) -> None:
    """out = a * silu(b)."""

def gelu_and_mul(
    *,
    input: Array,
    out: Array,
    stream: StreamLike = None,
) -> None:
    """out = gelu(a) * b,  gelu(x) = (x * 0.5) * (1 + erf(x * 0.70710678))."""

def gelu_tanh_and_mul(
    *,
    input: Array,
    out: Array,
    stream: StreamLike = None,
) -> None:
    """out = gelu(a) * b,  gelu(x) = (0.5 * x) * (1 + tanh(0.79788456 * (x + 0.044715 * (x*x*x))))."""

def fatrelu_and_mul(
    *,
    input: Array,
    out: Array,
    threshold: float = 0.0,
    stream: StreamLike = None,
) -> None:
    """
    out = (a <= RN_T(threshold) ? 0 : a) * b.  A NaN in a passes; a dropped a times an infinite b is
    NaN, times a negative b -0. threshold is rounded to f32, then to T.
    """

def swigluoai_and_mul(
    *,
    input: Array,
    out: Array,
    alpha: float = 0.0,
    limit: float = 0.0,
    stream: StreamLike = None,
) -> None:
    """
    g = min(gate, limit),  u = max(min(up, limit), -limit),
    out = RN_T(((u + 1) * g) / (1 + exp(-(g * alpha)))).
    One rounding; alpha and limit are rounded to f32; a NaN in gate or up gives NaN.
    """

def silu_and_mul_with_clamp(
    *,
    input: Array,
    out: Array,
    limit: float = 0.0,
    alpha: float = 0.0,
    beta: float = 0.0,
    stream: StreamLike = None,
) -> None:
    """
    g = RN_T(min(a, limit)),  u = RN_T(max(min(b, limit), -limit));
    out = RN_T(RN_T(g / (1 + exp(-(alpha * g)))) * (u + beta)).
    limit, alpha and beta are rounded to f32, u + beta is a sum in f32; a NaN in a or b gives NaN.
    """

def reshape_and_cache(
    *,
    key: Array,
    value: Array,
    key_cache: Array,
    value_cache: Array,
    slot_mapping: Array,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    faults: Array | None = None,
    stream: StreamLike = None,
) -> None:
    """
    Scatters new keys and values into the x-packed cache that paged_attention_v1/v2 read. The slot of
    token t is position o of block b:

      key_cache[b, h, d / x, o, d % x] = conv(key[t, h, d], k_scale)
      value_cache[b, h, d, o]          = conv(value[t, h, d], v_scale)    conv: copy, or fp8 codes

      one (block, head) of key_cache:    o0: k0..k[x-1] | o1: k0..k[x-1] | ...  then kx.. of every o
      one (block, head) of value_cache:  v0: o0 o1 ... | v1: o0 o1 ... | ...

    That is the dense layout; all strides of the caches are read. A flash cache [blocks, block,
    heads, size] with strides (sb, st, sh, 1) is a key_cache with strides (sb, sh, x, st, 1) and a
    value_cache with strides (sb, sh, 1, st).
    """

def reshape_and_cache_flash(
    *,
    key: Array,
    value: Array,
    key_cache: Array,
    value_cache: Array,
    slot_mapping: Array,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    faults: Array | None = None,
    format: Literal["plain", "nvfp4", "nvfp4_4over6"] | int = 0,
    v_scale_layout: Literal["unset", "transposed", "linear"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Writes new rows into a paged cache whose rows are contiguous over size. NHD, HND, K|V packed in
    one row, blocks that span layers: all are strides.

      PLAIN   key_cache[b, o, h, d] = conv(key[t, h, d], k_scale[h or 0]), and so for value

    NVFP4: size % 16 == 0. A page (one block of one side) is dense, NHD or HND by the strides of
    dimensions 1 and 2; row = o * heads + h or h * block + o. It holds all codes, then all scales:

      codes   row * size/2 + j             element 2j in the low nibble, 2j + 1 in the high one
      scales  block*heads*size/2 + row * size/16 + g        one e4m3 per group g of 16 elements
      V, TRANSPOSED: the scale of (o, g) stands where LINEAR has (o', g'):  k = 4g + o % 4,
                     o' = 4 (o / 4) + k / (size/16),  g' = k % (size/16);  block % 4 == 0

      G = RN(1 / k_scale),  sf = e4m3(RN(G * RN(amax * c))),  c = 0x3E2AAAAB (1/6),  S = decode(sf)
      w = S == 0 ? 0 : 1 / RN(S * (1 / G)),  code = e2m1(RN(x * w)), half to even, saturating

    NaN enters amax only if all 16 are NaN, and codes as 6. NVFP4_4OVER6 also tries c = 1/4 and keeps
    it where the sum of (decode(code) * RN(1 / w) - x)^2 is strictly smaller: in f32, rounded after
    every operation, of pairs, pairs of pairs and so on; 1 / w is 0 where w = 0. Reciprocals are
    correctly rounded: all backends write the same bytes. Under a k_scale that is not positive and
    finite the codes mean nothing; KVOPS_DEBUG=bounds refuses it.
    """

def concat_and_cache_mla(
    *,
    kv_c: Array,
    k_pe: Array,
    kv_cache: Array,
    slot_mapping: Array,
    kv_scale: Array | None = None,
    faults: Array | None = None,
    format: Literal["plain", "fp8_ds_mla", "nvfp4_ds_mla"] | int = 0,
    scale_rule: Literal["pow2", "amax"] | int = 0,
    fp8_encoding: Literal["ocp", "fnuz"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Stores [kv_c | k_pe] of each token as one cache entry. *_DS_MLA: latent = 512, rope = 64, and
    kv_scale is not read.

      PLAIN         conv(kv_c[t], kv_scale) | conv(k_pe[t], kv_scale)

      FP8_DS_MLA    [0, 512) e4m3(x / s[k]) of kv_c | [512, 528) f32 s[k] of elements 128k ..
                    | [528, 656) the bits of k_pe
                    POW2: s = 2^ceil(log2(max(RN(amax / C), 1e-4))), exact
                    AMAX: s = max(RN(amax / C), 2^-126)

      NVFP4_DS_MLA  [0, 256) e2m1(RN(x * RN(1 / S))), even element in the low nibble
                    | [256, 320) e4m3(k_pe), unscaled | [320, 352) scales sf, OCP, of groups of 16
                    f = max(RN(amax / 6), 2^-9),  sf = e4m3(f), plus one code if that is < f and
                    sf < 0x7E,  S = decode(sf);  group g at byte 320 + 8 (g % 4) + g / 4

    NaN does not enter amax. Codes and scales are byte-equal on all backends.
    """

def concat_and_cache_mla_rope_fused(
    *,
    positions: Array,
    q_pe: Array,
    k_pe: Array,
    kv_c: Array,
    cos_sin_cache: Array,
    kv_cache: Array,
    slot_mapping: Array,
    kv_scale: Array | None = None,
    faults: Array | None = None,
    is_neox: int = 0,
    format: Literal["plain", "fp8_ds_mla"] | int = 0,
    scale_rule: Literal["pow2", "amax"] | int = 0,
    fp8_encoding: Literal["ocp", "fnuz"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Rotates q_pe and k_pe of ALL rows in place, then stores [kv_c | rotated k_pe] of the rows that
    have a slot, as concat_and_cache_mla does. Three roundings to T, also of cos and sin before, the
    same bits everywhere: RN_T(RN_T(x*c) - RN_T(y*s)); NaN is the quiet one; rotary_embedding rounds
    once. A row whose position is outside [0, max_pos) is neither rotated nor stored.
    """

def concat_and_cache_mla_grouped(
    *,
    kv_c: Array,
    k_pe: Array,
    kv_cache_ptrs: Array,
    slot_mapping: Array,
    kv_scales: Array | None = None,
    faults: Array | None = None,
    cache_dtype: DType = 0,
    num_blocks: int = 0,
    block_size: int = 0,
    block_stride: int = 0,
    entry_stride: int = 0,
    format: Literal["plain", "fp8_ds_mla"] | int = 0,
    scale_rule: Literal["pow2", "amax"] | int = 0,
    fp8_encoding: Literal["ocp", "fnuz"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    concat_and_cache_mla for several layers in one launch. The caches are reached by address: neither
    their memory nor, with num_blocks = 0, their slots can be checked.
    """

def swap_blocks(
    *,
    src: Array,
    dst: Array,
    block_mapping: Array,
    block_size_in_bytes: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Block block_mapping[i][0] of src is copied, as bytes, to block block_mapping[i][1] of dst, for
    i = 0, 1, ... in this order. Block b starts at byte b * block_size_in_bytes of its tensor and
    must end within the bytes from the first element of its tensor to the end of the last; shapes,
    strides and dtypes matter no further. A block onto itself is no copy. All pairs are checked
    before the first copy: INVALID_ARGUMENT names the first bad one. A copy into pageable CPU memory
    is complete on return; the others are stream-ordered, and only they may be captured. A graph
    replays the pairs of the captured call.
    """

def swap_blocks_batch(
    *,
    queue: Array,
    src_ptrs: Array,
    dst_ptrs: Array,
    sizes: Array,
    is_src_access_order_any: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    sizes[i] bytes from src_ptrs[i] to dst_ptrs[i] for all i. The batch is ordered on the stream, its
    copies are not ordered among themselves and must not depend on each other. Works on the default
    stream, for any number of copies. A negative size, or an address of 0 where the size is not, is
    INVALID_ARGUMENT before any copy; other addresses cannot be checked. kvops_get_error() names the
    first copy that failed. Set is_src_access_order_any only for sources that nothing on the device
    still writes (CPU to device).
    """

def convert_fp8(
    *,
    src: Array,
    dst: Array,
    scale: float = 0.0,
    stream: StreamLike = None,
) -> None:
    """
    float -> fp8: dst = fp8(src / scale), see cache_format.h. fp8 -> float: dst = RN_T(p) of the f32
    product p = RN(decode(src) * scale); f16 overflows to infinity. One side must be fp8, one not.
    """

def gather_and_maybe_dequant_cache(
    *,
    kv_cache: Array,
    block_table: Array,
    cu_seq_lens: Array,
    seq_starts: Array | None = None,
    kv_scale: Array | None = None,
    out: Array,
    faults: Array | None = None,
    zero_invalid: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    out[t] = RN_T(decode(entry) * kv_scale), or a bit copy when Cache is T. Packed records are not
    decoded here.
    """

def cp_gather_cache(
    *,
    kv_cache: Array,
    block_table: Array,
    cu_seq_lens: Array,
    seq_starts: Array | None = None,
    out: Array,
    faults: Array | None = None,
    zero_invalid: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    out[t] = the entry, bit for bit. cu_seq_lens may be padded (context parallelism): rows that were
    never written are copied as they are.
    """

def cp_gather_and_upconvert_fp8_kv_cache(
    *,
    kv_cache: Array,
    block_table: Array,
    workspace_starts: Array,
    seq_starts: Array | None = None,
    out: Array,
    faults: Array | None = None,
    zero_invalid: int = 0,
    fp8_encoding: Literal["ocp", "fnuz"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    out[t] = RN_T(decode(code) * scale) for 512 latent elements, then the 64 rope elements bit for
    bit. Any f32 scale is read as it is. Here row t belongs to the last request b < batch with
    workspace_starts[b] <= t: the last owns the rest of out, rows before the first have no owner.
    """

def cp_gather_and_upconvert_nvfp4_kv_cache(
    *,
    kv_cache: Array,
    block_table: Array,
    workspace_starts: Array,
    seq_starts: Array | None = None,
    out: Array,
    faults: Array | None = None,
    zero_invalid: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    The same for 352-byte records: e2m1 * e4m3 and the e4m3 rope are exact in either dtype. Needs no
    fp4 hardware.
    """

def paged_attention_v1(
    *,
    query: Array,
    key_cache: Array,
    value_cache: Array,
    block_table: Array,
    seq_lens: Array,
    alibi_slopes: Array | None = None,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    sinks: Array | None = None,
    out: Array,
    lse: Array | None = None,
    workspace: Array | None = None,
    faults: Array | None = None,
    scale: float = 0.0,
    softcap: float = 0.0,
    max_seq_len: int = 0,
    window: int = 0,
    batch_invariant: int = 0,
    tp_rank: int = 0,
    blocksparse_local_blocks: int = 0,
    blocksparse_vert_stride: int = 0,
    blocksparse_block_size: int = 0,
    blocksparse_head_sliding_step: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    The query token of sequence s attends to its cached tokens t < L = seq_lens[s]. Head h reads kv
    head g = h / (heads / kv_heads); token t is token t % block of block block_table[s, t / block].

      c(z)       = softcap * tanh(z / softcap), or z when softcap is 0
      a[t]       = c(scale * sum_d query[s,h,d] * k[t,d])  +  alibi_slopes[h] * (t - L + 1)
      m          = max(max_t a[t], sinks[h]),   Z = sum_t exp(a[t] - m) + exp(sinks[h] - m)
      out[s,h,:] = RN_T(sum_t exp(a[t] - m) * v[t,:] / Z),   lse[s,h] = log(Z) + m

    Without sinks their terms vanish. A window w keeps t >= L - w. No token left: out = 0 and, where
    there are no sinks, lse = -inf. The caches take any strides: an NHD or HND cache [blocks, block,
    kv_heads, size] with strides (sb, st, sh, 1) is passed as keys [blocks, kv_heads, size/x, block,
    x] with strides (sb, sh, x, st, 1) and values [blocks, kv_heads, size, block] with (sb, sh, 1,
    st). The same bits result.

    Everything is accumulated in f32. fp8: k = decode * k_scale, v = decode * v_scale, but k_scale is
    part of the scale and v_scale of the last product, so that neither rounds an element. L <= 0:
    zeros. A logit of -inf has no weight. What lies at t >= L in a block, and in the table past it,
    is not used and may be anything, NaN included. Faults: each entry of the table that a token
    needs and whose block id is outside [0, blocks), which leaves its tokens out; and each L above
    max_seq_len or width * block, where it is cut. Chunked prefill: each token of the chunk is a
    sequence of its own, with the same table row and the L that ends with it.

    size: a multiple of 8 (fp8: 16) from 8 to 512; any block; heads a multiple of kv_heads.

    Block-sparse, if vert_stride > 1; B = blocksparse_block_size, step = head_sliding_step: the cache
    block that starts at token t takes part iff

      (t/B + o) % vert_stride == 0   or   t/B > (L-1)/B - local_blocks,
      o = 1 + (step >= 0 ? (tp_rank * heads + h) * step : (tp_rank * kv_heads + g) * -step)

    No block left: zeros. Without batch_invariant the way a sequence is split, and so its last bits,
    may depend on the other sequences of the call and on whether there is a workspace; with it, on
    neither. On the CPU bits never depend on the batch, on threads or on the workspace. Without a
    workspace one sequence and kv head is the work of one thread, on a GPU of one thread block. What
    the workspace holds before a call does not matter; calls that may overlap need one each.
    """

def paged_attention_v2(
    *,
    query: Array,
    key_cache: Array,
    value_cache: Array,
    block_table: Array,
    seq_lens: Array,
    alibi_slopes: Array | None = None,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    sinks: Array | None = None,
    out: Array,
    lse: Array | None = None,
    workspace: Array | None = None,
    faults: Array | None = None,
    scale: float = 0.0,
    softcap: float = 0.0,
    max_seq_len: int = 0,
    window: int = 0,
    batch_invariant: int = 0,
    tp_rank: int = 0,
    blocksparse_local_blocks: int = 0,
    blocksparse_vert_stride: int = 0,
    blocksparse_block_size: int = 0,
    blocksparse_head_sliding_step: int = 0,
    stream: StreamLike = None,
) -> None:
    """vLLM's second entry point: the same arguments and, with the same workspace, the same bits."""

def merge_attn_states(
    *,
    prefix_output: Array,
    prefix_lse: Array,
    suffix_output: Array,
    suffix_lse: Array,
    out_scale: Array | None = None,
    out: Array,
    out_lse: Array | None = None,
    suffix_only_tokens: int = 0,
    keep_nan: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Combines two attention results over disjoint sets of keys. With p, q = prefix_lse, suffix_lse of
    (head, token), each infinity of either sign taken as -inf (an empty set), and M = max(p, q):

      a = exp(p - M),  b = exp(q - M),  out = RN_T(prefix * (a / (a + b)) + suffix * (b / (a + b))),
      out_lse = log(a + b) + M

    One side empty: the other side's bits, and the empty one is not read. Both: prefix_output's bits,
    out_lse = -inf. A NaN beside an infinity counts as empty, beside a number it gives NaN. The last
    suffix_only_tokens tokens copy suffix_output and suffix_lse unchanged, their prefix is not read.
    fp8: every stored value, copies included, is sat(x * RN(1 / out_scale)) of the unrounded x, with
    448 (fnuz: 224) as the largest magnitude.
    """

def concat_mla_q(
    *,
    ql_nope: Array,
    q_pe: Array,
    out: Array,
    stream: StreamLike = None,
) -> None:
    """out = [ql_nope | q_pe] along the last dimension, bit for bit."""

def indexer_k_quant_and_cache(
    *,
    k: Array,
    kv_cache: Array,
    slot_mapping: Array,
    faults: Array | None = None,
    quant_block_size: int = 0,
    scale_rule: Literal["pow2", "amax"] | int = 0,
    fp8_encoding: Literal["ocp", "fnuz"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Per token and group of q elements: amax = max |k|, NaN ignored;  s = RN(max(amax, 1e-4) / C),
    C = 448 (fnuz: 224); POW2: s = 2^ceil(log2(s)), exact;  codes sat(k / s). Byte-equal everywhere.
    """

def cp_gather_indexer_k_quant_cache(
    *,
    kv_cache: Array,
    block_table: Array,
    cu_seq_lens: Array,
    seq_starts: Array | None = None,
    out_k: Array,
    out_scale: Array,
    faults: Array | None = None,
    zero_invalid: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Gathers codes and scales of a batch into two packed arrays, byte for byte; d and groups come from
    the outputs. Rows, requests and faults as in cache_read.h.
    """

def top_k_per_row_prefill(
    *,
    logits: Array,
    row_starts: Array,
    row_ends: Array,
    indices: Array,
    workspace: Array,
    order: Literal["unordered", "by_value", "by_index"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    indices[r, :] = the positions of the k largest logits among columns [start, end), relative to
    start; start and end are row_starts[r] and row_ends[r], clamped to [0, columns]. Always min(k,
    len) distinct positions, len = end - start or 0, then -1. len <= k: 0, 1, .. len - 1, in this
    order unless it is BY_VALUE. Exact in all 32 bits: +0 ranks above -0, -inf is a value like
    others, NaN of either sign are equal and above +inf. Logits outside a row's range are not read.
    """

def top_k_per_row_decode(
    *,
    logits: Array,
    seq_lens: Array,
    indices: Array,
    workspace: Array,
    next_n: int = 0,
    order: Literal["unordered", "by_value", "by_index"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    The same with row_starts = 0 and row_ends[r] = seq_lens[r] (lengths per row), or
    seq_lens[r / next_n] - next_n + r % next_n + 1 (per request).
    """

def convert_vertical_slash_indexes(
    *,
    q_seq_lens: Array,
    kv_seq_lens: Array,
    vertical_indexes: Array,
    slash_indexes: Array,
    block_count: Array,
    block_offset: Array,
    column_count: Array,
    column_index: Array,
    faults: Array | None = None,
    block_size_m: int = 0,
    block_size_n: int = 0,
    causal: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Turns the important columns and diagonals of every head into, per block of M = block_size_m query
    rows, a list of blocks of N = block_size_n keys and a list of left-over columns. Slash o at query
    row i is key i + Lk - Lq - o (causal) or i + Lk - o. For row block r, q = r * M < Lq:

      E = q + M + (causal ? Lk - Lq : Lk);  v, s = first vertical, first slash < E, or the last one
      s <= E:  hi = max(E - s, M), lo = hi - M;   else lo = causal ? E : Lk, hi = lo + N (no s: lo)
      repeat the first that applies:
        v < hi                              column v if v < lo;  v = next vertical, or none
        next slash s, causal or s >= q      e = max(E - s, M);  if e > hi + M: blocks, lo = e - M,
                                            hi = e;  else if e > hi: hi += M
        causal, or no vertical follows v    not causal and a v: column v;  blocks;  stop
        else                                blocks;  lo = Lk, hi = Lk + N, and no range grows again
      blocks: lo, lo + N, ... below min(hi, Lk), if lo >= 0

    Counts of row blocks past Lq are 0, index entries past the counts stay. Verticals below 0 are
    skipped, those from Lk on as faults. Lists may be empty; there is always room for the result.
    Lists out of order take the same steps; KVOPS_DEBUG=bounds refuses them.
    """

def convert_vertical_slash_indexes_mergehead(
    *,
    q_seq_lens: Array,
    kv_seq_lens: Array,
    vertical_indexes: Array,
    slash_indexes: Array,
    vertical_indices_count: Array,
    slash_indices_count: Array,
    block_count: Array,
    block_offset: Array,
    column_count: Array,
    column_index: Array,
    faults: Array | None = None,
    block_size_m: int = 0,
    block_size_n: int = 0,
    causal: int = 0,
    stream: StreamLike = None,
) -> None:
    """The same with list lengths of their own for every head."""

def cpu_attn_get_scheduler_metadata(
    *,
    seq_lens: Array,
    query_start_loc: Array,
    dynamic_causal: Array | None = None,
    scheduler_metadata: Array,
    num_heads: int = 0,
    num_kv_heads: int = 0,
    head_size: int = 0,
    query_dtype: DType = 0,
    isa: Literal["vec", "vec16", "amx"] | int = 0,
    causal: int = 0,
    window_left: int = 0,
    window_right: int = 0,
    enable_kv_split: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Plans one step of cpu_attention_with_kv_cache for all layers. The plan is position-independent
    (it may be copied anywhere), read-only afterwards, valid for any number of threads, and
    independent of cache dtype and strides. INVALID_ARGUMENT if query_start_loc does not ascend from
    0, a length is negative, or a request has more queries than its length, unless that is 0: then
    its rows are written as zeros. reqs = 0 gives a valid empty plan.
    """

def cpu_attn_reshape_and_cache(
    *,
    key: Array,
    value: Array,
    key_cache: Array,
    value_cache: Array,
    slot_mapping: Array,
    faults: Array | None = None,
    k_scale: float = 0.0,
    v_scale: float = 0.0,
    isa: Literal["vec", "vec16", "amx"] | int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Writes rows of key and value into their slots in the packing of isa; tokens come from key, slots
    as in cache.h. [block, size] of one head is dense, block and head strides are free. fp8 codes as
    everywhere; vLLM's, from a reciprocal and truncated, differ by at most one code.
    """

def cpu_attention_with_kv_cache(
    *,
    query: Array,
    key_cache: Array,
    value_cache: Array,
    query_start_loc: Array,
    seq_lens: Array,
    block_table: Array,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    scheduler_metadata: Array,
    dynamic_causal: Array | None = None,
    out: Array,
    lse: Array | None = None,
    workspace: Array,
    faults: Array | None = None,
    scale: float = 0.0,
    softcap: float = 0.0,
    k_scale: float = 0.0,
    v_scale: float = 0.0,
    causal: int = 0,
    window_left: int = 0,
    window_right: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Attention of new queries over the paged cache: decode, prefill, mixed batches, encoders. Query i
    of request r has position p = seq_lens[r] - q_len + i; head h reads kv head h / (heads /
    kv_heads); the valid keys are p - window_left <= k <= p + window_right, 0 <= k < seq_lens[r].

      x[k] = scale * (q . K[k]) * k_scale
      softcap: x = softcap * tanh(x / softcap);   alibi: x += slope[h] * (k - p)
      out = RN_T(v_scale * sum_k exp(x[k] - m) V[k] / (sum_k exp(x[k] - m) + exp(sink - m)))

    The sink is a raw logit without a value; m is the maximum, sink included; lse is the logarithm of
    the denominator, plus m. No valid key: zeros, lse = -inf without a sink.
    Cache contents at k >= seq_lens[r], and the table past them, are not used. Rows of out past
    query_start_loc[reqs] are left alone. Keys in a block that the cache does not have weigh nothing.
    Without KV split the bits of a query depend on its own keys alone, not on threads, on other
    requests, or on how many queries come at once; with it, on that and on its request's length.
    INVALID_ARGUMENT when the plan was made for other lengths, shapes, dtypes or options, is damaged,
    or when a length is beyond the table.

    f32 arithmetic; where the CPU multiplies bf16 (AVX512-BF16) and the query is bf16, the weights
    exp(x - m) are rounded to bf16 before they meet V, but not in their sum, and bf16 numbers below
    2^-126 count as 0. KVOPS_IMPL=cpu_attention_with_kv_cache:portable forces f32.
    """

def create_onednn_mm(
    *,
    weight: Array,
    handle: Array,
    primitive_cache_size: int = 0,
    stream: StreamLike = None,
) -> None:
    """Packs a weight matrix once for repeated products. k, n >= 1."""

def onednn_mm(
    *,
    input: Array,
    bias: Array | None = None,
    out: Array,
    handle: int = 0,
    stream: StreamLike = None,
) -> None:
    """out = RN_T(input . weight + bias), summed in f32 in any order."""

def release_dnnl_matmul_handler(
    *,
    handle: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    Frees a packed weight; products that still run keep it until they end. Twice is INVALID_ARGUMENT,
    never a crash.
    """

def create_onednn_scaled_mm(
    *,
    weight: Array,
    weight_scales: Array,
    handle: Array,
    out_dtype: DType = 0,
    dynamic_act_quant: int = 0,
    use_azp: int = 0,
    primitive_cache_size: int = 0,
    stream: StreamLike = None,
) -> None:
    """Packs an int8 weight and fixes how inputs are quantised. k <= 131071: sums fit an int32."""

def onednn_scaled_mm(
    *,
    input: Array,
    input_scale: Array,
    azp: Array | None = None,
    azp_adj: Array | None = None,
    bias: Array | None = None,
    out: Array,
    handle: int = 0,
    stream: StreamLike = None,
) -> None:
    """
    acc = input . weight, exact; sw = weight_scales, sx = input_scale, W = column sums of weight:

      static   out = RN_T(sx * (sw * (acc - azp * W)) + bias)             azp_adj is not read
      dynamic  out = RN_T(sx * (sw * acc) - azp_adj * (sx * azp) + bias)  azp_adj absent: sw * W

    Left to right, each step rounded to f32. Static azp needs a handle created with use_azp.
    """

def static_scaled_int8_quant(
    *,
    input: Array,
    scale: Array,
    azp: Array | None = None,
    out: Array,
    stream: StreamLike = None,
) -> None:
    """out = RNE(clamp(RN(RN(x * RN(1 / scale)) + azp), -128, 127)), NaN -128; x ~ scale * (out - azp)."""

def dynamic_scaled_int8_quant(
    *,
    input: Array,
    out: Array,
    scale: Array,
    azp: Array | None = None,
    stream: StreamLike = None,
) -> None:
    """
    Per row, NaN aside: scale = max|x| / 127; asymmetric: scale = (max - min) / 255, azp = -128 - min
    / scale to nearest even; then as above. scale >= 2^-126. A row of zeros gives scale 1, azp 0 and
    zeros; an asymmetric row of one other value c gives scale |c|, azp 0, out sign(c).
    """
