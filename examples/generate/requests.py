# What attention is told of a step. Rows: row i attends to lengths[i] tokens of row i of a block
# table, which is all that paged_attention wants. Requests: for the cpu_attn_* operators, rows of
# one sequence that follow each other become one request of several queries (a prefill chunk, or
# one decode step), and a plan of the work is made that all layers share.
import kvops
import numpy as np


class Rows:
    def __init__(self, table, lengths):
        self.table, self.lengths = table, lengths

    def update(self):
        """To be called when table and lengths have changed, before the layers of a step."""


def aligned(size):
    """Bytes at a multiple of 64, at least one: where an empty array lies is not ours to say."""
    size = max(size, 1)
    memory = np.zeros(size + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


class Requests(Rows):
    def __init__(self, table, lengths, **shape):
        """shape: num_heads, num_kv_heads, head_size, query_dtype, isa."""
        super().__init__(table, lengths)
        n = len(table)
        self.tables, self.seq_lens = np.zeros_like(table), np.zeros(n, np.int32)
        self.starts = np.zeros(n + 1, np.int32)  # requests past the last one have no queries
        self.window = dict(causal=1, window_left=-1, window_right=-1)
        arguments = dict(seq_lens=self.seq_lens, query_start_loc=self.starts, enable_kv_split=1,
                         **shape, **self.window)
        op = "cpu_attn_get_scheduler_metadata"
        nothing = kvops.Tensor(None, "u8", (0,))
        self.plan = aligned(kvops.workspace_bytes(op, scheduler_metadata=nothing, **arguments))
        self.make_plan = kvops.prepare(op, scheduler_metadata=self.plan, **arguments)

    def update(self):
        table, lengths, n = self.table, self.lengths, len(self.table)
        follows = (lengths[1:] == lengths[:-1] + 1) & (lengths[:-1] > 0)
        follows &= (table[1:] == table[:-1]).all(axis=1)
        first = np.flatnonzero(np.concatenate(([n > 0], ~follows)))[:n]
        count, last = len(first), np.append(first[1:], n) - 1
        self.starts[:count], self.starts[count:] = first, n
        self.seq_lens[:count], self.seq_lens[count:] = lengths[last[:count]], 0
        self.tables[:count] = table[first]
        self.make_plan()

    def attention(self, **arguments):
        """The call of cpu_attention_with_kv_cache for these requests."""
        op = "cpu_attention_with_kv_cache"
        arguments.update(query_start_loc=self.starts, seq_lens=self.seq_lens,
                         block_table=self.tables, scheduler_metadata=self.plan, **self.window)
        nothing = kvops.Tensor(None, "u8", (0,))
        workspace = aligned(kvops.workspace_bytes(op, workspace=nothing, **arguments))
        return kvops.prepare(op, workspace=workspace, **arguments)
