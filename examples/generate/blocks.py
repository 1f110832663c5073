# Who owns which block. A block is free, or held by as many sequences as its count says. A full
# block can be published under a key that names its tokens and all before them; sequences that begin
# with the same tokens then share it instead of computing it again. A freed block keeps its key
# until it is taken for something else, the one freed longest ago first.
import hashlib
from collections import OrderedDict

import numpy as np


def chain_key(previous, tokens):
    """The key of a full block: of its tokens, after the block whose key is `previous` (or b"")."""
    return hashlib.blake2b(previous + np.array(tokens, np.int64).tobytes(), digest_size=16).digest()


class BlockPool:
    def __init__(self, count):
        self.count = count
        self.holders = [0] * count
        self.free = OrderedDict.fromkeys(range(count))
        self.key_of, self.block_of = {}, {}
        self.peak = 0

    @property
    def used(self):
        return self.count - len(self.free)

    def take(self):
        """A block for new content; the caller has seen that one is free."""
        block, _ = self.free.popitem(last=False)
        key = self.key_of.pop(block, None)
        if key is not None:
            del self.block_of[key]
        return self._hold(block)

    def share(self, key):
        """The block published under the key, held once more, or None."""
        block = self.block_of.get(key)
        if block is None:
            return None
        self.free.pop(block, None)
        return self._hold(block)

    def _hold(self, block):
        self.holders[block] += 1
        self.peak = max(self.peak, self.used)
        return block

    def release(self, blocks):
        """Gives up one hold of each. The last of a sequence are the first to be taken again."""
        for block in reversed(blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                self.free[block] = None

    def publish(self, block, key):
        """Names the content of a full block, unless another block already has that name."""
        if key not in self.block_of and block not in self.key_of:
            self.key_of[block], self.block_of[key] = key, block
