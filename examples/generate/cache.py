# The paged KV cache: one array for all layers, so that a block is one piece of memory and one copy
# swaps it. A block holds, for every layer, its keys and then its values, in one of four layouts:
#
#   packed  K [kv_heads][size/x][block][x]   V [kv_heads][size][block]     x elements are 16 bytes
#   nhd     K and V [block][kv_heads][size]
#   hnd     K and V [kv_heads][block][size]
#   cpu     K [kv_heads][size][block]   V [kv_heads][block][size]    a packing of the cpu_attn_*
#           operators, which then write and attend; sizes and blocks are multiples of 16
#
# Attention is told the layout by strides alone: an nhd or hnd cache is a permuted view of the
# packed shape. An f32 or f8_e4m3 cache is read by f32 queries, a bf16 cache by bf16 ones.
import kvops
import ml_dtypes
import numpy as np

from .errors import UsageError
from .place import Host
from .requests import Requests, Rows

LAYOUTS = ("packed", "nhd", "hnd", "cpu")
DTYPES = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
}


class PagedCache:
    def __init__(self, config, blocks, block_size, host_blocks, dtype="f32", layout="nhd",
                 place=None):
        self.place = place or Host()
        self.dtype_name, self.layout, self.block_size = dtype, layout, block_size
        self.dtype = DTYPES[dtype]
        self.row_dtype = self._row_dtype(dtype, layout)
        self.config, self.scale = config, config.head_dim ** -0.5
        x = 16 // self.dtype.itemsize
        if config.head_dim % max(x, 8):
            raise UsageError(f"the head size is {config.head_dim}, expected a multiple of "
                             f"{max(x, 8)} (for a {dtype} cache)")
        if layout == "cpu" and (config.head_dim % 16 or block_size % 16):
            raise UsageError(f"the head size is {config.head_dim} and a block has {block_size} "
                             "tokens, expected multiples of 16 (for a cpu cache)")
        # The packing's name: the same bytes, but "vec" promises larger multiples.
        self.isa = "vec" if config.head_dim % 32 == 0 and block_size % 32 == 0 else "vec16"
        side = block_size * config.kv_heads * config.head_dim
        shape = (blocks, config.layers, 2, side)
        self.storage = self.place.zeros(shape, self.dtype)
        self.host = self.place.pool((host_blocks, *shape[1:]), self.dtype)
        self.block_bytes = config.layers * 2 * side * self.dtype.itemsize
        self.views = [self._views(self.storage[:, i], x) for i in range(config.layers)]
        # Operators count here what they skip: slots, blocks, positions that do not exist. Stays 0.
        self.faults = self.place.zeros(1, np.int64)
        # One scale per tensor; e4m3 holds up to 448 with 1, far above what keys and values reach.
        self.scales = None
        if dtype == "f8_e4m3":
            self.scales = self.place.given(np.ones(1, np.float32))

    def _row_dtype(self, dtype, layout):
        """Of queries, keys, values and what attention gives: on a GPU, that of all activations."""
        if self.place.device is None:
            return DTYPES["bf16" if dtype == "bf16" else "f32"]
        rows = self.place.dtype
        if layout == "cpu":
            raise UsageError(f"a cache in layout cpu is the CPU's, expected packed, nhd or hnd on "
                             f"{self.place.name}")
        if dtype != "f8_e4m3" and DTYPES[dtype] != rows:
            raise UsageError(f"on {self.place.name} a cache of {dtype} goes with --weights "
                             f"{dtype}, which is {self.place.weights}")
        return rows

    def _views(self, layer, x):
        """((key, value) to write, (key, value) to read) of [blocks, 2, side]."""
        c, block = self.config, self.block_size
        key, value = layer[:, 0], layer[:, 1]
        n, heads, size = len(layer), c.kv_heads, c.head_dim
        if self.layout == "packed":
            packed = (key.reshape(n, heads, size // x, block, x),
                      value.reshape(n, heads, size, block))
            return packed, packed
        if self.layout == "cpu":
            packed = [side.reshape(n, heads, block, size) for side in (key, value)]
            return packed, packed
        if self.layout == "nhd":
            rows = [side.reshape(n, block, heads, size) for side in (key, value)]
        else:
            rows = [side.reshape(n, heads, block, size).swapaxes(1, 2) for side in (key, value)]
        key, value = rows
        pieces = key.reshape(n, block, heads, size // x, x)
        return rows, (pieces.transpose(0, 2, 3, 1, 4), value.transpose(0, 2, 3, 1))

    def write(self, layer, key, value, slots):
        """The call that makes row i of key and value slot slots[i] of the layer."""
        key_cache, value_cache = self.views[layer][0]
        if self.layout == "cpu":
            return self.place.prepare("cpu_attn_reshape_and_cache", key=key, value=value,
                                      key_cache=key_cache, value_cache=value_cache,
                                      slot_mapping=slots, k_scale=1, v_scale=1, isa=self.isa,
                                      faults=self.faults)
        packed = self.layout == "packed"
        return self.place.prepare("reshape_and_cache" if packed else "reshape_and_cache_flash",
                                  key=key, value=value, key_cache=key_cache,
                                  value_cache=value_cache, slot_mapping=slots,
                                  k_scale=self.scales, v_scale=self.scales, faults=self.faults)

    def rows(self, table, lengths):
        """Which tokens every row of a query attends to: lengths[i] of those in its table row."""
        if self.layout != "cpu":
            return Rows(table, lengths)
        c = self.config
        return Requests(table, lengths, num_heads=c.heads, num_kv_heads=c.kv_heads,
                        head_size=c.head_dim, query_dtype=self.row_dtype,
                        isa=self.isa)

    def read(self, layer, query, rows, out, lse=None):
        """The call by which the rows of query attend to their tokens."""
        key_cache, value_cache = self.views[layer][1]
        if self.layout == "cpu":
            return rows.attention(query=query, key_cache=key_cache, value_cache=value_cache,
                                  out=out, lse=lse, scale=self.scale, k_scale=1, v_scale=1,
                                  faults=self.faults)
        return self.place.prepare("paged_attention_v1", query=query, key_cache=key_cache,
                                  value_cache=value_cache, block_table=rows.table,
                                  seq_lens=rows.lengths, out=out, lse=lse, k_scale=self.scales,
                                  v_scale=self.scales, scale=self.scale, faults=self.faults)

    def swap_out(self, pairs):
        """Copies cache blocks to host blocks: pairs of (cache block, host block)."""
        self._swap(self.storage, self.host, pairs)

    def swap_in(self, pairs):
        """Copies host blocks to cache blocks: pairs of (host block, cache block)."""
        self._swap(self.host, self.storage, pairs)

    def _swap(self, source, target, pairs):
        if pairs:
            bytes_of = [a if isinstance(a, kvops.Tensor) else a.view(np.uint8)
                        for a in (source, target)]
            self.place.prepare("swap_blocks", src=bytes_of[0], dst=bytes_of[1],
                               block_mapping=np.array(pairs, np.int64),
                               block_size_in_bytes=self.block_bytes)()
