# Continuous batching: which tokens of which sequences run in the next step.
#
# Running sequences come first, the oldest first: one token each, or, while their prompt is not in
# the cache yet, a chunk of it, within batch_tokens a step. When blocks run out, the youngest
# running sequence is preempted: its blocks are swapped out to the host pool, or, if that is full,
# dropped and computed again later. With room left, swapped sequences return, then waiting ones
# start, sharing the full blocks that others with the same beginning have computed.
from collections import deque
from dataclasses import dataclass, field

from .blocks import BlockPool, chain_key
from .errors import UsageError


@dataclass(eq=False)
class Sequence:
    index: int
    tokens: list  # the prompt, then what was generated
    prompt: int  # tokens in the prompt
    limit: int  # most tokens to generate
    computed: int = 0  # tokens whose keys and values are in the cache
    blocks: list = field(default_factory=list)
    host: list = field(default_factory=list)  # blocks of the host pool while swapped out
    keys: list = field(default_factory=list)  # of the full blocks
    shared: int = 0  # prompt tokens that came from shared blocks

    @property
    def pending(self):
        return len(self.tokens) - self.computed

    @property
    def generated(self):
        return len(self.tokens) - self.prompt


@dataclass
class Plan:
    """Copies to make before the step, then (sequence, number of pending tokens) to run."""

    out: list = field(default_factory=list)  # (cache block, host block)
    back: list = field(default_factory=list)  # (host block, cache block)
    work: list = field(default_factory=list)


class Scheduler:
    def __init__(self, blocks, block_size, host_blocks, batch_tokens, concurrency, sharing=True):
        self.pool, self.host = BlockPool(blocks), BlockPool(host_blocks)
        self.block_size, self.batch_tokens = block_size, batch_tokens
        self.concurrency, self.sharing = concurrency, sharing
        self.waiting, self.swapped, self.running = deque(), deque(), []
        self.preemptions = self.dropped = self.copied_out = self.copied_back = 0

    def blocks_for(self, tokens):
        return -(-tokens // self.block_size)

    def add(self, sequence):
        # The last token generated never enters the cache.
        need = self.blocks_for(sequence.prompt + sequence.limit - 1)
        if need > self.pool.count:
            raise UsageError(f"prompt {sequence.index + 1} may need {need} blocks of "
                             f"{self.block_size} tokens, the cache has {self.pool.count}: "
                             "raise --blocks or lower --max-tokens")
        self.waiting.append(sequence)

    @property
    def idle(self):
        return not (self.waiting or self.swapped or self.running)

    def finish(self, sequence):
        self.running.remove(sequence)
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def plan(self):
        plan, left, at, preemptions = Plan(), self.batch_tokens, 0, self.preemptions
        while at < len(self.running) and left:
            sequence = self.running[at]
            wanted = min(sequence.pending, left)
            while not self._grow(sequence, wanted) and self.running[-1] is not sequence:
                self._preempt(self.running[-1], plan)
            count = min(wanted, self._room(sequence))
            if count == 0:  # the youngest, and nobody left to take a block from
                self._preempt(sequence, plan)
                break
            self._schedule(sequence, count, plan)
            left, at = left - count, at + 1
        if preemptions == self.preemptions:
            self._admit(plan, left)
        return plan

    def _room(self, sequence):
        return len(sequence.blocks) * self.block_size - sequence.computed

    def _grow(self, sequence, count):
        """Takes the blocks that `count` more tokens need; False if there are not enough."""
        missing = self.blocks_for(sequence.computed + count) - len(sequence.blocks)
        taken = min(missing, len(self.pool.free))
        sequence.blocks += [self.pool.take() for _ in range(taken)]
        return taken == missing

    def _schedule(self, sequence, count, plan):
        """Puts the tokens into the plan; blocks that become full can be shared from now on, since
        in every layer all writes of a step come before its reads."""
        plan.work.append((sequence, count))
        if not self.sharing:
            return
        full = (sequence.computed + count) // self.block_size
        self._name(sequence, full)
        for i in range(sequence.computed // self.block_size, full):
            self.pool.publish(sequence.blocks[i], sequence.keys[i])

    def _name(self, sequence, blocks):
        """Extends sequence.keys to the first `blocks` blocks of its tokens."""
        size = self.block_size
        for i in range(len(sequence.keys), blocks):
            previous = sequence.keys[-1] if sequence.keys else b""
            key = chain_key(previous, sequence.tokens[i * size : (i + 1) * size])
            sequence.keys.append(key)

    def _preempt(self, sequence, plan):
        """Takes all blocks away; their content goes to the host pool if it has room."""
        self.running.remove(sequence)
        self.preemptions += 1
        filled = sequence.blocks[: self.blocks_for(sequence.computed)]
        if len(filled) <= len(self.host.free):
            sequence.host = [self.host.take() for _ in filled]
            plan.out += zip(filled, sequence.host)
            self.copied_out += len(filled)
            self.swapped.append(sequence)
            self.swapped = deque(sorted(self.swapped, key=lambda s: s.index))
        else:
            self.dropped += 1
            sequence.computed = 0
            self.waiting.appendleft(sequence)
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def _admit(self, plan, left):
        """Lets swapped, then waiting sequences run, in order, as long as there is room."""
        while left and len(self.running) < self.concurrency and (self.swapped or self.waiting):
            if self.swapped:
                sequence, entered = self.swapped[0], self._return(self.swapped[0], plan)
            else:
                sequence, entered = self.waiting[0], self._start(self.waiting[0], left)
            if not entered:
                break
            (self.swapped or self.waiting).popleft()
            self.running.append(sequence)
            self.running.sort(key=lambda s: s.index)
            wanted = min(sequence.pending, left)
            self._grow(sequence, wanted)
            count = min(wanted, self._room(sequence))
            self._schedule(sequence, count, plan)
            left -= count

    def _spare(self):
        """Free blocks, less one that each running sequence may need soon."""
        return len(self.pool.free) - len(self.running)

    def _return(self, sequence, plan):
        """Swaps a sequence in; blocks that are still in the cache under their key are shared."""
        if self.blocks_for(sequence.computed + 1) > self._spare():
            return False
        for i, host in enumerate(sequence.host):
            block = self.pool.share(sequence.keys[i]) if i < len(sequence.keys) else None
            if block is None:
                block = self.pool.take()
                plan.back.append((host, block))
                self.copied_back += 1
            sequence.blocks.append(block)
        self.host.release(sequence.host)
        sequence.host = []
        return True

    def _start(self, sequence, left):
        """Takes over the blocks that hold its beginning; at least one token is left to compute."""
        if self.sharing:
            self._name(sequence, (len(sequence.tokens) - 1) // self.block_size)
            for key in sequence.keys[: (len(sequence.tokens) - 1) // self.block_size]:
                block = self.pool.share(key)
                if block is None:
                    break
                sequence.blocks.append(block)
        sequence.computed = len(sequence.blocks) * self.block_size
        count = min(sequence.pending, left)
        missing = self.blocks_for(sequence.computed + count) - len(sequence.blocks)
        if missing > self._spare():
            self.pool.release(sequence.blocks)
            sequence.blocks, sequence.computed = [], 0
            return False
        sequence.shared = min(sequence.computed, sequence.prompt)
        return True
