"""What the generators of gathers share: requests, their rows, and where each row is read from.

Written from the head of include/kvcache_ops/cache_read.h.
"""
import numpy as np

from common import Bits, tensor

BLOCKS, BLOCK, WIDTH = 5, 3, 4  # 12 positions of a request have a page


class Requests:
    """Rows of requests of these lengths: the first begins at row `before`, `spare` rows follow.

    bad: some entries of the table are no blocks.
    """

    def __init__(self, random, lengths=(5, 0, 0, 4, 1), seq_starts=None, bad=True, before=0,
                 spare=3, block=BLOCK):
        batch = len(lengths)
        self.table = random.randint(0, BLOCKS, (batch, WIDTH))
        if bad:
            self.table[0, 1], self.table[3, :2] = -1, (BLOCKS, 2**31 - 1)
        self.starts = before + np.cumsum([0] + list(lengths))
        self.seq_starts = seq_starts
        self.rows = int(self.starts[-1]) + spare
        self.block = block

    def inputs(self, starts):
        """Tensors by name; starts: cu_seq_lens, or workspace_starts without the end."""
        found = {"block_table": tensor("i32", self.table)}
        first = self.starts if starts == "cu_seq_lens" else self.starts[:-1]
        found[starts] = tensor("i32", first)
        if self.seq_starts is not None:
            found["seq_starts"] = tensor("i32", np.array(self.seq_starts))
        return found

    def gather(self, entries, out, zero=False, owned_to_the_end=False):
        """Rows of `out` replaced by entries[block, slot], and the number of faults."""
        out, faults = out.copy(), set()
        last = len(out) if owned_to_the_end else min(self.starts[-1], len(out))
        for b, (first, end) in enumerate(zip(self.starts, np.append(self.starts[1:-1], last))):
            for t in range(first, min(end, last)):
                pos = t - first + (0 if self.seq_starts is None else self.seq_starts[b])
                page, slot = divmod(pos, self.block)
                known = 0 <= page < WIDTH and 0 <= self.table[b, page] < BLOCKS
                if known:
                    out[t] = entries[self.table[b, page], slot]
                else:
                    faults.add((b, page))
                    out[t] = 0 if zero else out[t]
        return out, len(faults)


def bits(random, shape, dtype):
    """Any bits of a dtype of 1 to 8 bytes."""
    size = Bits(dtype, [0]).array.itemsize
    raw = random.randint(0, 256, tuple(shape) + (size,)).astype(np.uint8)
    kind = Bits(dtype, [0]).array.dtype
    return raw.view(kind)[..., 0]
